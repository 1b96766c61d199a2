"""README and docs: blocks run as they stand and print what is shown, links hold, generated parts are up to date.

A fenced block is run, unless the comment in front of it says what it needs (`<!-- not run: needs ... -->`).  With
`<!-- file: NAME -->` it is written to that file instead, for the blocks behind it.  With `<!-- where: MODULE -->` it is
run where these modules are installed.  All blocks of a page run in one
folder, where `models` is the repository's.  A `text` block behind a run block shows lines of its output.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from package_tree import shown, tree
from warm import run_python

import onnx_ocs
from onnx_ocs.passes import PASSES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "models" / "README.md", *sorted(DOCS.glob("*.md"))]
GENERATED = ("options.md", "refusals.md", "report.schema.json")
KINDS = {"sh", "python", "text", "toml", "json", "mermaid"}
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
SECONDS = re.compile(r"(?:(?<=\bin )|(?<=\btook ))[\d.]+(?= ?s\b)")


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comment in front of it."""

    kind: str
    text: str
    line: int
    marker: str = ""  # "not run", "file" or "where"
    said: str = ""

    @property
    def runs(self) -> bool:
        there = self.marker == "where" and all(find_spec(m) for m in self.said.split(", "))
        return self.kind in ("sh", "python") and (not self.marker or there)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, inside, start, kind = list[Block](), list[str](), 0, ""
    marker, said = "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"```(\w*)$", line)
        comment = re.match(r"<!-- (not run|file|where): (.+) -->$", line)
        if start and line == "```":
            found.append(Block(kind, "\n".join(inside) + "\n", start, marker, said))
            inside, start, marker, said = [], 0, "", ""
        elif start:
            inside.append(line)
        elif fence:
            start, kind = number, fence.group(1)
        elif comment:
            marker, said = comment.groups()
        elif line:
            marker, said = "", ""
    assert not start, f"{page.name}:{start}: this block has no end"
    return found


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def needs_what_is_there(page: Path) -> None:
    """A page of a pass that is not there yet cannot be tried."""
    if page.stem == "reconstruction" and "reconstruct" not in PASSES:
        pytest.skip("the pass reconstruct is not there")


# ---- blocks ---------------------------------------------------------------------------------------------------------


