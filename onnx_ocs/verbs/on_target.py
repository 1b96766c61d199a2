"""How good a rewrite is in the runtime that it is for, where that is another one than onnxruntime and installed here.

Another runtime rounds where onnxruntime does not, and joins operators otherwise.  So what is better in onnxruntime may
be worse there, and then it is not applied.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import compare, losing
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.timing import ONNXRUNTIME, timing_of
from onnx_ocs.verbs.outcome import OnTarget, Outcome, Prepared, Why

__all__ = ["lost_on_target", "seen_on_target"]

SAMPLES = 64  # that both models are run on


def seen_on_target(ready: Prepared, outcome: Outcome, runtime: Runtime) -> Outcome:
    """The outcome with what both models are worth in the target's runtime, where there is one.

    Args:
        ready: what the rewrite started from.
        outcome: of the rewrite.
        runtime: the target.
    """
    on, samples = timing_of(runtime), ready.context.samples
    if on is ONNXRUNTIME or samples is None or not outcome.changed:
        return outcome
    limit = min(ready.context.limit or SAMPLES, SAMPLES)
    ready.context.progress(f"comparing in {on.name}", 0, None)
    judging = replace(ready.context.judging, metric=None)
    try:
        before = compare(ready.reference[0], [ready.original], samples, limit, judging=judging, on=on)[0]
    except UserError as e:
        return outcome.noting(f"the quality in {on.name} is not known: {e}")
    try:
        after = compare(ready.reference[0], [outcome.model], samples, limit, judging=judging, on=on)[0]
    except UserError as e:
        return replace(outcome, on_target=OnTarget(on.name, before, None, str(e)))
    return replace(outcome, on_target=OnTarget(on.name, before, after))


def lost_on_target(outcome: Outcome) -> Why | None:
    """What speaks against a rewrite in the target's runtime; None where nothing does, or nobody knows."""
    seen = outcome.on_target
    if seen is None:
        return None
    if seen.after is None:
        return Why("loses", f"does not run in {seen.runtime} as the model did ({seen.failure})")
    lost = losing(seen.before, seen.after)
    return None if lost is None else Why("loses", f"lost in {seen.runtime} on the calibration data ({lost})")
