"""The house rules: what a file and a function may be, who reads whose private names, and where a test lies.

Who may import whom is checked by import-linter (pyproject.toml).
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"onnx_ocs", "passes", "tests", "models", "docs"}
FILES = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml"}
LONGEST_FUNCTION = 60  # lines: a screen
LONGEST_FILE = 350
EXCUSE = "# long: "  # followed by the reason, in a function's signature or above a file's first import
SOURCES = sorted(
    p
    for folder in ("onnx_ocs", "passes", "models")
    for p in (ROOT / folder).rglob("*.py")
    if not p.relative_to(ROOT).is_relative_to("onnx_ocs/passes")  # a link to passes/
)
PRODUCT = [p for p in SOURCES if not p.relative_to(ROOT).is_relative_to("models")]
Finding = Iterator[str]
parsed = cache(ast.parse)


def long_functions(text: str) -> Finding:
    """Functions that fill more than a screen and do not say why."""
    lines = text.splitlines()
    for f in ast.walk(parsed(text)):
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef):
            assert f.end_lineno is not None
            length = f.end_lineno - f.lineno + 1
            signature = lines[f.lineno - 1 : f.body[0].lineno]
            if length > LONGEST_FUNCTION and not excused(signature):
                yield f"{f.name} has {length} lines"


def excused(lines: list[str]) -> bool:
    return any(line.partition(EXCUSE)[2].strip() for line in lines)


def long_file(text: str) -> Finding:
    """A file of too many lines that does not say why."""
    lines = text.splitlines()
    body = parsed(text).body
    top = next((s.lineno for s in body if isinstance(s, ast.Import | ast.ImportFrom)), len(lines))
    if len(lines) > LONGEST_FILE and not excused(lines[:top]):
        yield f"{len(lines)} lines"


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(text: str) -> Finding:
    """Private names of other modules: imported, or read from an imported module."""
    tree = parsed(text)
    modules = set()
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and (n.module or "").split(".")[0] in ("onnx_ocs", "models"):
            yield from (f"imports {a.name} of {n.module}" for a in n.names if private(a.name))
            modules |= {a.asname or a.name for a in n.names if a.name.islower()}
    for n in ast.walk(tree):
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in modules and private(n.attr):
            yield f"reads {n.value.id}.{n.attr}"


def docstring_and_all(text: str) -> Finding:
    """A module says what it is, and what of it is public."""
    tree = parsed(text)
    if not ast.get_docstring(tree):
        yield "no docstring"
    functions = [s.name for s in tree.body if isinstance(s, ast.FunctionDef | ast.ClassDef)]
    public = [n for n in functions if not n.startswith("_")]
    exported: list[str] | None = None
    for s in tree.body:
        if isinstance(s, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in s.targets):
            exported = ast.literal_eval(s.value)
    if exported is None and public:
        yield f"no __all__, but {', '.join(public)}"
    yield from (f"__all__ lists the private {n}" for n in exported or () if private(n))


def findings(rule: Callable[[str], Finding], sources: list[Path]) -> str:
    return "\n".join(f"{p.relative_to(ROOT)}: {found}" for p in sources for found in rule(p.read_text()))


@pytest.mark.parametrize("rule", [long_functions, long_file, private_names])
def test_rules_of_all_code(rule: Callable[[str], Finding]) -> None:
    assert not (found := findings(rule, SOURCES)), found


def test_every_module_of_the_product_says_what_it_is_and_what_is_public() -> None:
    assert not (found := findings(docstring_and_all, PRODUCT)), found


def mirror(module: Path) -> Path:
    """Where a module's tests lie: tests/a/test_b.py for onnx_ocs/a/b.py."""
    inside = module.relative_to(ROOT)
    folder = inside.parent.relative_to("onnx_ocs") if inside.parts[0] == "onnx_ocs" else inside.parent
    return ROOT / "tests" / folder / f"test_{inside.name}"


def test_every_module_has_its_test_file() -> None:
    modules = [p for p in PRODUCT if not p.stem.startswith("__")]
    assert len(modules) > 80  # the folders were found
    missing = [str(mirror(p).relative_to(ROOT)) for p in modules if not mirror(p).exists()]
    assert not missing, "\n".join(missing)


def test_nothing_else_lies_at_the_top() -> None:
    """Other tools leave files where they are started, and a commit of everything takes them along."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {line.split("/")[0] for line in listed.splitlines()}
    assert {name for name in found if not name.startswith(".")} == FOLDERS | FILES


# ---- the rules themselves -------------------------------------------------------------------------------------------


def test_a_long_function_is_found_unless_it_says_why() -> None:
    body = "    x = 1\n" * LONGEST_FUNCTION
    assert list(long_functions("def f():\n" + body)) == [f"f has {LONGEST_FUNCTION + 1} lines"]
    assert list(long_functions("def f():\n" + body[: -len("    x = 1\n")])) == []
    assert list(long_functions("def f():  # long: a table\n" + body)) == []
    assert list(long_functions("def f():  # long: \n" + body)) != []


def test_a_long_file_is_found_unless_it_says_why() -> None:
    rest = "import os\n" + "x = 1\n" * (LONGEST_FILE - 1)
    assert list(long_file('"""Doc."""\n' + rest)) == [f"{LONGEST_FILE + 1} lines"]
    assert list(long_file(rest)) == []
    assert list(long_file('"""Doc."""\n# long: a table\n' + rest)) == []
    assert list(long_file('"""Doc."""\n' + rest + "# long: too late to say\n")) != []


def test_private_names_are_found() -> None:
    assert list(private_names("from onnx_ocs.model.graph import Graph, _x")) == ["imports _x of onnx_ocs.model.graph"]
    assert list(private_names("from onnx_ocs.model import graph as g\ng._x()")) == ["reads g._x"]
    assert list(private_names("from onnx_ocs.model import graph\ngraph.x\nself._x\ngraph.__all__")) == []


def test_missing_docstring_and_all_are_found() -> None:
    assert list(docstring_and_all("def f(): ...")) == ["no docstring", "no __all__, but f"]
    assert list(docstring_and_all('"""Doc."""\n__all__ = ["_g"]\ndef f(): ...')) == ["__all__ lists the private _g"]
    assert list(docstring_and_all('"""Doc."""\ndef _f(): ...')) == []
