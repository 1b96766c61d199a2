"""What `--passes auto` has tried: the report's entries as types, and what tables and charts show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from onnx_ocs.report.format import db_or_dash, percent

__all__ = ["COLUMNS", "TrialEntry", "TrialsEntry", "front", "trial_in_short", "trial_rows"]

COLUMNS = ("tried", "SQNR", "same answer", "gain", "MACs", "latency", "")


class TrialEntry(TypedDict):
    """One candidate: passes that were run on some of the samples, and judged on the others.

    Attributes:
        name: what it is, in words.
        passes: the names of the passes, in order.
        sqnr_db: of the first output, on samples that no fit has seen; null where it is exact, and for labels.
        agreement: share of the reference's answers there; null where it holds neither scores nor labels.
        gain_db: decibels above the model as it is, the mean of all outputs that count; of labels, points of agreement.
        metric: the user's own figure there.
        macs: multiply-accumulates, as a ratio to the model's.
        latency: time of one sample, as a ratio to the model's; null where it was not measured.
        tolerance: how far that may be off.
        front: whether no other candidate is better and at most as slow.
        status: "chosen"; "kept" until a later one was better; "left".
        why: the reason, in words.
    """

    name: str
    passes: list[str]
    sqnr_db: float | None
    agreement: float | None
    gain_db: float
    metric: NotRequired[float]
    macs: float
    latency: float | None
    tolerance: float | None
    front: bool
    status: Literal["chosen", "kept", "left"]
    why: str


class TrialsEntry(TypedDict):
    """What was tried, in order, on samples that no fit has seen.

    Attributes:
        fitted: number of samples that candidates were made from; what is written was made from all.
        unseen: number of samples that they were judged on.
        limit: the largest ratio of latency that was allowed; null for no limit.
        stopped: why no more was tried.
        tried: the candidates, the model as it is first.
    """

    fitted: int
    unseen: int
    limit: float | None
    stopped: str
    tried: list[TrialEntry]


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points of cost and worth no other point beats at both.

    Args:
        points: cost (smaller is better) and worth (larger is better).
    """

    def beaten(k: int) -> bool:
        cost, worth = points[k]
        return any(
            c <= cost and w >= worth and ((c, w) != (cost, worth) or n < k) for n, (c, w) in enumerate(points) if n != k
        )

    return [not beaten(k) for k in range(len(points))]


def trial_rows(trials: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[tuple[str, ...], str]]]:
    """The columns of a table, and its rows, each with its status; columns that say nothing are left out."""
    entries: Sequence[Mapping[str, Any]] = trials["tried"]
    rows = [(*_figures(e), f"{e['status']}: {e['why']}" if e["why"] else e["status"]) for e in entries]
    columns = COLUMNS
    if any("metric" in e for e in entries):
        columns = (*COLUMNS[:3], "metric", *COLUMNS[4:])
    kept = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    return tuple(columns[k] for k in kept), [
        (tuple(row[k] for k in kept), e["status"]) for row, e in zip(rows, entries, strict=True)
    ]


def trial_in_short(e: Mapping[str, Any]) -> str:
    """A candidate in a few words."""
    *_, gain, macs, time = _figures(e)
    return f"{gain}, {time or f'{macs} MACs'}, {e['status']}"


def _figures(e: Mapping[str, Any]) -> tuple[str, ...]:
    gain = f"{e['metric']:.6g}" if "metric" in e else f"{e['gain_db']:+.2f} dB"
    time = "" if e["latency"] is None else f"x {e['latency']:.2f}"
    share = "" if e["agreement"] is None else percent(e["agreement"])
    return e["name"], db_or_dash(e["sqnr_db"]), share, gain, f"x {e['macs']:.2f}", time
