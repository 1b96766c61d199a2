"""Two reports side by side: what is better, what it costs, and which tensors and layers are other than before.

What a team asks after changing the quantizer, the options or the version.  The tables are made here, once, as text;
the terminal and the page only draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnx_ocs.report.costs import COSTS, MORE_IS_BETTER, latency_label, told_change
from onnx_ocs.report.format import counted, number, percent
from onnx_ocs.report.grids import told_grid
from onnx_ocs.report.outputs import every_row
from onnx_ocs.report.trials import trial_in_short

__all__ = ["Cell", "Comparison", "Section", "Side", "compare_reports"]

Entry = Mapping[str, Any]
Tone = Literal["", "good", "bad"]
NOTABLE = 0.05  # dB: less is no change
NAMED = 5  # names in a note
VERSIONS = ("onnx_ocs", "onnxruntime", "onnx", "numpy", "python", "machine", "cpu_flags", "seed")


@dataclass(frozen=True)
class Cell:
    """What stands in a table, and whether it is good news."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Section:
    """A table: the first column names something, the others are about it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Side:
    """One of the two reports.

    Attributes:
        file: its name.
        title: what it is about.
        verb: what was asked for.
        verdict: of the verification, in a word or two.
    """

    file: str
    title: str
    verb: str
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two reports side by side.

    Attributes:
        sides: A and B.
        sections: the tables, those without a row left out.
        notes: what makes the figures hard to compare, and what only one of them has.
        summary: B against A, in one sentence.
    """

    sides: tuple[Side, Side]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    summary: str


def compare_reports(a: Entry, b: Entry, files: tuple[str, str]) -> Comparison:
    """Put two reports side by side.

    Args:
        a: a report (`onnx_ocs.report/1`).
        b: another; tensors, layers and blocks are paired by name.
        files: what the two are called.
    """
    outputs = _outputs(a, b)
    found = [
        _compared("tensors", "tensor", _tensor, _tensor_levels, a["regions"], b["regions"]),
        _compared("layers fitted again", "layer", _layer, _error("error"), a["reconstructions"], b["reconstructions"]),
        _compared("new grids", "tensor", _grid, lambda _: (), a.get("grids", ()), b.get("grids", ())),
        _compared("compensations", "block", _block, _error("sqnr"), a["compensations"], b["compensations"]),
    ]
    sections = (outputs, _cost(a, b), _trials(a, b), *(section for section, _ in found), _reasons(a, b))
    sides = tuple(
        Side(f, r.get("title", f), r["verb"], (r["verification"] or {"verdict": "not verified"})["verdict"])
        for f, r in zip(files, (a, b), strict=True)
    )
    notes = (*_cautions(a, b), *(note for _, notes in found for note in notes))
    return Comparison(
        (sides[0], sides[1]), tuple(s for s in sections if s.rows), notes, _summary(a, b, outputs, found[0][0])
    )


# ---- outputs and cost -----------------------------------------------------------------------------------------------


def _outputs(a: Entry, b: Entry) -> Section:
    """Quality of every output that both have; reports of 0.1.0 know the first one only."""
    pairs = _paired(_judged(a), _judged(b), "name")
    rows = []
    for name, (x, y) in pairs.items():
        for key, what, factor, unit in (("sqnr_{}_db", "SQNR", 1.0, "dB"), ("agreement_{}", "same answer", 100.0, "%")):
            told = [[_scaled(o, key.format(when), factor) for when in ("before", "after")] for o in (x, y)]
            if (x.get("kind") == "labels" and what == "SQNR") or all(v is None for t in told for v in t):
                continue
            rows.append((Cell(name), Cell(what), *(Cell(_arrow(t, unit)) for t in told), _gain(told, unit)))
        if x["dead"] != y["dead"]:
            dead = (Cell(o["dead"] or "none") for o in (x, y))
            rows.append((Cell(name), Cell("dead channels"), *dead, Cell("")))
    return Section("Outputs", ("output", "", "A", "B", "B against A"), tuple(rows))


def _judged(report: Entry) -> Sequence[Entry]:
    rows = every_row(report["outputs"])
    if rows or report["quality"]["reference"] is None:
        return rows
    return [{**report["quality"], "name": "first output", "dead": ""}]


def _scaled(entry: Entry, key: str, factor: float) -> float | None:
    value = entry.get(key)
    return None if value is None else factor * float(value)


def _arrow(told: Sequence[float | None], unit: str) -> str:
    values = ["–" if v is None else f"{v:.2f}" for v in told]
    return f"{' → '.join(dict.fromkeys(values))} {unit}"


