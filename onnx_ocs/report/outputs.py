"""The rows that people read of every output: its figure before and after, and channels that are dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["OutputRow", "output_rows"]

SHOWN = 8  # dead channels that are named


class OutputRow(NamedTuple):
    """An output, or a group of its channels.

    Attributes:
        name: what it is called.
        before: dB, or percent of equal answers.
        after: the same, rewritten.
        dead: channels that never change, and should.
    """

    name: str
    before: str
    after: str
    dead: str


def output_rows(outputs: Sequence[Mapping[str, Any]]) -> list[OutputRow]:
    """Rows of the table of outputs; none where the one figure of the whole model says it all."""
    rows = [row for o in outputs for row in _rows(o)]
    return rows if len(rows) > 1 or any(r.dead for r in rows) else []


def _rows(o: Mapping[str, Any]) -> list[OutputRow]:
    dead = _channels(o["constant_channels"])
    if o["kind"] == "labels":
        return [OutputRow(o["name"], _percent(o["agreement_before"]), _percent(o["agreement_after"]), dead)]
    rows = [OutputRow(o["name"], _db(o["sqnr_before_db"]), _db(o["sqnr_after_db"]), dead)]
    for g in o["groups"]:
        name = f"{o['name']}, channels {_channels(g['channels'])}"
        rows.append(OutputRow(name, _db(g["sqnr_before_db"]), _db(g["sqnr_after_db"]), ""))
    return rows


def _channels(numbers: Sequence[int]) -> str:
    """Channel numbers, cut short; runs as "4..83"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], n]
        else:
            runs.append([n])
    told = [str(r[0]) if len(r) == 1 else f"{r[0]}..{r[1]}" for r in runs[:SHOWN]]
    return ", ".join(told) + (", …" if len(runs) > SHOWN else "")


def _db(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
