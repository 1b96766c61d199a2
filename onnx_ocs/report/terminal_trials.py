"""What the command line shows of what `--passes auto` has tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_ocs.report.format import counted, readable
from onnx_ocs.report.trials import trial_rows

__all__ = ["show_trials"]

STYLES = {"chosen": "bold", "left": "dim"}


def show_trials(console: Console, report: Mapping[str, Any]) -> None:
    """The candidates in order, the chosen one bold; nothing where nothing was tried."""
    if "trials" not in report:
        return
    trials = readable(report["trials"])
    unseen = counted(trials["unseen"], "sample")
    table = Table(title=f"Tried, judged on {unseen} that no fit has seen", title_justify="left")
    columns, rows = trial_rows(trials)
    for k, name in enumerate(columns):
        table.add_column(name, justify="left" if k in (0, len(columns) - 1) else "right", overflow="fold")
    for cells, status in rows:
        table.add_row(*map(Text, cells), style=STYLES.get(status))
    console.print(table)
    console.print(f"No more was tried: {trials['stopped']}.")
