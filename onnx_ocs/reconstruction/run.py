"""Fit all layers of a model, judge the result at its outputs, and write what stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import onnx

from onnx_ocs.calibration.context import Context, Progress
from onnx_ocs.calibration.feed import together
from onnx_ocs.errors import UserError
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.staging import scratch
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.reconstruction.entries import entries
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.fit import Fitted, Fitting
from onnx_ocs.reconstruction.folds import TURNS
from onnx_ocs.reconstruction.judged import judged, written
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.masks import mask_of, weights_of
from onnx_ocs.reconstruction.pairing import Reference, pair_layers
from onnx_ocs.reconstruction.standin import seen_in, stand_in
from onnx_ocs.reconstruction.train import Effort, Refinement, parse_refine, refine
from onnx_ocs.records.history import history, stamp
from onnx_ocs.records.steps import SCALE
from onnx_ocs.records.weights import REFITTED
from onnx_ocs.refusals import Refusal

__all__ = ["reconstruct", "told_by"]

FEWEST = 16  # samples without which nothing is fitted
LEAST_FEEDS = 4  # feeds, where a model has a fixed batch
BATCH = 8  # samples a run
LOOKED_AT = 4  # samples on which tensors are compared


def reconstruct(
    model: onnx.ModelProto,
    context: Context,
    mask_input: str | None,
    weights: Callable[[Mapping[str, Array]], Array | None] | None,
    refine_by: str | None,
    by: Pass,
) -> PassResult:
    """Fit what can be fitted, in place.

    Args:
        model: the model.
        context: calibration samples, the float model if there is one, and the model before all passes.
        mask_input: the input that says which positions count; None where it is found by structure.
        weights: gives how much samples and positions count, instead of a mask (`weights_of`).
        refine_by: steps or time of a refinement with gradients behind the fit (`parse_refine`); None for none.
        by: the pass that is named in the file.

    Raises:
        UserError: there are no calibration samples, or the model does not run on them.
    """
    effort = None if refine_by is None else parse_refine(refine_by)
    if any(e.get("pass") == by.name for e in history(model)):
        return PassResult(False)
    if context.samples is None:
        raise UserError("reconstruct: weights are fitted on calibration samples: give --calib")
    some = list(islice(context.samples.batches(1, context.limit), LOOKED_AT))
    total, unit = context.total(), together(model, some[0])
    if total < FEWEST or total < LEAST_FEEDS * unit:
        why = f"reconstruct: fewer than {FEWEST} calibration samples, or all in a few batches: nothing was fitted"
        return PassResult(False, notes=[why])
    original = context.original or model
    exact = stand_in(original)
    floats = context.floats if context.floats is not None and _takes(context.floats, some) else None
    aim = None if floats is not None else original
    start = graph, read, layers = _layers(model, aim)
    mask = mask_of(graph, mask_input, some) if weights is None else weights_of(weights)
    pairs = pair_layers(graph, layers, floats, exact, some)
    with scratch() as folder:  # large weights lie there

        def fit(turn: int) -> list[Fitted]:
            place = folder / str(turn)
            place.mkdir()
            own, _, maps = start if turn == 0 else _layers(model, aim)  # a fit writes into its graph
            reference, progress = Reference(floats, exact), told_by(context.progress, turn)
            fitting = Fitting(own, maps, pairs, reference, place, context.seed, total, unit, mask, progress, turn)
            fitting.run(_batches(context))
            return fitting.fitted

        found = judged(model, fit, floats or exact, mask, _batches(context), unit, context, by)
        if found.kept:
            model.CopyFrom(written(model, found.fitted, found.kept, by))
        told = entries(read, found.fitted, found.kept)
    refined = None if effort is None else _refined(model, effort, floats or exact, context, by)
    notes = [] if refined is None else [_told(refined)]
    changed = bool(found.kept) or (refined is not None and refined.best > 0)
    return PassResult(changed, reconstructions=told, notes=notes, sure=found.sure)


def told_by(progress: Progress, turn: int) -> Progress:
    """What is told of one fit of several."""
    others = f", other samples held out: {turn} of {TURNS - 1}" if turn else ""
    return lambda what, done, total: progress(what + others, done, total)


def _layers(
    model: onnx.ModelProto, original: onnx.ModelProto | None
) -> tuple[EditableGraph, list[LinearMap | Refusal], list[LinearMap]]:
    """A copy of the model to work on, its layers and why others cannot be read, and the former as they are fitted.

    Args:
        model: the model.
        original: what the layers aim at a stand-in of; None where there is a float model.
    """
    work = onnx.ModelProto()
    work.CopyFrom(model)
    graph = EditableGraph(work)
    found = find_maps(graph)
    layers = [f for f in found if isinstance(f, LinearMap)]
    return graph, found, layers if original is None else seen_in(layers, original)


def _refined(
    model: onnx.ModelProto, effort: Effort, truth: onnx.ModelProto | None, context: Context, by: Pass
) -> Refinement:
    """Train what was fitted, in place; nodes with new values carry the pass's name."""
    assert context.samples is not None
    new, done = refine(
        model, context.samples, truth, steps=effort.steps, minutes=effort.minutes, seed=context.seed,
        limit=context.limit, progress=context.progress,
    )  # fmt: skip
    if done.best:
        for n in new.graph.node:
            if any(p.key in (REFITTED, SCALE) for p in n.metadata_props):
                stamp(n, by.name, by.version)
        model.CopyFrom(new)
    return done


def _told(done: Refinement) -> str:
    """What came of a refinement, in one sentence."""
    if not done.best:
        return f"refinement with gradients changed nothing ({done.note})"
    gains = [10 * math.log10(max(a, 1e-30) / max(b, 1e-30)) for a, b in done.errors.values()]
    return (
        f"refined with gradients: {done.layers} layers and {done.rescaled} steps changed, {min(gains):+.2f} dB or more "
        f"at every output on {done.samples[1]} held-out samples (step {done.best} of {done.steps})"
    )


def _batches(context: Context) -> Callable[[], Iterator[Mapping[str, Array]]]:
    """What gives the samples, batch by batch, each time it is called."""
    samples = context.samples
    assert samples is not None
    return lambda: samples.batches(BATCH, context.limit)


def _takes(floats: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> bool:
    """Whether the float model can be fed what the quantized one is fed."""
    known = {t.name for t in floats.graph.initializer}
    return bool(feeds) and {i.name for i in floats.graph.input} - known <= feeds[0].keys()
