"""What the command line shows of the verdict in words: a line for each of its parts, one for each piece of advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from onnx_ocs.report.format import decibels, percent, readable, shortened

__all__ = ["show_advice", "worst_line"]

Report = Mapping[str, Any]
NAME = 40  # characters of a tensor's name


def worst_line(entry: Report) -> str:
    """One thing that still hurts, such as "'conv1' 12.30 dB (40.00 % of the loss)"."""
    share = f" ({percent(entry['share'])} of the loss)" if entry["share"] else ""
    kind = "" if entry["kind"] == "tensor" else "layer "
    return f"{kind}'{shortened(entry['name'], NAME)}' {decibels(entry['sqnr_db'])}{share}"


def show_advice(console: Console, report: Report) -> None:
    """Show the verdict, where the report has one.

    Args:
        console: where it goes.
        report: the report.
    """
    v = readable(report.get("verdict"))
    if v is None:
        return
    names = ("found", "outputs") if report["verb"] == "inspect" else ("done", "brought")
    rows = [(names[0], v["done"]), (names[1], "; ".join(v["brought"]))]
    if report["verb"] != "inspect":
        rows += [("costs", v["costs"]), ("budget", v["budget"] or "")]
    rows += [("hurts most", ", ".join(map(worst_line, v["worst"]))), *(("try next", n) for n in v["next"])]
    console.print("Verdict")
    for name, text in rows:
        if text:
            console.print(f"  {name:<11}{text}")
