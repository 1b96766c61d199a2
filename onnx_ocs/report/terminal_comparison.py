"""What the command line shows of two reports side by side."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_ocs.report.comparison import Comparison, Section
from onnx_ocs.report.format import readable, shortened

__all__ = ["show_comparison"]

SHOWN = 20  # rows of a table; the page has all
STYLES = {"good": "green", "bad": "red", "": ""}


def show_comparison(console: Console, found: Comparison) -> None:
    """Both reports by name, the tables, what to be careful about, and the summary as the last line."""
    for letter, side in zip("AB", found.sides, strict=True):
        about = f" ({side.title})" if side.title != side.file else ""
        console.print(Text(readable(f"{letter}: {side.file}{about}: {side.verb}, {side.verdict}")))
    for section in found.sections:
        _show(console, section)
    for note in found.notes:
        console.print(Text(f"Note: {readable(note)}."))
    console.print(Text(readable(found.summary), style="bold"), soft_wrap=True)


def _show(console: Console, section: Section) -> None:
    table = Table(title=section.title, title_justify="left")
    for k, name in enumerate(section.columns):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    for row in section.rows[:SHOWN]:
        first = Text(shortened(readable(row[0].text), max(24, console.width // 3)))
        table.add_row(first, *(Text(readable(c.text), style=STYLES[c.tone]) for c in row[1:]))
    console.print(table)
    if (more := len(section.rows) - SHOWN) > 0:
        console.print(f"… and {more} more: --html has them all")
