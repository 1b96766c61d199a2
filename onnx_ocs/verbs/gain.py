"""Nothing is rewritten for a loss, by chance, or for +0.00 dB and no kernel: every change has a price, in trust too."""

from __future__ import annotations

import onnx

from onnx_ocs.measurement.gain import by_chance, gains
from onnx_ocs.measurement.quality import losing
from onnx_ocs.targets.ort import operators
from onnx_ocs.verbs.on_target import lost_on_target
from onnx_ocs.verbs.outcome import Outcome, Prepared, Why, not_applied

__all__ = ["no_better", "without_gain"]

WHY = "the rewrite brings +0.00 dB at every output on the calibration data, so it was not applied"


def no_better(ready: Prepared, outcome: Outcome) -> Why | None:
    """What speaks against a rewrite: it loses, or what it wins may be chance; None where nothing does, or nobody knows.

    Where the user asks for a figure, or samples that nothing has learnt from are sure already, what is won is not asked
    whether that is chance.

    Args:
        ready: what the rewrite started from.
        outcome: with the qualities of both models.
    """
    if outcome.qualities is None or not outcome.changed:
        return None
    if lost := losing(*outcome.qualities):
        return Why("loses", f"lost on the calibration data ({lost})")
    if (there := lost_on_target(outcome)) is not None:
        return there
    chance = by_chance(*outcome.qualities)
    if chance is None or outcome.sure or "target" in outcome.planned or _wins_kernels(ready.original, outcome.model):
        return None
    return Why("by_chance", f"won no more than chance on the calibration data ({chance})")


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
