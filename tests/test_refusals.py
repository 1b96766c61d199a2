"""The catalogue holds every code that the program can give, and the documentation's page is made from it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from onnx_ocs.compensation.entries import FEWEST
from onnx_ocs.refusals import CATALOGUE, Refusal, page

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted({p.resolve() for d in ("onnx_ocs", "passes") for p in (ROOT / d).rglob("*.py")})
NAMES = ("Refusal", "Refusal.of", "no")  # what makes refusals: their first argument is a code


def words(node: ast.AST) -> Iterator[str]:
    """The strings that an expression may be: a constant, or either side of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    for side in (node.body, node.orelse) if isinstance(node, ast.IfExp) else ():
        yield from words(side)


@cache
def trees() -> dict[Path, ast.Module]:
    """All modules, read once."""
    return {p: ast.parse(p.read_text(encoding="utf-8")) for p in FILES}


def given(tree: ast.AST) -> Iterator[str]:
    """Codes that a module gives: to refusals, as `code = ...`, as `x.why = ...`, and as an entry's "code"."""
    for n in ast.walk(tree):
        if isinstance(n, ast.Call) and n.args and ast.unparse(n.func) in NAMES:
            yield from words(n.args[0])
        elif isinstance(n, ast.Dict):
            for k, v in zip(n.keys, n.values, strict=True):
                if isinstance(k, ast.Constant) and k.value == "code":
                    yield from words(v)
        elif isinstance(n, ast.Assign):
            pairs = [(t, n.value) for t in n.targets]
            for target, value in pairs:
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs += zip(target.elts, value.elts, strict=False)  # one of them may be starred
                elif ast.unparse(target) == "code" or (isinstance(target, ast.Attribute) and target.attr == "why"):
                    yield from words(value.elts[0] if isinstance(value, ast.Tuple) else value)  # with its sentence


def test_every_code_is_in_the_catalogue() -> None:
    found = {code: p.name for p, tree in trees().items() for code in given(tree)}
    assert len(found) > 30
    assert not {code: name for code, name in found.items() if code not in CATALOGUE}


def test_every_entry_of_the_catalogue_is_used() -> None:
    others = [t for p, t in trees().items() if p.name != "refusals.py"]
    strings = {n.value for t in others for n in ast.walk(t) if isinstance(n, ast.Constant)}
    assert not CATALOGUE.keys() - strings


def test_a_code_outside_the_catalogue_is_a_defect() -> None:
    with pytest.raises(KeyError, match="no_such_code"):
        Refusal("no_such_code", "", "")


def test_the_words_hold() -> None:
    assert f"fewer than {FEWEST} " in CATALOGUE["few_samples"].why
    for code, m in CATALOGUE.items():
        assert code.startswith("early_") == (m.kind == "early")
        assert not m.why.endswith(".") and "|" not in m.why + m.mend


def test_the_page_is_generated() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnx_ocs.refusals"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == page() == (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
    assert not done.stderr
