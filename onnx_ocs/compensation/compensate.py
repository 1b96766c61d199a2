"""Compensate a model: find its blocks, fit branches, keep them where the output gains, insert them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.compensation.blocks import Block, find_blocks
from onnx_ocs.compensation.entries import FEWEST, block_entry
from onnx_ocs.compensation.fitting import Fitting
from onnx_ocs.compensation.ground_truth import find_truth
from onnx_ocs.compensation.menu import Menu
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.quality import compare, losing
from onnx_ocs.measurement.yardstick import outputs_of
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import Shape, infer_shapes
from onnx_ocs.model.staging import scratch
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.grids import Gains, new_gains
from onnx_ocs.records.history import history, stamp
from onnx_ocs.refusals import CATALOGUE
from onnx_ocs.regions.find import find_regions
from onnx_ocs.targets.ort import without_kernels

__all__ = ["compensate"]

SLICE = 10  # the opset from which Slice takes steps
SPILL = 4 << 30  # bytes of float activations that are kept in files
CHANNELS = 4096  # of a block: their equations take 3 GB; a language model's head would take a hundred times that


def compensate(
    model: onnx.ModelProto, context: Context, budget: float, forms: Sequence[str], linear: bool, by: Pass
) -> PassResult:
    """Fit branches and insert them, in place.

    Args:
        model: the model.
        context: calibration samples, and the model before all passes.
        budget: most extra MACs of all branches, as a share of the model's.
        forms: which forms of W are candidates besides a bias.
        linear: whether only a = b = 0 is tried.
        by: the pass that does it; its name and version are written on all that is inserted.

    Returns:
        One entry of the report's `compensations` for each block.

    Raises:
        UserError: there are no calibration samples, or the model does not run on them.
    """
    if any(e.get("pass") == by.name for e in history(model)):
        return PassResult(False)
    original = context.original or model
    if any(e.get("pass") in ("translate", "split") for e in history(original)):
        return PassResult(False, notes=[f"compensate: {CATALOGUE['translated_before'].why}"])
    samples = context.samples
    if samples is None:
        raise UserError(f"compensate: {CATALOGUE['no_samples'].why}: give --calib")
    if context.total() < FEWEST:
        return PassResult(False, notes=[f"compensate: {CATALOGUE['few_samples'].why}"])
    one = {k: [1, *v.shape[1:]] for k, v in next(samples.batches(1, 1)).items()}
    before, graph = Graph(original), Graph(model)
    declared, shapes = infer_shapes(original), infer_shapes(original, one)
    regions = find_regions(before, declared, bounded=context.bounded)
    exact = reference(original, regions)
    menus = [Menu(_sized(b, graph.opset, declared)) for b in find_blocks(before, regions, shapes)]
    _refuse(menus, graph, shapes, infer_shapes(model, one), _gained(before, new_gains(original, model)))
    macs = cost(original, one, kernels=False).macs
    ranks = {m.block.output: len(shapes.get(m.block.output, ())) for m in menus}
    with scratch() as folder:
        fitting = Fitting(model, menus, ranks, forms, linear, folder, context.progress)
        tensors = [m.block.output for m in fitting.open]
        truth = find_truth(original, exact, context.floats, tensors, samples.batches(1, context.limit))
        outputs = outputs_of(truth.model, original, context.judging)
        fitting.targets(truth, outputs, samples.batches(BATCH, context.limit), SPILL)
        fitted = fitting.fit(lambda: samples.batches(BATCH, context.limit), int(budget * macs), macs)
    if any(m.chosen is not None for m in menus):
        fitted.commit(lambda node: stamp(node, by.name, by.version))
        held = fitting.held(lambda: samples.batches(BATCH, context.limit), samples.description)
        now, then = compare(truth.model, [model, fitted.model], held, judging=context.judging)
        if losing(now, then, tolerance_db=0.0) is not None:
            for m in menus:
                m.chosen, m.why = None, m.why or "loses"
    changed = any(m.chosen is not None for m in menus)
    if changed:
        model.CopyFrom(fitted.model)
    return PassResult(changed, compensations=[block_entry(m, before) for m in menus])


def _sized(b: Block, opset: int, declared: Mapping[str, Shape]) -> Block:
    """A block without its input where strides fit the samples' size only, or cannot be written in this opset."""
    if b.input is None or all(s == 1 for s in b.strides):
        return b
    fixed = all(isinstance(d, int) for t in (b.input, b.output) for d in declared.get(t, (None, None))[1:])
    return b if fixed and opset >= SLICE else replace(b, input=None, strides=(), input_channels=0)


def _gained(graph: Graph, gains: Iterable[Gains]) -> set[str]:
    """The original's tensors that are multiplied by gains: from the constants that take them in to the quantizer."""
    found: set[str] = set()
    for e in gains:
        tensors = {str(graph.producer[q].input[0]) for q in e.quantized}
        for t, _ in e.sources:
            while t not in tensors:  # one reader after the other, each with one output
                found.add(t)
                t = str(graph.readers(t)[0].output[0])
        found |= tensors if e.sources else set()
    return found


def _refuse(
    menus: list[Menu], graph: Graph, before: Mapping[str, Shape], shapes: Mapping[str, Shape], gained: set[str]
) -> None:
    """Say of every block that cannot be compensated why."""
    elements = {v.name: v.type.tensor_type.elem_type for v in graph.model.graph.output}
    for m in menus:
        b = m.block
        if b.refusal is not None:
            m.why = b.refusal.code
        elif b.output not in graph.producer or shapes.get(b.output) != before.get(b.output):
            m.why = "widened"
        elif b.output in gained:
            m.why = "gained"
        elif b.channels > CHANNELS:
            m.why = "many_channels"
        elif elements.get(b.output, onnx.TensorProto.FLOAT) != onnx.TensorProto.FLOAT:
            m.why = "not_float"
    layers = [m for m in menus if not m.why and m.block.kind == "layer"]
    lost = without_kernels(graph.model, [m.block.output for m in layers])
    for m in layers:
        if m.block.output in lost:
            m.why = "integer_kernel"
