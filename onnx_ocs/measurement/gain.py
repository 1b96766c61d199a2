"""Whether a rewrite changes anything for the better that a reader of the report would see."""

from __future__ import annotations

from onnx_ocs.measurement.quality import Quality

__all__ = ["LEAST_DB", "gains"]

LEAST_DB = 0.005  # what is less reads as +0.00 dB


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
