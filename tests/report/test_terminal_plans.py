"""The tables of plans on the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from onnx_ocs.report.terminal_plans import show_plan, show_target

PREDICTED: dict[str, Any] = {
    "extra_macs": 0.034, "mean_copies": 0.5, "objective_after": 0.125, "sqnr_after_db": 21.5, "chosen": "mass",
    "regions": [{}],
}  # fmt: skip
CANDIDATES = {
    "mass": {"extra_macs": 0.034, "mean_copies": 0.5, "objective": 0.125, "sqnr_db": 21.5},
    "steps": {"extra_macs": 0.0, "mean_copies": 0.0, "objective": 0.25, "sqnr_db": None},
}
FOUND: dict[str, Any] = {
    "objective": "error", "before": [0.5, 12.25], "candidates": CANDIDATES, "rolled_back": [], "sweep": [],
}  # fmt: skip


def plain(show: Any, *arguments: Any) -> str:
    out = io.StringIO()
    show(Console(file=out, width=140, highlight=False, markup=False), *arguments)
    return out.getvalue()


def row(text: str, name: str) -> list[str]:
    """The cells of the row that begins so."""
    line = next(t for t in text.splitlines() if t.strip("│ ").startswith(name))
    return [c.strip() for c in line.strip("│").split("│")]


def test_the_plans_that_were_compared() -> None:
    text = plain(show_plan, PREDICTED, FOUND)
    assert "Plans, by error on held-out samples" in text
    assert row(text, "as it is") == ["as it is", "0.0 %", "0.00", "0.5", "12.25 dB"]
    assert row(text, "mass") == ["mass", "3.4 %", "0.50", "0.125", "21.50 dB"]
    assert row(text, "steps")[-2:] == ["0.25", "identical"]
    assert row(text, "written: mass")[1:] == ["3.4 %", "0.50", "0.125", "21.50 dB"]
    assert "Nothing to change" not in text and "Rolled back" not in text and "Gain against" not in text


def test_nothing_to_choose_from_or_nothing_better() -> None:
    text = plain(show_plan, PREDICTED, {**FOUND, "candidates": {}})
    assert text.startswith("Nothing to change") and "│" not in text
    text = plain(show_plan, {**PREDICTED, "regions": []}, FOUND)
    assert "no plan is better" in text


def test_what_was_taken_back_and_left_out_is_said() -> None:
    found = {**FOUND, "rolled_back": ["a", "b"], "kernels": {"kept": True, "why": "they cost a kernel"}}
    text = plain(show_plan, PREDICTED, found)
    assert "without: a, b." in text and "Copies were left out: they cost a kernel." in text


def test_the_sweep() -> None:
    sweep = [{"budget": 0.05, "extra_macs": 0.048, "objective": 0.1, "sqnr_db": 22.0, "chosen": "steps"}]
    text = plain(show_plan, PREDICTED, {**FOUND, "sweep": sweep})
    assert row(text, "5.0 %") == ["5.0 %", "4.8 %", "0.1", "22.00 dB", "steps"]


@pytest.mark.parametrize(
    ("kind", "wanted", "got", "title"),
    [("sqnr", 20.0, "21.50 dB", "output SQNR ≥ 20.00 dB"), ("agreement", 0.9, "95.00 %", "reference ≥ 90.00 %")],
)
def test_the_way_to_a_target(kind: str, wanted: float, got: str, title: str) -> None:
    value = 21.5 if kind == "sqnr" else 0.95
    probe = {"allowed": 0.05, "extra_macs": 0.04, "mean_copies": 0.3, "got": value, "plan": "mass", "chosen": True}
    text = plain(show_target, {"kind": kind, "wanted": wanted, "probes": [probe]})
    assert title in text and row(text, "0.050") == ["0.050", "4.0 %", "0.30", got, "mass"]
    assert plain(show_target, {"kind": kind, "wanted": wanted, "probes": []}) == ""
