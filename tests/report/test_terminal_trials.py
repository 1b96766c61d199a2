"""The table of what was tried."""

from __future__ import annotations

import io

from rich.console import Console
from tried import entry

from onnx_ocs.report.terminal_trials import show_trials


def test_the_table() -> None:
    tried = [entry("as it is", 0.0, 1.0, "kept"), entry("steps\x1b[2J", 1.5, 1.0, "chosen")]
    trials = {"fitted": 30, "unseen": 10, "limit": 1.1, "stopped": "branches do not pay", "tried": tried}
    console = Console(file=io.StringIO(), width=120)
    show_trials(console, {"trials": trials})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "judged on 10 samples that no fit has seen" in text and "+1.50 dB" in text and "\x1b[2J" not in text
    assert "No more was tried: branches do not pay." in text


def test_nothing_where_nothing_was_tried() -> None:
    console = Console(file=io.StringIO())
    show_trials(console, {})
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
