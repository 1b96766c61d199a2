"""The tree of folders in docs/architecture.md.

python tests/support/package_tree.py

writes it between its two markers.  Each package has a line with the first sentence of its docstring, and one with the
names of its modules.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->"
WIDTH = 130


def _sentence(module: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    doc = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(doc.split("\n\n")[0].split()).replace("onnx_ocs: a ", "A ", 1)


def _package(folder: Path, depth: int) -> list[str]:
    """The lines of a package, those of its packages behind its own modules."""
    indent = "    " * depth
    modules = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("__"))
    lines = [f"{indent}{folder.name + '/':<{28 - len(indent)}}{_sentence(folder / '__init__.py')}"]
    inside = indent + "    "
    lines += textwrap.wrap(" ".join(modules), WIDTH, initial_indent=inside, subsequent_indent=inside)
    for child in sorted(p.parent for p in folder.glob("*/__init__.py")):
        lines += _package(child, depth + 1)
    return lines


def tree() -> str:
    """The block, fences included."""
    lines = [*_package(ROOT / "onnx_ocs", 0), "", *_package(ROOT / "models", 0)]
    return "\n".join(["```text", *lines, "```"]) + "\n"


def shown() -> str:
    """What the page shows."""
    found = re.search(re.escape(BEGIN) + "(.*?)" + re.escape(END), PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None, f"{PAGE.name} has lost its markers"
    return found.group(1)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(BEGIN + shown() + END, BEGIN + tree() + END), encoding="utf-8")
