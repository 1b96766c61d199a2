"""Apply a selection: decide for every region, widen, and write the entries."""

from __future__ import annotations

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.records.history import rewritten, stamp
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.memory import no_cycles
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.entries import entries, entry
from onnx_ocs.translation.selection import Selection, find_outliers
from onnx_ocs.translation.widen import widen

__all__ = ["apply"]


def apply(model: onnx.ModelProto, context: Context, selection: Selection, by: Pass, signed: bool = False) -> PassResult:
    """Widen what the selection chooses, in place.

    Args:
        model: the model.
        context: with calibration samples the outliers are measured, without they are estimated.
        selection: which channels.
        by: the pass that does it; its name and version are written on all that is edited.
        signed: whether signed integers must keep their sign.

    Returns:
        One report entry for each quantized activation.
    """
    if rewritten(model):
        if context.again:
            return PassResult(False)
        regions = find_regions(EditableGraph(model), {}, "already_translated")
        return PassResult(False, [entry(by.name, r, r.refusal) for r in regions])
    with no_cycles():
        graph = EditableGraph(model)
        shapes = infer_shapes(model, nodes=graph.nodes)
        regions = find_regions(graph, shapes, bounded=context.bounded)
    decisions = selection.decide(graph, regions, find_outliers(model, graph, regions, selection.copies, context))
    accepted = [d for d in decisions if isinstance(d, Decision)]
    if not accepted:
        return PassResult(False, entries(by.name, regions, decisions, ()))
    with no_cycles():
        widened = widen(graph, shapes, accepted, signed)
        graph.commit(lambda node: stamp(node, by.name, by.version))
        return PassResult(True, entries(by.name, regions, decisions, widened))
