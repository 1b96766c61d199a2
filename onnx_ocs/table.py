"""What the command line shows: one table of regions, one of totals, one last line."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["show_inspection", "show_plan", "show_rewrite", "show_target", "verdict"]

Report = dict[str, Any]
NOTABLE = 0.01  # share of the loss from which a tensor is listed


def _number(value: Any) -> str:
    """A scale or X_clip: one number, or the range of a per-channel one."""
    if value is None:
        return ""
    if isinstance(value, list):
        flat = [float(v) for v in value]
        return f"{min(flat):.4g}..{max(flat):.4g}"
    return f"{value:.4g}"


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _decibels(value: float | None) -> str:
    return "identical" if value is None or value == float("inf") else f"{value:.2f} dB"


def _copies(region: Report) -> str:
    up, low = sum(region["copies"]), sum(region["copies_low"])
    return f"{up} + {low} low" if low else str(up)


def show_inspection(console: Console, report: Report) -> None:
    """The table of quantized activations."""
    table = Table(title="Quantized activations", title_justify="left")
    table.add_column("tensor", overflow="fold")
    table.add_column("producer → activation → readers", overflow="fold")
    table.add_column("range", justify="right")
    table.add_column("X_clip", justify="right")
    measured = any(r.get("share_clipped") is not None for r in report["regions"])
    if measured:
        table.add_column("mass above", justify="right")
        table.add_column("range used", justify="right")
    alone = any("sqnr_alone_db" in r for r in report["regions"])
    if alone:
        table.add_column("SQNR alone", justify="right")
    table.add_column("mode, or why not", overflow="fold")
    for r in report["regions"]:
        readers = ", ".join(_short(c, 24) for c in r["consumers"][:3]) + (" …" if len(r["consumers"]) > 3 else "")
        path = " → ".join(p for p in (_short(r["producer"], 32), r["activation"], readers) if p and p != "none")
        grid = "" if r["qmin"] is None else f"{r['qmin']}..{r['qmax']}"
        row = [_short(r["tensor"], 40), path, grid, _number(r["x_clip"])]
        if measured:
            row += [_percent(r.get("share_clipped")), _percent(r.get("range_used"))]
        if alone:
            row.append(_decibels(r["sqnr_alone_db"]) if "sqnr_alone_db" in r else "")
        reason = r["reason"]
        what = f"{r['mode']}, {_copies(r)} copies" if r["mode"] else f"{reason['code']}: {reason['message']}"
        table.add_row(*row, what)
    console.print(table)
    _reasons(console, report)
    q = report["quality"]
    if q["reference"]:
        agreement = f", same answer {_percent(q['agreement_before'])}" if q["agreement_before"] is not None else ""
        sqnr = _decibels(q["sqnr_before_db"])
        console.print(f"Output against the {q['reference']}, {q['samples']} samples: SQNR {sqnr}{agreement}.")
    if "loss" in report:
        _loss(console, report["loss"])
    _notes(console, report)


def _loss(console: Console, loss: Report) -> None:
    """What the quantized activations cost at the output, and what of it nothing can mend."""
    rows = (
        ("all quantized activations", "all"),
        ("those that can be mended", "mendable"),
        ("all others", "unmendable"),
    )
    table = Table(title=f"Loss at the output, {loss['samples']} samples", title_justify="left")
    for name in ("quantized, nothing else", "SQNR", "share of the squared error"):
        table.add_column(name, justify="left" if name.startswith("quantized") else "right", overflow="fold")
    for name, key in rows:
        table.add_row(name, _decibels(loss[f"sqnr_{key}_db"]), _percent(loss[f"share_{key}"]))
    console.print(table)
    if not loss["unmendable"]:
        return
    table = Table(title="Loss that no translation can mend", title_justify="left")
    for name in ("tensor", "why", "SQNR alone", "share of the squared error"):
        table.add_column(name, justify="left" if name in ("tensor", "why") else "right", overflow="fold")
    shown = [t for t in loss["unmendable"] if (t["share"] or 0.0) >= NOTABLE]
    for t in shown:
        table.add_row(_short(t["tensor"], 56), t["code"], _decibels(t["sqnr_db"]), _percent(t["share"]))
    if shown:
        console.print(table)
    if rest := len(loss["unmendable"]) - len(shown):
        console.print(f"{rest} more that no translation can mend cost less than {_percent(NOTABLE)} each.")


def show_rewrite(console: Console, report: Report) -> None:
    """What was done, and what it costs and gains."""
    applied = [r for r in report["regions"] if r["status"] == "applied"]
    if applied:
        table = Table(title="Translated", title_justify="left")
        for name, justify in (("tensor", "left"), ("activation", "left"), ("mode", "left"), ("channels", "right")):
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for name in ("copies", "X_clip before", "X_clip after"):
            table.add_column(name, justify="right")
        for r in applied:
            x = r["x_clip"]
            most = max(r["copies"], default=0) + 1
            now, old = (v if isinstance(v, list) else [v] for v in (r["scale"], r["scale_before"]))
            factor = most * max(n / o for n, o in zip(now, old, strict=True))
            after = [v * factor for v in x] if isinstance(x, list) else x * factor
            shown = [_short(r["tensor"], 44), r["activation"], r["mode"], str(r["channels"]), _copies(r)]
            table.add_row(*shown, _number(x), _number(after))
        console.print(table)
    _reasons(console, report)
    _totals(console, report)
    _notes(console, report)


def show_plan(console: Console, predicted: Report, found: Report) -> None:
    """The plans that were compared, the chosen one, and the sweep."""
    if not found["candidates"]:
        console.print("Nothing to change: no quantized activation that a layer reads can be widened or rescaled.")
        return
    table = Table(title=f"Plans, by {found['objective']} on held-out samples", title_justify="left")
    for name in ("plan", "extra MACs", "copies a channel", "objective", "SQNR"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    table.add_row("as it is", "0.0 %", "0.00", f"{found['before'][0]:.4g}", _decibels(found["before"][1]))
    for name, c in found["candidates"].items():
        row = (
            f"{100 * c['extra_macs']:.1f} %",
            f"{c['mean_copies']:.2f}",
            f"{c['objective']:.4g}",
            _decibels(c["sqnr_db"]),
        )
        table.add_row(name, *row)
    p = predicted
    row = (
        f"{100 * p['extra_macs']:.1f} %",
        f"{p['mean_copies']:.2f}",
        f"{p['objective_after']:.4g}",
        _decibels(p["sqnr_after_db"]),
    )
    table.add_row(f"written: {p['chosen']}", *row, style="bold")
    console.print(table)
    if not p["regions"]:
        console.print("Nothing to change: no plan is better on the held-out samples than the model as it is.")
    if found["rolled_back"]:
        console.print(f"Rolled back, since the samples are better off without: {', '.join(found['rolled_back'])}.")
    if found.get("sweep"):
        table = Table(title="Gain against extra MACs", title_justify="left")
        for name in ("budget", "extra MACs", "objective", "SQNR", "plan"):
            table.add_column(name, justify="left" if name == "plan" else "right")
        for s in found["sweep"]:
            share, spent = f"{100 * s['budget']:.1f} %", f"{100 * s['extra_macs']:.1f} %"
            table.add_row(share, spent, f"{s['objective']:.4g}", _decibels(s["sqnr_db"]), s["chosen"])
        console.print(table)


def show_target(console: Console, target: Report) -> None:
    """The plans that were measured on the way to a target."""
    sqnr = target["kind"] == "sqnr"

    def value(v: float | None) -> str:
        return _decibels(v) if sqnr else _percent(v)

    what = "output SQNR" if sqnr else "same answer as the reference"
    table = Table(title=f"The cheapest plan with {what} ≥ {value(target['wanted'])}", title_justify="left")
    for name in ("allowed", "extra MACs", "copies a channel", what, "plan"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for p in target["probes"]:
        row = f"{p['allowed']:.3f}", f"{100 * p['extra_macs']:.1f} %", f"{p['mean_copies']:.2f}", value(p["got"])
        table.add_row(*row, p["plan"], style="bold" if p["chosen"] else None)
    if target["probes"]:
        console.print(table)


def _reasons(console: Console, report: Report) -> None:
    codes = Counter(r["reason"]["code"] for r in report["regions"] if r["reason"])
    if codes:
        console.print("Left alone: " + ", ".join(f"{n} {code}" for code, n in codes.most_common()))


def _totals(console: Console, report: Report) -> None:
    c, q = report["cost"], report["quality"]
    table = Table(title="Cost and gain", title_justify="left")
    for name in ("", "before", "after", "change"):
        table.add_column(name, justify="right" if name else "left")
    names = {
        "macs": "MACs",
        "params": "parameters",
        "bytes": "bytes",
        "nodes": "nodes",
        "integer_kernels": "integer kernels",
    }
    for key, name in names.items():
        a, b = c.get(f"{key}_before"), c.get(f"{key}_after")
        if a is None or b is None:
            continue
        change = f"{100 * (b - a) / a:+.1f} %" if a and key != "integer_kernels" else f"{b - a:+d}"
        table.add_row(name, f"{a:,}", f"{b:,}", change)
    if q["sqnr_before_db"] is not None and q["sqnr_after_db"] is not None:
        a, b = q["sqnr_before_db"], q["sqnr_after_db"]
        table.add_row("output SQNR", f"{a:.2f} dB", f"{b:.2f} dB", f"{b - a:+.2f} dB")
    if q["agreement_before"] is not None and q["agreement_after"] is not None:
        a, b = 100 * q["agreement_before"], 100 * q["agreement_after"]
        table.add_row("same answer as the reference", f"{a:.2f} %", f"{b:.2f} %", f"{b - a:+.2f} points")
    if c:
        console.print(table)
    if q["reference"]:
        console.print(f"Quality against the {q['reference']}, on {q['samples']} calibration samples.")
    if report["ranking"]:
        console.print(f"Channels ranked by: {report['ranking']}.")


def _notes(console: Console, report: Report) -> None:
    v = report["verification"]
    for note in report["notes"] + (v["notes"] if v else []):
        console.print(f"Note: {note}.")


def verdict(report: Report, changed: bool, verified: bool, seconds: float) -> str:
    """The last line."""
    v = report["verification"]
    if not changed:
        return f"PASSED: nothing to rewrite, the output is the input ({seconds:.1f} s)"
    if v is None:
        return f"DONE, not verified ({seconds:.1f} s)" if not verified else f"PASSED ({seconds:.1f} s)"
    if v["verdict"] != "PASSED":
        return f"FAILED: {'; '.join(v['failures'])} ({seconds:.1f} s)"
    level = v["levels"][0]
    return (
        f"PASSED: {v['oracle']['translated_quantizers']} wide quantizers equal the oracle's on {level['values']:,} "
        f"values ({level['mismatch_fraction']:.1e} differ, by at most {level['max_steps']} step) in {seconds:.1f} s"
    )
