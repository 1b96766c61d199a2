"""`plan`: what it asks the planner for, what it needs, what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnx_ocs import api
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.targets.choice import SLACK

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
BASIC = ("plan", DIGITS, "-o", "p.json", "--calib", CALIB)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the planner was asked for; it finds nothing to do."""
    seen: list[tuple[Any, ...]] = []
    predicted = {"extra_macs": 0.0, "mean_copies": 0.0, "regions": 0, "chosen": "nothing to change"}

    def plan(*args: Any) -> tuple[Plan, dict[str, Any]]:
        seen.append(args)
        return Plan("abc", (), predicted), {"chosen": "nothing to change", "candidates": {}, "rolled_back": []}

    monkeypatch.setattr(api, "plan", plan)
    return seen


def test_what_is_asked(run, asked: list[tuple[Any, ...]], tmp_path: Path) -> None:
    code, _, err = run(*BASIC, "--budget", "0.2", "--sweep", "0.05,0.1", "--seed", "3", "--samples", "9")
    assert (code, err) == (0, "")
    (args,) = asked
    assert args[:7] == (DIGITS, str(CALIB), PlanOptions(budget=0.2, pace=SLACK), None, 3, 9, [0.05, 0.1])
    assert json.loads((tmp_path / "p.json").read_text())["model"] == "abc"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (BASIC[:4], "Missing option '--calib'"),
        ((*BASIC[:2], *BASIC[4:]), "Missing option '--out'"),
        ((*BASIC, "--sweep", "much"), "--sweep much: give numbers separated by commas"),
        ((*BASIC, "--sweep", "0.1,-1"), "--sweep 0.1,-1: give numbers separated by commas"),
        ((*BASIC, "--sweep", "nan"), "--sweep nan: give numbers separated by commas"),
        ((*BASIC, "--ratio", "1", "--budget", "1"), "--ratio and --budget both say how much to spend"),
        ((*BASIC, "--select", "mass"), "No such option"),
        ((*BASIC, "--html", "p.json"), "--html p.json is the same file as p.json"),
    ],
)
def test_mistakes(run, asked: list[tuple[Any, ...]], tmp_path: Path, args: tuple[Any, ...], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out, asked) == (1, "", [])
    assert err.startswith(f"Error: {message}") and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
