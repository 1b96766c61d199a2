"""Does a model compute the same at ORT_ENABLE_ALL as at ORT_DISABLE_ALL, layer by layer?

onnxruntime's optimizer rounds otherwise in places, in the original too: what the original shows is not held against
the rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.cuts import Cut
from onnx_ocs.runtime.instrument import cut, expose
from onnx_ocs.runtime.session import Session, attempt, attempt_run
from onnx_ocs.verification.difference import FEW, Difference

__all__ = ["between", "excess"]


def between(
    model: onnx.ModelProto,
    at: Mapping[Cut, str],
    value: Callable[[Cut, Array], Array],
    samples: Samples,
    limit: int,
) -> Difference | str:
    """How far a model's quantized activations at ORT_ENABLE_ALL are from those at ORT_DISABLE_ALL.

    Args:
        model: the model, cut at every quantized activation: differences do not add up.
        at: where to cut it.
        value: the steps that a tensor fed at a cut stands for.
        samples: what to feed.
        limit: number of samples.

    Returns:
        The difference, or why there is none.
    """
    difference = Difference()
    whole = attempt(expose(model, at.values()), "disable_all")
    sessions: tuple[Session, Session] | None = None
    names: dict[str, str] = {}
    for feed in samples.batches(1, limit):
        got = attempt_run(whole, feed) if isinstance(whole, Session) else whole
        if isinstance(got, str):
            return f"could not be compared between levels: {got}"
        fed = {t: got[t] for t in at.values()}
        if sessions is None:
            model_cut, names = cut(model, fed, infer_shapes(model))
            low, high = attempt(model_cut, "disable_all"), attempt(model_cut, "enable_all")
            if isinstance(low, str) or isinstance(high, str):
                return "cut into layers does not load at both levels"
            sessions = low, high
        complete = {**feed, **{k: v for k, v in fed.items() if k in names}}
        a, b = attempt_run(sessions[0], complete), attempt_run(sessions[1], complete)
        if isinstance(a, str) or isinstance(b, str):
            return "cut into layers does not run at both levels"
        for c, t in at.items():
            if t in names:
                difference.integers(c.tensor, value(c, a[names[t]]), value(c, b[names[t]]), None)
        for o in (o.name for o in model.graph.output):
            if o in a:
                difference.floats(o, a[o], b[o])
        del got, fed, complete, a, b  # before the next ones come
    return difference


def excess(now: Difference, known: Difference) -> bool:
    """Whether a rewritten model differs more between the levels than the original does."""
    many = now.mismatches > 3 * known.mismatches + 5e-3 * now.values + FEW
    return many or now.max_steps > max(1, 2 * known.max_steps)
