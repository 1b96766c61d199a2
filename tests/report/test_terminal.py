"""What stands on the terminal: tables that fit, colour only where it is seen, help that starts with examples."""

from __future__ import annotations

import copy
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from warm import QUICK

from onnx_ocs import api
from onnx_ocs.passes import DEFAULT
from onnx_ocs.report import terminal as table

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
VERBS = ("inspect", "rewrite", "plan", "verify", "report", "compare")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return api.rewrite(DIGITS, calib=str(CALIB), passes=[p() for p in DEFAULT], limit=64).report


def shown(report: dict[str, Any], width: int, **options: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, **options)
    table.show_rewrite(console, report)
    return out.getvalue()


def columns(text: str) -> list[str]:
    """Titles of the first table."""
    return [c.strip() for c in text.splitlines()[2].strip("┃").split("┃")]


@pytest.mark.parametrize("width", [50, 80, 100, 120, 160, 300])
def test_fits(report, width):
    text = shown(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert {"tensor", "mode", "copies"} <= set(columns(text))


def test_columns_go_least_important_first(report):
    most = columns(shown(report, 160))
    assert {"X_clip", "step", "mass saved", "own SQNR, dB", "accumulated, dB"} <= set(most)
    assert "accumulated, dB" in columns(shown(report, 80))
    assert "mass saved" not in columns(shown(report, 80))
    for width in range(60, 160, 5):
        narrow = columns(shown(report, width))
        assert [c for c in columns(shown(report, width + 5)) if c in narrow] == narrow


def test_colour_on_terminals_only(report):
    assert "\x1b[" not in shown(report, 120)
    text = shown(report, 120, force_terminal=True, color_system="standard")
    assert "\x1b[32m" in text


def test_names_are_no_markup(report):
    strange = copy.deepcopy(report)
    for r in strange["regions"]:
        r["tensor"] = "[/red]" + r["tensor"][-8:]
    assert "[/red]" in shown(strange, 160)


def test_compensations(report):
    entry = {"block": "/b1/out", "input": "a", "output": "b", "alpha": 0.5, "beta": None, "rank": 8}
    levels = {"sqnr_before_db": 5.0, "sqnr_after_db": 7.1}
    reason = {"code": "no_gain", "message": "m", "node": "n"}
    both = [
        {**entry, **levels, "status": "applied", "reason": None},
        {**entry, **levels, "status": "refused", "reason": reason},
    ]
    text = shown({**report, "compensations": both}, 120)
    assert "Compensated" in text
    assert "5.0 → 7.1" in text
    assert "Not compensated: 1 no_gain" in text


def test_many_regions(report):
    """A table that nobody would read is cut, and says so."""
    applied = [r for r in report["regions"] if r["status"] == "applied"]
    many = {**report, "regions": applied * 20, "reconstructions": []}
    text = shown(many, 120)
    assert len(text.splitlines()) < 90 < len(many["regions"])
    assert f"… and {len(many['regions']) - table.SHOWN} more" in text


def test_a_reason_is_explained_once(report):
    """What forty tensors have in common is said at the first of them."""
    r = {**report["regions"][0], "mode": None, "status": "refused"}
    r["reason"] = {"code": "folded_bound", "message": "a long explanation", "node": "n"}
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False, markup=False)
    table.show_inspection(console, {**report, "regions": [{**r, "tensor": f"t{k}"} for k in range(40)]})
    assert out.getvalue().count("a long explanation") == 1
    assert "Left alone: 40 folded_bound" in out.getvalue()


# ---- the process ----------------------------------------------------------------------------------------------------


def command(*args: object, start: Sequence[str] = (sys.executable, "-m", "onnx_ocs"), **env: str) -> str:
    done = subprocess.run([*start, *map(str, args)], cwd=ROOT, capture_output=True, env={**os.environ, **env})
    told = re.sub(rb"(?m)^.*, \d+:\d\d:\d\d\n", b"", done.stderr)  # on a busy machine it takes ten seconds: progress
    assert (done.returncode, told) == (0, b""), done.stderr
    return done.stdout.decode()


def test_pipe_that_takes_ascii_only(tmp_path):
    out = command("rewrite", DIGITS, tmp_path / "o.onnx", start=QUICK, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert out.isascii()
    assert "\x1b" not in out
    assert out.splitlines()[-1].startswith("PASSED")


@pytest.mark.parametrize("verb", VERBS)
def test_help_starts_with_examples(verb, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert 0 < out.index(f"onnx-ocs {verb} ", out.index("Usage") + 30) < out.index("Arguments")
    if verb not in ("report", "compare"):  # which read no model
        assert "default:" in out
        assert "Data" in out


def test_help_does_not_wait_for_the_compiler():
    code = (
        "import sys; sys.argv = ['onnx_ocs', '--help']\n"
        "from onnx_ocs import cli\n"
        "try: cli.main()\n"
        "finally: print([m for m in ('onnx', 'onnxruntime', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_completion():
    words = {"_ONNX_OCS_COMPLETE": "complete_bash", "COMP_WORDS": "onnx-ocs rew", "COMP_CWORD": "1"}
    assert command(**words).split() == ["rewrite"]
    words |= {"COMP_WORDS": "onnx-ocs rewrite --mode ", "COMP_CWORD": "3"}
    assert set(command(**words).split()) == {"auto", "early", "late", "integer"}
    assert "onnx-ocs" in command(_ONNX_OCS_COMPLETE="source_bash")
