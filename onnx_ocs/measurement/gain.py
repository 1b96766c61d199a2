"""Whether a rewrite changes anything for the better that a reader of the report would see, and that is no chance.

The error of scores that are close to 0 or 1 lies in a few samples.  Where one of them turns over, that is a decibel,
up or down, and says nothing of other samples.
"""

from __future__ import annotations

import numpy as np

from onnx_ocs.measurement.gate import SURE, beyond_chance, won_by_feed
from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality, told_db

__all__ = ["LEAST_DB", "by_chance", "gains"]

LEAST_DB = 0.005  # what is less reads as +0.00 dB
FEWEST = 16  # samples without which nobody can tell
RARELY = 0.1  # of what is won in some samples may be lost in others where it is no chance


def gains(before: Quality, after: Quality) -> bool:
    """Whether an output, or a group of its channels, comes closer to the reference, or the user's metric rises.

    Args:
        before: the model that was rewritten.
        after: the rewritten one, on the same samples.
    """
    if before.metric is not None and after.metric is not None and after.metric > before.metric:
        return True
    for b, a in zip(before.outputs, after.outputs, strict=True):
        if a.agreement is not None and (b.agreement is None or a.agreement > b.agreement):
            return True
        if len(a.constant_channels) < len(b.constant_channels):
            return True
        parts = [(b.sqnr_db, a.sqnr_db), *((g.sqnr_db, h.sqnr_db) for g, h in zip(b.groups, a.groups, strict=False))]
        if any(_closer(*p) for p in parts):
            return True
    return False


def _closer(before: float | None, after: float | None) -> bool:
    """By decibels that show; None is no difference at all."""
    return before is not None and (after is None or after >= before + LEAST_DB)


def by_chance(before: Quality, after: Quality) -> str | None:
    """What is won where that may be chance, such as "'y' 10.20 dB -> 10.86 dB"; None where it is more, or not known.

    Asked as the gate of a fit asks: by the decibels of single samples, or by the error of all together, one of which
    must be more than chance; or hardly a sample may lose, as where copies give rare values back.  A user's metric,
    labels, and channels that live again speak for themselves.

    Args:
        before: the model that was rewritten.
        after: the rewritten one, on the same samples.
    """
    pairs = [(b, a) for b, a in zip(before.outputs, after.outputs, strict=True) if a.weight > 0]
    if before.metric != after.metric or any(_speaks(b, a) for b, a in pairs):
        return None
    counted = [(b, a) for b, a in pairs if len(b.noise) == len(a.noise) >= FEWEST]
    if not counted or len({len(a.noise) for _, a in counted}) > 1:
        return None
    then, now = (np.asarray([q[k].noise for q in counted]) for k in (0, 1))
    if np.array_equal(then, now) or not (np.isfinite(then).all() and np.isfinite(now).all()):
        return None
    weights = [a.weight for _, a in counted]
    won, saved = won_by_feed(then, now, weights)
    rarely = -saved[saved < 0].sum() <= RARELY * saved[saved > 0].sum()
    if rarely or beyond_chance(won, SURE) or beyond_chance(saved, SURE):
        return None
    return ", ".join(f"'{a.name}' {told_db(b.sqnr_db)} -> {told_db(a.sqnr_db)}" for b, a in counted)


def _speaks(before: OutputQuality, after: OutputQuality) -> bool:
    labels = after.kind == "labels" and after.agreement != before.agreement
    alive = len(after.constant_channels) < len(before.constant_channels)
    return labels or (alive and after.kind == "values")  # a class that is never likely is often dead