def run(args: list[str], folder: Path) -> str:
    """What a command prints; `python` is this one, and imports the same onnx_ocs."""
    paths = [str(Path(onnx_ocs.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "COLUMNS": "160", "PYTHONPATH": os.pathsep.join(p for p in paths if Path(p).is_absolute())}
    env.pop("PYTEST_ADDOPTS", None)
    done = run_python(args, folder, env)
    assert done.returncode == 0, f"{shlex.join(args)}\n{done.stdout}{done.stderr}"
    return done.stdout


def commands(block: Block) -> list[list[str]]:
    """The argument lists behind `python` of a block."""
    if block.kind == "python":
        return [["-c", block.text]]
    lines = [shlex.split(line, comments=True) for line in block.text.splitlines()]
    assert all(args[0] == "python" for args in lines if args), f"line {block.line}: only python is run; mark the others"
    return [args[1:] for args in lines if args]


def words(line: str) -> tuple[list[str], list[float]]:
    """A line's words with numbers left out, and the numbers; times are no figures."""
    line = SECONDS.sub("T", line)
    if "latency" in line:
        line = NUMBER.sub("T", line)
    numbers = [float(n.replace(",", "")) for n in NUMBER.findall(line)]
    return NUMBER.sub("#", line).split(), numbers


def prints(output: str, line: str) -> bool:
    """Whether a shown line is in the output: the same words, and figures that agree within a tenth."""
    wanted, figures = words(line.removesuffix("..."))
    for got in output.splitlines():
        there, numbers = words(got)
        if there == wanted or (line.endswith("...") and there[: len(wanted)] == wanted):
            pairs = zip(figures, numbers, strict=line[-3:] != "...")
            if all(abs(a - b) <= 0.1 * abs(a) + 0.05 for a, b in pairs):
                return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    needs_what_is_there(page)
    (tmp_path / "models").symlink_to(ROOT / "models")
    found, ran = blocks(page), 0
    output = ""
    for block in found:
        if block.marker == "file":
            (tmp_path / block.said).write_text(block.text, encoding="utf-8")
        elif block.runs:
            output = "".join(run(args, tmp_path) for args in commands(block))
            ran += 1
        elif block.kind == "text" and output:
            lines = [line for line in block.text.splitlines() if line.strip() not in ("", "...")]
            missing = [line for line in lines if not prints(output, line)]
            why = f"line {block.line} shows what is not printed:"
            assert not missing, "\n".join([why, *missing, "printed:", output])
            output = ""
        else:
            output = ""
    assert ran == sum(b.runs for b in found)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["-c", "print(undefined)"], "NameError"),
        (["-c", "import sys; print(__name__); sys.exit('enough')"], "enough"),
        (["-m", "onnx_ocs", "verify", "none.onnx", "none.onnx"], "Error: none.onnx"),
        (["nothing.py"], "nothing.py"),
    ],
)
def test_what_fails_is_seen(args: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(told)):
        run(args, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert block.kind in KINDS, f"{where}: a block of no known kind"
        assert not block.marker or block.kind in ("sh", "python"), f"{where}: a marker in front of what never runs"
        assert block.marker != "not run" or re.match("needs |takes |this is ", block.said), f"{where}: why not run?"
    assert not re.search(r"^ {4}(python|pip|onnx-ocs) ", page.read_text(encoding="utf-8"), re.M), "commands are fenced"


def test_that_blocks_are_run() -> None:
    """The markers have not eaten the pages."""
    found = [b for page in PAGES for b in blocks(page)]
    assert sum(b.runs for b in blocks(README)) >= 4
    assert sum(b.runs for b in found) >= 18


@pytest.mark.parametrize(
    ("line", "output", "holds"),
    [
        ("MACs 1,430,848 +19.4 %", "bytes 5\nMACs 1,430,848 +19.4 %", True),
        ("MACs 1,430,848 +19.4 %", "MACs 1,403,000 +17.9 %", True),
        ("MACs 1,430,848 +19.4 %", "MACs 1,198,400 +0.0 %", False),
        ("PASSED: 8 equal; the run took 7.0 s", "PASSED: 8 equal; the run took 35.1 s", True),
        ("PASSED: 8 equal; the run took 7.0 s", "FAILED: 8 equal; the run took 7.0 s", False),
        ("PASSED: 8 equal; the run took 7.0 s", "PASSED: 5 equal; the run took 7.0 s", False),
        ("no_outliers: ...", "no_outliers: no channel has any", True),
        ("no_outliers: ...", "ratio: none", False),
    ],
)
def test_prints(line: str, output: str, holds: bool) -> None:
    assert prints(output, line) is holds


# ---- links ----------------------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """A page without its blocks and inline code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower()).strip()
        assert not re.search(r"\s\s|-\s|\s-", plain), f"{page.name}: GitHub and mkdocs make two anchors of '{heading}'"
        found.add(re.sub(r"\s", "-", plain))
    return found


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        generated = target.parent == DOCS and target.name in GENERATED
        assert target.exists() or generated, f"{page.name}: {link} leads nowhere"
        assert page.parent != DOCS or target.parent == DOCS, f"{page.name}: {link} is not on the site"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"


def test_every_page_is_on_the_site() -> None:
    nav = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(nav) == sorted({p.name for p in DOCS.glob("*.md")} | {n for n in GENERATED if n.endswith(".md")})


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_tree() -> None:
    assert shown() == tree(), "python tests/support/package_tree.py"


@pytest.mark.parametrize("name", GENERATED)
def test_generated(name: str) -> None:
    """A generated page names the command that makes it: `python -m MODULE > docs/NAME`."""
    page = (DOCS / name).read_text(encoding="utf-8")
    command = re.search(rf"python (-m [\w. -]+) > docs/{re.escape(name)}", page)
    assert command is not None, "who generates this page?"
    assert run(command.group(1).split(), ROOT) == page, command.group()


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options: of the verbs, and of the scripts that the pages name."""
    verbs = "".join(run(["-m", "onnx_ocs", v, "--help"], ROOT) for v in ("inspect", "rewrite", "plan", "verify"))
    known = set(re.findall(r"--[a-z][a-z-]+", verbs))
    scripts = [*ROOT.glob("tests/*/*.py"), *ROOT.glob("models/**/*.py")]
    source = "".join(p.read_text(encoding="utf-8") for p in scripts if p != Path(__file__))
    others = {"--help", "--install-completion", "--strict", "--no-deps"}
    return known | set(re.findall(r'"(--[a-z][a-z-]+)"', source)) | others


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_options_exist(page: Path, options: set[str]) -> None:
    needs_what_is_there(page)
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.S)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= options, named - options
