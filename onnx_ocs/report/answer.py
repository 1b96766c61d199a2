"""Ship or not: the first thing that a page says of a rewritten model, in one line, from what the report holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from onnx_ocs.report.outputs import every_row

__all__ = ["Answer", "answer"]

NOTABLE = 0.005  # dB: less is no change
SLOWER = 1.05  # times the latency, from which it is said


class Answer(NamedTuple):
    """What the page begins with.

    Attributes:
        tone: the colour.
        text: a sentence, without the full stop.
    """

    tone: Literal["good", "bad", ""]
    text: str


def answer(report: Mapping[str, Any], changed: bool) -> Answer | None:
    """Whether the rewritten model can be shipped, and why.

    Args:
        report: of `rewrite` or `verify`; the others have rewritten nothing, and get no answer.
        changed: whether anything was rewritten.
    """
    checked, target = report["verification"], report.get("target")
    if report["verb"] not in ("rewrite", "verify"):
        return None
    if checked is not None and checked["verdict"] != "PASSED":
        return Answer("bad", "Do not ship: the verification failed")
    if target is not None and not target["reached"]:
        return Answer("bad", "Not what was asked for: the target was missed")
    if not changed:
        return Answer("", "Nothing new to ship: nothing was rewritten")
    if checked is None:
        return Answer("bad", "Not proven yet: the result was not verified")
    rows = [o for o in every_row(report["outputs"]) if o["kind"]]
    better, worse = (sum(_moved(o, sign) for o in rows) for sign in (1, -1))
    if worse:
        return Answer("bad", f"Look before you ship: worse at {_of(worse, rows)}")
    ratio = report["latency"]["ratio"]
    price = f", for {ratio:.2f} times the latency" if ratio is not None and ratio >= SLOWER else ""
    said = "" if not better else f"better at {_of(better, rows)}" if len(rows) > 1 else "better"
    died = sum(len({*o["constant_channels"]} - {*o["constant_channels_before"]}) for o in report["outputs"])
    if died:
        live = "1 channel that lived is dead" if died == 1 else f"{died} channels that lived are dead"
        return Answer("", f"Look before you ship: {f'{said}, but ' if said else ''}{live} on these samples")
    if better:
        said += " in decibels, but answers agree less often" if any(map(_answers_less, rows)) else ""
        return Answer("good", f"Ready to ship: proven, and {said}{price}")
    if rows:
        return Answer("", f"Proven, but no output is better{price}")
    return Answer("", f"Proven, but not measured: there were no samples{price}")


def _moved(o: Mapping[str, Any], sign: int) -> bool:
    """Whether an output is better (1) or worse (-1): by SQNR, labels by agreement; a null after is no error at all."""
    key = "agreement_{}" if o["kind"] == "labels" else "sqnr_{}_db"
    before, after = (o[key.format(when)] for when in ("before", "after"))
    if before is None or after is None:
        return sign > 0 and before is not None
    return bool(sign * (after - before) >= NOTABLE)


def _answers_less(o: Mapping[str, Any]) -> bool:
    """Whether an output gives the reference's answer less often: by chance, where it is better otherwise."""
    before, after = o["agreement_before"], o["agreement_after"]
    return before is not None and after is not None and after < before


def _of(n: int, rows: Sequence[object]) -> str:
    return f"{n} of {len(rows)} outputs" if len(rows) > 1 else "the output"
