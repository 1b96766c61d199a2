"""What the command line shows: tables of regions and compensations, one of totals, one last line.

Columns go, least important first, where the terminal is too narrow for all of them; a pipe gets all, without colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_ocs.errors import printable
from onnx_ocs.report.costs import COSTS, latency_label, told_change
from onnx_ocs.report.format import changed, changed_share, decibels, declared, number, percent, readable, shortened
from onnx_ocs.report.grids import grid_lines
from onnx_ocs.report.outputs import output_rows
from onnx_ocs.report.terminal_trials import show_trials
from onnx_ocs.report.terminal_verdict import show_advice

__all__ = ["show_inspection", "show_rewrite", "show_verdict", "verdict"]

Report = Mapping[str, Any]
NOTABLE = 0.01  # share of the loss from which a tensor is listed
NAME = 24  # fewest characters of a tensor's name
FITTED = 15  # layers in the table, those that gained most
SHOWN = 40  # regions in the table; --report and --html have all
GAIN, LOSS = "green", "red"


@dataclass(frozen=True)
class _Column:
    """One column of a table of report entries; `rank` says which go first where there is no room (highest first)."""

    title: str
    show: Callable[[Report], str | Text]
    rank: int = 0
    justify: Any = "right"
    most: int = 200  # characters; longer text is folded


def _gain(entry: Report, name: str) -> Text:
    """Two levels in dB, coloured by which is better; None is no error at all, a missing one was not measured."""
    if f"{name}_before_db" not in entry:
        return Text("")
    before, after = entry[f"{name}_before_db"], entry.get(f"{name}_after_db", entry[f"{name}_before_db"])
    a, b = ("exact" if v is None else f"{v:.1f}" for v in (before, after))
    if a == b:
        return Text(a)
    better = after is None or (before is not None and after > before)
    return Text(f"{a} → {b}", style=GAIN if better else LOSS)


def _copies(region: Report) -> str:
    up, low = sum(region["copies"]), sum(region["copies_low"])
    return f"{up} + {low} low" if low else str(up)


def _error(kind: str) -> Callable[[Report], Text]:
    return lambda r: _gain(r.get("error", {}), kind)


def _saved(r: Report) -> str:
    share = r.get("mass_saved")
    return "" if share is None or share < 0 else f"{100 * share:.0f} %"  # a finer step may save nothing


REGION = (
    _Column("mode", lambda r: r["mode"], justify="left"),
    _Column("activation", lambda r: r["activation"], 7, "left"),
    _Column("channels", lambda r: str(r["channels"]), 6),
    _Column("copies", _copies),
    _Column("X_clip", lambda r: changed(r["x_clip"], r.get("x_clip_after")), 2),
    _Column("step", lambda r: changed(r["scale_before"], r["scale"]), 4),
    _Column("mass saved", _saved, 5),
    _Column("own SQNR, dB", _error("isolated"), 3),
    _Column("accumulated, dB", _error("accumulated"), 1),
)
RECONSTRUCTION = (
    _Column("integers changed", lambda e: percent(e["changed"]), 2),
    _Column("scales changed", lambda e: str(e["scales_changed"] or ""), 3),
    _Column("ridge", lambda e: number(e["ridge"]), 4),
    _Column("output of the layer, dB", lambda e: _gain(e, "error")),
)
COMPENSATION = (
    _Column("form", lambda c: c.get("form") or "", 4),
    _Column("alpha", lambda c: number(c.get("alpha")), 2),
    _Column("beta", lambda c: number(c.get("beta")), 3),
    _Column("rank", lambda c: str(c.get("rank", "")), 1),
    _Column("SQNR, dB", lambda c: _gain(c, "sqnr")),
)


def _show(console: Console, title: str, name: str, columns: Sequence[_Column], rows: Sequence[Report]) -> None:
    """A table of entries: first what they are called, then as many columns as there is room for."""
    cells = [[c.show(r) for c in columns] for r in rows]
    widths = [min(c.most, max(len(c.title), *(len(row[k]) for row in cells))) + 3 for k, c in enumerate(columns)]
    kept = [k for k in range(len(columns)) if any(len(row[k]) for row in cells)]
    while sum(widths[k] for k in kept) + NAME + 4 > console.width and any(columns[k].rank for k in kept):
        kept.remove(max(kept, key=lambda k: columns[k].rank))
    room = max(NAME, console.width - sum(widths[k] for k in kept) - 4)
    table = Table(title=title, title_justify="left")
    table.add_column(name, no_wrap=True, overflow="ellipsis")
    for k in kept:
        c = columns[k]
        table.add_column(c.title, justify=c.justify, overflow="fold")
    for r, row in zip(rows, cells, strict=True):
        called = next(r[k] for k in ("tensor", "block", "layer") if k in r)
        table.add_row(Text(shortened(called, room)), *(row[k] for k in kept))
    console.print(table)


def _path(r: Report) -> str:
    readers = ", ".join(shortened(c, 24) for c in r["consumers"][:3]) + (" …" if len(r["consumers"]) > 3 else "")
    return " → ".join(p for p in (shortened(r["producer"], 32), r["activation"], readers) if p and p != "none")


def _with_findings(regions: Sequence[Report]) -> list[dict[str, Any]]:
    """The entries with what was found; what was said of a tensor before is not said again of forty others."""
    said, found = set[str](), list[dict[str, Any]]()
    for r in regions:
        if r["mode"]:
            text = f"{r['mode']}, copies: {_copies(r)}"
        else:
            code, message = r["reason"]["code"], r["reason"]["message"]
            text = code if message in said else f"{code}: {message}"
            said.add(message)
        found.append({**r, "finding": text})
    return found


FOUND = (
    _Column("producer → activation → readers", _path, 6, "left", 34),
    _Column("range", lambda r: "" if r["qmin"] is None else f"{r['qmin']}..{r['qmax']}", 5),
    _Column("X_clip", lambda r: number(r["x_clip"]), 3),
    _Column("mass above", lambda r: percent(r.get("share_clipped")), 2),
    _Column("range used", lambda r: percent(r.get("range_used")), 4),
    _Column("own dB", _error("isolated"), 1),
    _Column("alone dB", lambda r: decibels(r["sqnr_alone_db"]) if "sqnr_alone_db" in r else "", 2),
    _Column("accum. dB", _error("accumulated"), 1),
    _Column("mode, or why not", lambda r: r["finding"], 0, "left", 30),
)


def show_inspection(console: Console, report: Report) -> None:
    """The table of quantized activations."""
    report = readable(report)
    if report["regions"]:
        _show(console, "Quantized activations", "tensor", FOUND, _with_findings(report["regions"]))
    _reasons(console, report)
    q = report["quality"]
    if q["reference"]:
        agreement = f", same answer {percent(q['agreement_before'])}" if q["agreement_before"] is not None else ""
        sqnr = decibels(q["sqnr_before_db"])
        console.print(f"Output against the {q['reference']}, {q['samples']} samples: SQNR {sqnr}{agreement}.")
        _outputs(console, report["outputs"])
        _grids(console, report)
    if "loss" in report:
        _loss(console, report["loss"])
    _notes(console, report)
    show_advice(console, report)


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
        table.add_row(name, decibels(loss[f"sqnr_{key}_db"]), percent(loss[f"share_{key}"]))
    console.print(table)
    if not loss["unmendable"]:
        return
    table = Table(title="Loss that neither copies nor another step can mend", title_justify="left")
    for name in ("tensor", "why", "SQNR alone", "share of the squared error"):
        table.add_column(name, justify="left" if name in ("tensor", "why") else "right", overflow="fold")
    shown = [t for t in loss["unmendable"] if (t["share"] or 0.0) >= NOTABLE]
    for t in shown:
        table.add_row(shortened(t["tensor"], 56), t["code"], decibels(t["sqnr_db"]), percent(t["share"]))
    if shown:
        console.print(table)
    if rest := len(loss["unmendable"]) - len(shown):
        console.print(f"{rest} more that nothing can mend cost less than {percent(NOTABLE)} each.")


def show_rewrite(console: Console, report: Report) -> None:
    """What was done, and what it costs and gains."""
    report = readable(report)
    show_trials(console, report)
    _grids(console, report)
    applied = [r for r in report["regions"] if r["status"] == "applied"]
    if applied:
        shown = applied
        if len(applied) > SHOWN:
            most = sorted(applied, key=lambda r: -sum(r["copies"]) - sum(r["copies_low"]))[:SHOWN]
            shown = [r for r in applied if any(r is m for m in most)]
        _show(console, "Translated", "tensor", REGION, shown)
        if len(applied) > len(shown):
            console.print(
                f"… and {len(applied) - len(shown)} more with fewer copies: --report and --html have them all"
            )
    _reconstructions(console, report.get("reconstructions", ()))
    _compensations(console, report["compensations"])
    _reasons(console, report)
    _outputs(console, report["outputs"])
    _totals(console, report)
    _notes(console, report)
    show_advice(console, report)


def _grids(console: Console, report: Report) -> None:
    for line in grid_lines(report.get("grids", ())):
        console.print(line)


def _reconstructions(console: Console, entries: Sequence[Report]) -> None:
    """The layers whose weights were fitted again; those with the largest gain, where there are many."""
    applied = [e for e in entries if e["status"] == "applied"]
    if applied:
        shown = applied
        if len(applied) > FITTED:
            best = {id(e) for e in sorted(applied, key=_fit_gain, reverse=True)[:FITTED]}
            shown = [e for e in applied if id(e) in best]
        _show(console, "Fitted again", "layer", RECONSTRUCTION, shown)
        if len(applied) > len(shown):
            console.print(f"… and {len(applied) - len(shown)} more: --report and --html have them all")
    left = Counter((e.get("reason") or {}).get("code", "unknown") for e in entries if e["status"] != "applied")
    if left:
        console.print("Not fitted again: " + ", ".join(f"{n} {code}" for code, n in left.most_common()))


def _fit_gain(entry: Report) -> float:
    before, after = entry["error_before_db"], entry["error_after_db"]
    return float("inf") if after is None else float(after) - float("inf" if before is None else before)


def _outputs(console: Console, outputs: Sequence[Report]) -> None:
    """Every graph output, where there are several, groups of channels, or dead ones."""
    rows = output_rows(outputs)
    if not rows:
        return
    table = Table(title="Outputs", title_justify="left")
    for name in ("output", "kind", "SQNR, dB", "same answer", "dead channels"):
        table.add_column(name, justify="right" if name in ("SQNR, dB", "same answer") else "left", overflow="fold")
    for o in rows:
        answer = "" if o["agreement_before"] is None else changed_share(o["agreement_before"], o["agreement_after"])
        table.add_row(
            shortened(o["name"], 56), o["kind"], "" if o["kind"] == "labels" else _gain(o, "sqnr"), answer, o["dead"]
        )
    console.print(table)


def _compensations(console: Console, entries: Sequence[Report]) -> None:
    applied = [c for c in entries if c["status"] == "applied"]
    if applied:
        _show(console, "Compensated", "block", COMPENSATION, applied[:SHOWN])
    refused = Counter((c.get("reason") or {}).get("code", "unknown") for c in entries if c["status"] != "applied")
    if refused:
        console.print("Not compensated: " + ", ".join(f"{n} {code}" for code, n in refused.most_common()))


def _reasons(console: Console, report: Report) -> None:
    codes = Counter(r["reason"]["code"] for r in report["regions"] if r["reason"])
    if codes:
        console.print("Left alone: " + ", ".join(f"{n} {code}" for code, n in codes.most_common()))


def _totals(console: Console, report: Report) -> None:
    c, q = report["cost"], report["quality"]
    table = Table(title="Cost and gain", title_justify="left")
    for name in ("", "before", "after", "change"):
        table.add_column(name, justify="right" if name else "left")
    time = report["latency"]
    if time["ratio"] is not None:
        a, b = time["before_ms"], time["after_ms"]
        table.add_row(latency_label(time), f"{a:.3g} ms", f"{b:.3g} ms", f"x {time['ratio']:.2f}")
    for key, name in COSTS.items():
        a, b = c.get(f"{key}_before"), c.get(f"{key}_after")
        if a is None or b is None:
            continue
        table.add_row(name, f"{a:,}", f"{b:,}", told_change(key, a, b))
    if q["sqnr_before_db"] is not None and q["sqnr_after_db"] is not None:
        a, b = q["sqnr_before_db"], q["sqnr_after_db"]
        table.add_row("output SQNR", f"{a:.2f} dB", f"{b:.2f} dB", f"{b - a:+.2f} dB")
    if q["agreement_before"] is not None and q["agreement_after"] is not None:
        a, b = 100 * q["agreement_before"], 100 * q["agreement_after"]
        table.add_row("same answer as the reference", f"{a:.2f} %", f"{b:.2f} %", f"{b - a:+.2f} points")
    if "metric_before" in q:
        a, b = q["metric_before"], q["metric_after"]
        table.add_row("your metric", f"{a:.6g}", f"{b:.6g}", f"{b - a:+.4g}")
    if c:
        console.print(table)
    if q["reference"]:
        console.print(f"Quality against the {q['reference']}, on {q['samples']} calibration samples.")
    if report["ranking"]:
        console.print(f"Steps and copies chosen by: {report['ranking']}.")


def _notes(console: Console, report: Report) -> None:
    v = report["verification"]
    for note in report["notes"] + (v["notes"] if v else []):
        console.print(f"Note: {note}.")


def show_verdict(console: Console, text: str) -> None:
    """The last line, on one line."""
    passed = text.startswith("PASSED")
    style = "bold green" if passed else "bold red" if text.startswith("FAILED") else "bold"
    console.print(Text(printable(text), style=style), soft_wrap=True)


def verdict(report: Report, changed: bool, verified: bool, seconds: float | None = None) -> str:
    """The last line, with the time of the whole command; without one where an older report is shown."""
    v = report["verification"]
    took = "" if seconds is None else f"; the run took {seconds:.1f} s"
    if not changed:
        return f"PASSED: nothing to rewrite, the output is the input{took}"
    if v is None:
        return f"DONE, not verified{took}" if not verified else f"PASSED{took}"
    if v["verdict"] != "PASSED":
        return f"FAILED: {'; '.join(readable(v['failures']))}{took}"
    level, oracle = v["levels"][0], v["oracle"]
    what = declared(oracle).replace("nothing", "the model")
    return (
        f"PASSED: {what} as declared; {level['values']:,} values compared with the oracle's "
        f"({level['mismatch_fraction']:.1e} differ, by at most {level['max_steps']} step){took}"
    )
