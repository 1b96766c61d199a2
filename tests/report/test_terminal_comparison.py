"""The tables of two reports side by side on the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from onnx_ocs.report.comparison import Cell, Comparison, Section, Side
from onnx_ocs.report.terminal_comparison import SHOWN, show_comparison

SIDES = (Side("a.json", "in.onnx → a.onnx", "rewrite", "PASSED"), Side("b.json", "b.json", "inspect", "not verified"))


def shown(sections: tuple[Section, ...], notes: tuple[str, ...] = (), **options: bool) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=100, highlight=False, markup=False, **options)  # type: ignore[arg-type]
    show_comparison(console, Comparison(SIDES, sections, notes, "B against A: better"))
    return out.getvalue().splitlines()


def test_names_tables_notes_and_the_summary_last() -> None:
    table = Section("Outputs", ("output", "A"), ((Cell("logits"), Cell("+1 dB", "good")),))
    lines = shown((table,), ("be careful",))
    assert lines[:2] == ["A: a.json (in.onnx → a.onnx): rewrite, PASSED", "B: b.json: inspect, not verified"]
    assert lines[2].strip() == "Outputs" and "│ logits │ +1 dB │" in lines
    assert lines[-2:] == ["Note: be careful.", "B against A: better"]
    assert any("\x1b[32m" in line for line in shown((table,), force_terminal=True))


def test_long_tables_are_cut_and_names_are_no_markup() -> None:
    rows = tuple((Cell(f"[red]{'x' * 200}\x1b{k}"), Cell("")) for k in range(SHOWN + 3))
    lines = shown((Section("Tensors", ("tensor", "A"), rows),))
    assert sum("│ …" in line for line in lines) == SHOWN and max(map(len, lines)) <= 100
    assert "… and 3 more: --html has them all" in lines and not any("\x1b" in line for line in lines)
