"""The verdict on the terminal: a line for each part."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from onnx_ocs.report.terminal_verdict import show_advice, worst_line

VERDICT: dict[str, Any] = {
    "done": "3 other steps", "brought": ["'y' 1.00 dB → 2.00 dB", "'z' 3.00 dB"], "costs": "no more bytes",
    "budget": None, "next": ["one thing", "another"],
    "worst": [{"kind": "layer", "name": "n" * 60, "sqnr_db": 3.0, "share": None}],
}  # fmt: skip


def shown(**report: Any) -> list[str]:
    out = io.StringIO()
    show_advice(Console(file=out, width=200, highlight=False, markup=False), report)
    return out.getvalue().splitlines()


def test_lines() -> None:
    lines = shown(verb="rewrite", verdict=VERDICT)
    assert [x[2:13].strip() for x in lines[1:]] == ["done", "brought", "costs", "hurts most", "try next", "try next"]
    assert lines[2].endswith("'y' 1.00 dB → 2.00 dB; 'z' 3.00 dB")
    assert shown(verb="inspect", verdict=VERDICT)[1].startswith("  found") and shown(verb="verify") == []


def test_one_thing_that_hurts() -> None:
    tensor = {"kind": "tensor", "name": "conv1", "sqnr_db": 12.3, "share": 0.4}
    assert worst_line(tensor) == "'conv1' 12.30 dB (40.00 % of the loss)"
    assert worst_line(VERDICT["worst"][0]).startswith("layer '…nnn") and "loss" not in worst_line(VERDICT["worst"][0])
