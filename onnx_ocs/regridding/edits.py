"""The edits: a pair is left out, the inputs of a Concat get pairs of their own, a quantizer gets another grid.

Each is declared (`onnx_ocs.records.grids`, `onnx_ocs.records.steps`), so that the verification can make it on the
original by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.qdq.layers import LAYERS
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.grids import LeftOut, Part, Split, ZeroPoint
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.regridding.grids import Grid
from onnx_ocs.translation.rescale import rescale

__all__ = ["alone", "check_grid", "check_left_out", "leave_out", "regrid", "split"]


# ---- left out -------------------------------------------------------------------------------------------------------


def _pairs(graph: Graph, region: Quantized) -> list[tuple[NodeProto, NodeProto]] | None:
    """A region's quantizers, each with a DequantizeLinear right behind it; None where others read the integers."""
    found: list[tuple[NodeProto, NodeProto]] = []
    for n in region.nodes:
        stack = [str(n.output[0])]
        while stack:
            t = stack.pop()
            if t in graph.outputs or graph.captured(t):
                return None
            for r in graph.value_readers(t):
                d = read_quantizer(graph, r) if is_op(r, "DequantizeLinear") else None
                if isinstance(d, Quantizer) and _same_parameters(d, region.quantizer):
                    found.append((n, r))
                elif is_op(r, "Clip") and t == n.output[0]:
                    stack.append(r.output[0])
                else:
                    return None
    return found


def _same_parameters(a: Quantizer, b: Quantizer | None) -> bool:
    return b is not None and a.axis == b.axis and a.same_parameters(b)


def check_left_out(graph: Graph, region: Quantized) -> Refusal | None:
    """Whether a region's quantizer can be left out: nothing but floats may read it, layers apart.

    Args:
        graph: the graph.
        region: the region.

    Returns:
        None, or why not.
    """
    at = label(region.nodes[0])
    if region.quantizer is None:
        return region.refusal
    if region.folded or (region.quantizer.rectifies and region.bounds[0] < 0):
        return Refusal.of("acts", at)
    pairs = _pairs(graph, region)
    if pairs is None:
        return Refusal.of("integers_leave", at)
    taken = 0
    for _, d in pairs:
        t = d.output[0]
        readers = graph.readers(t)
        others = [r for r in readers if not is_op(r, *LAYERS)]
        if t in graph.outputs and (len(others) < len(readers) or graph.captured(t)):
            return Refusal.of("kernel", at)
        taken += len(others) + (t in graph.outputs)
    return None if taken else Refusal.of("kernel", at)


def leave_out(graph: EditableGraph, region: Quantized) -> list[LeftOut]:
    """Let all but layers read what a region's quantizers read (checked before)."""
    edits = []
    for q, d in _pairs(graph, region) or ():
        source, t = str(q.input[0]), str(d.output[0])
        for r in graph.readers(t):
            if not is_op(r, *LAYERS):
                for k, i in enumerate(r.input):
                    if i == t:
                        graph.set_input(r, k, source)
        identity = None
        if t in graph.outputs:
            graph.rename_output(t, graph.fresh(t + "_quantized"))
            graph.add_node("Identity", [source], t)
            identity = graph.added[-1].name
        edits.append(LeftOut(t, identity))
    return edits


# ---- split ----------------------------------------------------------------------------------------------------------


def split(graph: EditableGraph, region: Quantized, grids: Mapping[int, Grid]) -> Split:
    """Give inputs of the Concat in front of a region's quantizer pairs of their own.

    Args:
        graph: the graph.
        region: the region; its tensor is written by a Concat.
        grids: by input of the Concat.
    """
    concat, like = graph.producer[region.tensor], region.nodes[0]
    q = region.quantizer
    assert q is not None
    parts = []
    for k, grid in grids.items():
        source = str(concat.input[k])
        scale = graph.add_initializer(f"{source}_scale", np.asarray(grid.scale, q.float_dtype))
        zero = graph.add_initializer(f"{source}_zero_point", np.asarray(grid.zero_point).astype(q.dtype))
        quantized, dequantized = (graph.fresh(f"{source}_{end}") for end in ("quantized", "dequantized"))
        graph.add_node("QuantizeLinear", [source, scale, zero], quantized, like.domain)
        graph.add_node("DequantizeLinear", [quantized, scale, zero], dequantized, like.domain)
        names = graph.added[-2].name, graph.added[-1].name
        parts.append(Part(k, quantized, dequantized, names, grid.scale, grid.zero_point))
        graph.set_input(concat, k, dequantized)
    return Split(region.tensor, tuple(parts))


# ---- another grid ---------------------------------------------------------------------------------------------------


def check_grid(graph: Graph, region: Quantized, grid: Grid) -> Refusal | None:
    """Whether a region can get another grid.

    Args:
        graph: the graph, not edited.
        region: the region.
        grid: the new one.

    Returns:
        None, or why not.
    """
    at = label(region.nodes[0])
    if not isinstance(region, Region):
        return region.refusal
    if region.quantizer.scale.size != 1:
        return Refusal.of("blocked", at)
    lifted = region.quantizer.rectifies and region.bounds[0] < 0 and grid.zero_point != region.quantizer.qmin
    if region.folded or lifted:
        return Refusal.of("acts", at)
    moved = [n for n in (*region.nodes, *region.walk.carried) if not alone(graph, n)]
    if grid.zero_point != int(region.quantizer.zero_point) and moved:
        return Refusal.of("integers_leave", label(moved[0]))
    return check_rescale(graph, region, np.asarray(grid.scale))


def alone(graph: Graph, n: NodeProto) -> bool:
    """Whether DequantizeLinears alone read a quantizer's integers, or its Clip and they."""
    readers = graph.value_readers(n.output[0])
    behind = [r for c in readers if is_op(c, "Clip") for r in graph.value_readers(c.output[0])]
    return all(is_op(r, "DequantizeLinear", "Clip") for r in readers) and all(
        is_op(r, "DequantizeLinear") for r in behind
    )


def regrid(graph: EditableGraph, region: Region, grid: Grid) -> list[ZeroPoint]:
    """Give a region another step and zero-point (checked before), and the quantizers that carry it on."""
    q, walk = region.quantizer, region.walk
    edits = []
    if grid.zero_point != int(q.zero_point):
        for n in (*region.nodes, *walk.carried, *walk.dequantizers):
            scale = graph.constant(n.input[1])
            assert scale is not None
            zero = np.full(scale.shape, grid.zero_point).astype(q.dtype)
            name = n.input[2] if len(n.input) > 2 and n.input[2] else n.input[1]
            graph.set_input(n, 2, graph.add_initializer(name + "_moved", zero))
            if is_op(n, "QuantizeLinear"):
                edits.append(ZeroPoint(str(n.output[0]), int(q.zero_point), grid.zero_point))
    if grid.scale != float(q.scale):
        rescale(graph, region, np.asarray(grid.scale))
    return edits