def _gain(told: Sequence[Sequence[float | None]], unit: str) -> Cell:
    """What B's result is above A's."""
    a, b = told[0][-1], told[1][-1]
    if a is None or b is None:
        return Cell("")
    return Cell(f"{b - a:+.2f} {'points' if unit == '%' else unit}", _tone(b - a, 0.005))


def _tone(better_by: float, notable: float) -> Tone:
    return "" if abs(better_by) < notable else "good" if better_by > 0 else "bad"


def _cost(a: Entry, b: Entry) -> Section:
    rows = []
    for key, name in COSTS.items():
        told = [[r["cost"].get(f"{key}_{when}") for when in ("before", "after")] for r in (a, b)]
        x, y = told[0][1], told[1][1]
        if x is None or y is None:
            continue
        tone = _tone((y - x) * (1 if key in MORE_IS_BETTER else -1), 0.5)
        change = Cell(told_change(key, x, y) if x != y else "", tone)
        rows.append((Cell(name), *(Cell(_counts(t)) for t in told), change))
    times = [[r["latency"][f"{when}_ms"] for when in ("before", "after")] for r in (a, b)]
    x, y = times[0][1], times[1][1]
    label, other = (latency_label(r["latency"]) for r in (a, b))
    if x and y and label == other:
        shown = (Cell(" → ".join("–" if v is None else f"{v:.3g}" for v in t) + " ms") for t in times)
        rows.append((Cell(label), *shown, Cell(f"x {y / x:.2f}", _tone(x / y - 1, 0.03))))
    return Section("Cost", ("", "A", "B", "B against A"), tuple(rows))


def _trials(a: Entry, b: Entry) -> Section:
    """What `--passes auto` has tried, in either."""
    tried = [{e["name"]: e for e in r.get("trials", {"tried": ()})["tried"]} for r in (a, b)]
    names = list(dict.fromkeys(n for entries in tried for n in entries))
    rows = tuple(
        (Cell(n), *(Cell(trial_in_short(entries[n]) if n in entries else "–") for entries in tried)) for n in names
    )
    return Section("Tried, on unseen samples", ("", "A", "B"), rows)


def _counts(told: Sequence[int | None]) -> str:
    return " → ".join(dict.fromkeys("–" if v is None else f"{v:,}" for v in told))


# ---- tensors, layers, blocks ----------------------------------------------------------------------------------------

Levels = Callable[[Entry], Sequence[tuple[str, float | None]]]


def _compared(
    what: str, name: str, show: Callable[[Entry], str], levels: Levels, a: Sequence[Entry], b: Sequence[Entry]
) -> tuple[Section, list[str]]:
    """The entries that differ, those with the largest difference first; and what only one of the reports has."""
    rows: list[tuple[float, tuple[Cell, ...]]] = []
    pairs = _paired(a, b, name)
    measured = {t for e in (*a, *b) for t, v in levels(e) if v is not None}
    known = [t for t, _ in levels(a[0]) if t in measured] if a else []
    for key, (x, y) in pairs.items():
        told = [(p, q) for (t, p), (_, q) in zip(levels(x), levels(y), strict=True) if t in known]
        moved = max((abs(q - p) for p, q in told if p is not None and q is not None), default=0.0)
        if show(x) != show(y) or moved >= NOTABLE:
            rows.append((moved, (Cell(key), Cell(show(x)), Cell(show(y)), *(_levels(p, q) for p, q in told))))
    rows.sort(key=lambda r: -r[0])
    lone = [[e[name] for e in here if e[name] not in pairs and (what == "tensors" or e["status"] == "applied")]
            for here in (a, b)]  # fmt: skip
    alone = [_alone(what, side, names) for side, names in zip("AB", lone, strict=True)]
    columns = (name, "A", "B", *(f"{t}, A → B" for t in known))
    title = f"{what[0].upper()}{what[1:]} that differ, {len(rows)} of {len(pairs)}"
    return Section(title, columns, tuple(cells for _, cells in rows)), [n for n in alone if n]


def _levels(a: float | None, b: float | None) -> Cell:
    shown = dict.fromkeys("–" if v is None else f"{v:.1f}" for v in (a, b))
    return Cell(" → ".join(shown), "" if a is None or b is None else _tone(b - a, NOTABLE))


def _alone(what: str, side: str, names: Sequence[str]) -> str:
    more = ", …" if len(names) > NAMED else ""
    return f"{len(names)} {what} in {side} only: {', '.join(names[:NAMED])}{more}" if names else ""


def _paired(a: Sequence[Entry], b: Sequence[Entry], name: str) -> dict[str, tuple[Entry, Entry]]:
    """Entries of the same name, in B's order."""
    first = {e[name]: e for e in reversed(a)}
    return {e[name]: (first[e[name]], e) for e in b if e[name] in first}


