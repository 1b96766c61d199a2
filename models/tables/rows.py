"""The table of `compare`: its rows, what got worse, the best pair, and who is beaten by the plain file, rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FREE", "PLAIN", "SAME", "Row", "table"]

SAME = "left as it is"
FREE = "default"  # the chain of `rewrite` without options: steps and weights, no multiply-accumulate more
PLAIN = ("onnxruntime, ", "models/")  # the quantizers whose files, rewritten for free, are held against all others
HEADER = "| quantizer | followed by | {} | SQNR | CPU time | MACs | integer kernels | latency | verified |"


@dataclass(frozen=True)
class Row:
    """A quantizer's model, as it is or rewritten.

    Attributes:
        quantizer: its name and version.
        chain: the passes that followed; "" for none.
        said: why there are no figures; "" where there are.
        task: the metric in per cent, or without labels the agreement with the float network.
        sqnr_db: of the first output against the float network.
        macs: extra multiply-accumulates as a share of the quantized model's.
        kernels: layers that onnxruntime runs with integer kernels.
        latency: against the quantized model, and of that itself against onnxruntime's min-max file, both with integer
            kernels; None where onnxruntime does not load them so, or there is nothing to time.
        verdict: of the verification, or "left as it is".
        seconds: of all CPUs, for this step alone: the quantizer, or the rewrite with its proof.
    """

    quantizer: str
    chain: str
    said: str = ""
    task: float | None = None
    sqnr_db: float | None = None
    macs: float = 0.0
    kernels: int | None = None
    latency: float | None = None
    verdict: str = ""
    seconds: float | None = None

    def line(self) -> str:
        """The row of the table."""
        if self.said:
            return f"| {self.quantizer} | {self.chain} | {self.said} | | | | | | |"
        cells = [self.quantizer if not self.chain else "", self.chain and f"`{self.chain}`"]
        cells += ["" if self.task is None else f"{self.task:.2f} %", _decibels(self.sqnr_db)]
        cells += ["" if self.seconds is None else f"{self.seconds:.0f} s"]
        cells += [_percent(self.macs) if self.chain else ""]
        cells += ["" if self.kernels is None else str(self.kernels)]
        cells += [f"x {self.latency:.2f}" if self.latency else "", self.verdict]
        return f"| {' | '.join(cells)} |"


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.2f} dB"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _value(row: Row) -> float:
    return np.inf if row.sqnr_db is None else row.sqnr_db


def table(rows: Sequence[Row], figure: str) -> str:
    """Markdown: the table, what got worse, the best pair, and who is beaten.

    Args:
        rows: each quantizer's own row is followed by those of what was made of its file.
        figure: what the metric is called.
    """
    lines = [HEADER.format(figure), "|---|---|---|---|---|---|---|---|---|", *(r.line() for r in rows)]
    pairs = [(b, r) for b in rows for r in rows if not b.chain and r.chain and b.quantizer == r.quantizer]
    pairs = [(b, r) for b, r in pairs if not b.said and not r.said]
    worse = [
        f"{r.quantizer} with `{r.chain}`: {_decibels(b.sqnr_db)} → {_decibels(r.sqnr_db)}"
        for b, r in pairs
        if _value(r) < _value(b)
    ]
    lines += ["", f"Worse than before, by SQNR: {'; '.join(worse) or 'none'} (of {len(pairs)} rewrites)."]
    if pairs:
        _, best = max(pairs, key=lambda pair: _value(pair[1]))
        reached = _decibels(best.sqnr_db) if best.task is None else f"{best.task:.2f} %, {_decibels(best.sqnr_db)}"
        price = f"{_percent(best.macs)} multiply-accumulates" + (f", x {best.latency:.2f}" if best.latency else "")
        lines.append(f"Best pair, by SQNR: {best.quantizer} followed by `{best.chain}`: {reached} for {price}.")
    return "\n".join([*lines, *_against_rivals(rows, pairs)])


def _against_rivals(rows: Sequence[Row], pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    """Each plain file, rewritten for free, against every other project's file as it is."""
    rivals = [r for r in rows if not r.chain and not r.said and not r.quantizer.startswith(PLAIN)]
    lines = []
    for before, ours in pairs:
        if ours.chain != FREE or not before.quantizer.startswith(PLAIN) or not rivals:
            continue
        spent = sum(r.seconds or 0.0 for r in (before, ours))
        lines += ["", f"{before.quantizer} and `{FREE}` ({_decibels(ours.sqnr_db)}, {spent:.0f} s) against", ""]
        for rival in rivals:
            better = _value(ours) > _value(rival)
            task = "" if ours.task is None or rival.task is None else f", {ours.task - rival.task:+.2f} points"
            time = "" if not rival.seconds else f", x {spent / rival.seconds:.2f} of its CPU time"
            gap = _value(ours) - _value(rival)
            lines.append(f"- {rival.quantizer}: {'better' if better else 'WORSE'}, {gap:+.2f} dB{task}{time}")
    return lines
