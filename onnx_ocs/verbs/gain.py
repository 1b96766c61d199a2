"""Nothing is rewritten for +0.00 dB: every change has a price, in bytes and in trust."""

from __future__ import annotations

from onnx_ocs.measurement.gain import gains
from onnx_ocs.verbs.outcome import Outcome, Prepared, not_applied

__all__ = ["without_gain"]

WHY = "the rewrite brings +0.00 dB at every output on the calibration data, so it was not applied"


def without_gain(ready: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, or that of a rewrite that is not applied, since no output comes closer to the reference.

    Args:
        ready: what the rewrite started from.
        outcome: with the qualities of both models; without, nobody knows.
    """
    if outcome.qualities is None or not outcome.changed or gains(*outcome.qualities):
        return outcome
    return not_applied(ready, outcome, WHY, "no_difference")
