"""How good a rewrite is in the runtime that it is for, where that is another one than onnxruntime and installed here.

Another runtime rounds where onnxruntime does not, and joins operators otherwise.  So what is better in onnxruntime may
be worse there, and then it is not applied.  Where it does not even compute what the model says, it decides nothing.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import Quality, compare, losing, told_db
from onnx_ocs.measurement.yardstick import OUTPUT_DB
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.timing import ONNXRUNTIME, timing_of
from onnx_ocs.verbs.outcome import OnTarget, Outcome, Prepared, Why

__all__ = ["lost_on_target", "seen_on_target"]

SAMPLES = 64  # that both models are run on
FINE_DB = 20.0  # from here on roundings of another runtime may be what is left
OFF_DB = 3.0  # below what onnxruntime makes of the model: another runtime computes something else


def seen_on_target(ready: Prepared, outcome: Outcome, runtime: Runtime) -> Outcome:
    """The outcome with what both models are worth in the target's runtime, where that computes what they say.

    Args:
        ready: what the rewrite started from.
        outcome: of the rewrite, with the qualities of both models in onnxruntime.
        runtime: the target.
    """
    on, samples = timing_of(runtime), ready.context.samples
    if on is ONNXRUNTIME or samples is None or not outcome.changed or outcome.qualities is None:
        return outcome
    limit = min(ready.context.limit or SAMPLES, SAMPLES)
    ready.context.progress(f"comparing in {on.name}", 0, None)
    truth, judging = ready.reference[0], ready.context.judging
    try:
        before = compare(truth, [ready.original], samples, limit, judging=judging, on=on)[0]
    except UserError as e:
        return outcome.noting(f"the quality in {on.name} is not known: {e}")
    if (off := _other(before, outcome.qualities[0])) is not None:
        return outcome.noting(f"{on.name} computes something else than the model says, so it decides nothing: {off}")
    try:
        after = compare(truth, [outcome.model], samples, limit, judging=judging, on=on)[0]
    except UserError as e:
        return replace(outcome, on_target=OnTarget(on.name, before, None, str(e)))
    return replace(outcome, on_target=OnTarget(on.name, before, after))


def _other(there: Quality, here: Quality) -> str | None:
    """Where another runtime is far from what onnxruntime makes of the same model; None where it is not."""
    for a, b in zip(there.outputs, here.outputs, strict=True):
        least = min(FINE_DB if b.sqnr_db is None else b.sqnr_db, FINE_DB) - OFF_DB
        if a.kind != "labels" and a.weight > 0 and a.sqnr_db is not None and not a.sqnr_db >= least:
            return f"'{a.name}' has {told_db(a.sqnr_db)} there, {told_db(b.sqnr_db)} in onnxruntime"
    return None


def lost_on_target(outcome: Outcome) -> Why | None:
    """What speaks against a rewrite in the target's runtime; None where nothing does, or nobody knows."""
    seen = outcome.on_target
    if seen is None:
        return None
    if seen.after is None:
        return Why("loses", f"does not run in {seen.runtime} as the model did ({seen.failure})")
    lost = losing(seen.before, seen.after, OUTPUT_DB)
    return None if lost is None else Why("loses", f"lost in {seen.runtime} on the calibration data ({lost})")