def _left(entry: Entry) -> str:
    return f"left: {(entry['reason'] or {}).get('code', 'unknown')}"


def _tensor(r: Entry) -> str:
    if r["status"] == "refused":
        return _left(r)
    copies = sum(r["copies"]) + sum(r["copies_low"])
    told = f", {copies:,} {'copy' if copies == 1 else 'copies'}" if copies else ""
    return f"{r['mode']}{told}, step {number(r['scale'])}"


def _tensor_levels(r: Entry) -> Sequence[tuple[str, float | None]]:
    error = r.get("error") or {}
    kinds = {"isolated": "own dB", "accumulated": "accumulated dB"}
    return [(title, error.get(f"{k}_after_db", error.get(f"{k}_before_db"))) for k, title in kinds.items()]


def _layer(e: Entry) -> str:
    return f"{percent(e['changed'])} of the integers" if e["status"] == "applied" else _left(e)


def _block(e: Entry) -> str:
    return f"{e['form'] or 'branch'}, rank {e['rank']}" if e["status"] == "applied" else _left(e)


def _grid(e: Entry) -> str:
    return told_grid(e) if e["status"] == "applied" else _left(e) if e["status"] == "refused" else e["status"]


def _error(key: str) -> Levels:
    return lambda e: [("output dB", e[f"{key}_after_db"])]


def _reasons(a: Entry, b: Entry) -> Section:
    """How often each reason left a tensor alone, where that differs."""
    counts = [[(r["reason"] or {}).get("code") for r in report["regions"]] for report in (a, b)]
    rows = []
    for code in sorted({c for found in counts for c in found if c}):
        x, y = (found.count(code) for found in counts)
        if x != y:
            rows.append((Cell(code), Cell(str(x)), Cell(str(y)), Cell(f"{y - x:+d}")))
    return Section("Left alone", ("reason", "A", "B", "B against A"), tuple(rows))


# ---- in words -------------------------------------------------------------------------------------------------------


def _cautions(a: Entry, b: Entry) -> list[str]:
    """What makes figures of the two hard to compare."""
    notes = []
    if a["verb"] != b["verb"]:
        notes.append(f"A is a report of {a['verb']}, B of {b['verb']}")
    told = [
        f"against the {q['reference']} on {counted(q['samples'], 'sample')}" if q["reference"] else "on no samples"
        for q in (a["quality"], b["quality"])
    ]
    if told[0] != told[1]:
        notes.append(f"the quality is not measured alike: {told[0]} in A, {told[1]} in B")
    changed = [
        f"{k} {_said(a['environment'].get(k))} → {_said(b['environment'].get(k))}"
        for k in VERSIONS
        if a["environment"].get(k) != b["environment"].get(k)
    ]
    if changed:
        notes.append("not the same environment: " + ", ".join(changed))
    return notes


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _summary(a: Entry, b: Entry, outputs: Section, tensors: Section) -> str:
    told = [(row[0].text, row[-1]) for row in outputs.rows if row[1].text == "SQNR" and row[-1].text]
    told = told or [(row[0].text, row[-1]) for row in outputs.rows if row[-1].text]
    words = [_outputs_in_words(told)] if told else ["no output was measured in both"]
    cost = [
        f"{name} {100 * (y - x) / x:+.1f} %"
        for key, name in (("macs", "MACs"), ("bytes", "bytes"))
        if (x := a["cost"].get(f"{key}_after")) and (y := b["cost"].get(f"{key}_after")) is not None
    ]
    x, y = a["latency"]["after_ms"], b["latency"]["after_ms"]
    if x and y and latency_label(a["latency"]) == latency_label(b["latency"]):
        cost.append(f"latency x {y / x:.2f}")
    if cost:
        words.append(", ".join(cost))
    words.append(f"{counted(len(tensors.rows), 'tensor')} differ{'s' if len(tensors.rows) == 1 else ''}")
    return f"B against A: {'; '.join(words)}"


def _outputs_in_words(told: Sequence[tuple[str, Cell]]) -> str:
    better, worse = ([t for t in told if t[1].tone == tone] for tone in ("good", "bad"))
    if not better and not worse:
        return f"equal at {counted(len(told), 'output')}"
    parts = [f"{word} at {len(which)} of {counted(len(told), 'output')}" for word, which in
             (("better", better), ("worse", worse)) if which]  # fmt: skip
    shown = ", ".join(f"{name} {cell.text}" for name, cell in (worse + better)[:3])
    return f"{', '.join(parts)} ({shown})"
