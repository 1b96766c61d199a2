"""What the command line shows of plans: those that were compared, and those on the way to a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from onnx_ocs.report.format import decibels, percent, readable

__all__ = ["show_plan", "show_target"]

Report = Mapping[str, Any]


def show_plan(console: Console, predicted: Report, found: Report) -> None:
    """The plans that were compared, the chosen one, and the sweep."""
    predicted, found = readable(predicted), readable(found)
    if not found["candidates"]:
        console.print("Nothing to change: no quantized activation that a layer reads can be widened or rescaled.")
        return
    table = Table(title=f"Plans, by {found['objective']} on held-out samples", title_justify="left")
    metric = "metric_before" in predicted  # says more than the objective that it goes into
    for name in ("plan", "extra MACs", "copies a channel", "metric" if metric else "objective", "SQNR"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    before = predicted["metric_before"] if metric else found["before"][0]
    table.add_row("as it is", "0.0 %", "0.00", f"{before:.4g}", decibels(found["before"][1]))
    for name, c in found["candidates"].items():
        row = (
            f"{100 * c['extra_macs']:.1f} %",
            f"{c['mean_copies']:.2f}",
            f"{c['metric' if metric else 'objective']:.4g}",
            decibels(c["sqnr_db"]),
        )
        table.add_row(name, *row)
    p = predicted
    row = (
        f"{100 * p['extra_macs']:.1f} %",
        f"{p['mean_copies']:.2f}",
        f"{p['metric_after' if metric else 'objective_after']:.4g}",
        decibels(p["sqnr_after_db"]),
    )
    table.add_row(f"written: {p['chosen']}", *row, style="bold")
    console.print(table)
    if not p["regions"]:
        console.print("Nothing to change: no plan is better on the held-out samples than the model as it is.")
    if found.get("kernels", {}).get("kept"):
        console.print(f"Copies were left out: {found['kernels']['why']}.")
    if found["rolled_back"]:
        console.print(f"Rolled back, since the samples are better off without: {', '.join(found['rolled_back'])}.")
    if found.get("sweep"):
        table = Table(title="Gain against extra MACs", title_justify="left")
        for name in ("budget", "extra MACs", "objective", "SQNR", "plan"):
            table.add_column(name, justify="left" if name == "plan" else "right")
        for s in found["sweep"]:
            share, spent = f"{100 * s['budget']:.1f} %", f"{100 * s['extra_macs']:.1f} %"
            table.add_row(share, spent, f"{s['objective']:.4g}", decibels(s["sqnr_db"]), s["chosen"])
        console.print(table)


def show_target(console: Console, target: Report) -> None:
    """The plans that were measured on the way to a target."""
    target = readable(target)
    kind = target["kind"]

    def value(v: float | None) -> str:
        return decibels(v) if kind == "sqnr" else percent(v) if kind == "agreement" else f"{v:.6g}"

    what = {"sqnr": "output SQNR", "agreement": "same answer as the reference", "metric": "your metric"}[kind]
    table = Table(title=f"The cheapest plan with {what} ≥ {value(target['wanted'])}", title_justify="left")
    for name in ("allowed", "extra MACs", "copies a channel", what, "plan"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for p in target["probes"]:
        row = f"{p['allowed']:.3f}", f"{100 * p['extra_macs']:.1f} %", f"{p['mean_copies']:.2f}", value(p["got"])
        table.add_row(*row, p["plan"], style="bold" if p["chosen"] else None)
    if target["probes"]:
        console.print(table)
