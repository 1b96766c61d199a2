"""Nothing is rewritten for +0.00 dB and no integer kernel: every change has a price, in bytes and in trust."""

from __future__ import annotations

import onnx

from onnx_ocs.measurement.gain import gains
from onnx_ocs.targets.ort import operators
from onnx_ocs.verbs.outcome import Outcome, Prepared, not_applied

__all__ = ["without_gain"]

WHY = "the rewrite brings +0.00 dB at every output on the calibration data, so it was not applied"


def without_gain(ready: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, or that of a rewrite that is not applied, since no output comes closer and no kernel is won.

    Args:
        ready: what the rewrite started from.
        outcome: with the qualities of both models; without, nobody knows.
    """
    if outcome.qualities is None or not outcome.changed or gains(*outcome.qualities):
        return outcome
    if _wins_kernels(ready.original, outcome.model):
        return outcome
    return not_applied(ready, outcome, WHY, "no_difference")


def _wins_kernels(original: onnx.ModelProto, new: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs more layers on integers, and no operator fewer."""
    before, after = operators(original), operators(new)
    return before is not None and after is not None and before.won(after) > 0
