"""Quantizers of 16 bits: the old range in steps 257 times finer, or a wider one.

    uint8 (s, z)  ->  uint16 (s / 257, 257 z)         255 * 257 = 65535: the range stays, every old value stays
    int8  (s, 0)  ->  int16  (s / 256, 0)             symmetric stays symmetric: it reaches as far up as it does down

Any other number of levels, of 4-bit integers or between the bounds of a Clip (QCDQ), goes the same way: the grid of 16
bits over the range.  The Clip goes, for onnxruntime has none for 16 bits, and the type's own ends saturate where its
bounds did.  A side on which values are clipped grows to hold them, but not where its end stands for an activation: at 0
where that is the type's end (a ReLU), at 6 where a ReLU6 was folded in.

The standard has such types from opset 21 on.  Below, Q and DQ are onnxruntime's own, of the domain com.microsoft.
Biases on the scale s_x * s_w follow (`onnx_ocs.translation.rescale`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import QDQ_DOMAINS, is_op, label
from onnx_ocs.qdq.intervals import Interval
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.records.grids import Sixteen
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.regridding.edits import alone
from onnx_ocs.regridding.grids import MARGIN, Extremes, Grid, grid_over
from onnx_ocs.translation.rescale import rescale

__all__ = ["BYTE", "check_16", "grid_16", "range_16", "to_16", "type_16"]

BYTE = 255  # steps of 8 bits
FIRST = 21  # the opset
CONTRIB = QDQ_DOMAINS[-1]


def type_16(q: Quantizer) -> np.dtype[np.uint16] | np.dtype[np.int16]:
    """The type of 16 bits for a quantizer: with a sign where it has one."""
    return np.dtype(np.uint16) if q.dtype.name.startswith("u") else np.dtype(np.int16)


def range_16(region: Region, seen: Extremes | None) -> Interval:
    """What a quantizer of 16 bits is to hold: its range, and what is clipped by more than an activation.

    Args:
        region: its region; one step.
        seen: of the tensor without quantizers; None: the range stays.
    """
    q = region.quantizer
    low, high = -float(q.x_low.reshape(-1)[0]), float(q.x_clip.reshape(-1)[0])
    if seen is None:
        return low, high
    bottom, top = region.firm  # what other quantizers cannot express now, they may with 16 bits
    wanted = min(MARGIN * float(seen.high.max(initial=0.0)), top, region.ceiling)
    lowest = max(MARGIN * float(seen.low.min(initial=0.0)), bottom)
    return low if q.rectifies else min(low, lowest), max(high, wanted)


def grid_16(region: Region, seen: Extremes | None) -> Grid:
    """The grid of 16 bits over `range_16`."""
    q, kind = region.quantizer, type_16(region.quantizer)
    limits = np.iinfo(kind)
    return grid_over(replace(q, dtype=kind, qmin=int(limits.min), qmax=int(limits.max)), range_16(region, seen))


def check_16(graph: Graph, region: Quantized, grid: Grid | None, types: Collection[str]) -> Refusal | None:
    """Whether a quantizer can get 16 bits.

    Args:
        graph: the graph, not edited.
        region: its region.
        grid: the grid of 16 bits; None: one over the range that it has.
        types: of activations that the target takes.

    Returns:
        None, or why not.
    """
    at = label(region.nodes[0])
    if not isinstance(region, Region):
        return region.refusal
    q = region.quantizer
    if q.scale.size != 1:
        return Refusal.of("blocked", at)
    if q.float_dtype != np.float32:
        return Refusal("half_precision", f"{q.float_dtype.name} does not tell 65536 levels apart", at)
    if type_16(q).name not in types or q.qmax - q.qmin > BYTE:
        return Refusal.of("target", at)
    quantizes = (*region.nodes, *region.walk.carried)
    shared = [n for n in quantizes if not (alone(graph, n) and _untyped(graph, n))]
    if shared:
        return Refusal.of("integers_leave", label(shared[0]))
    named = [n for n in (*quantizes, *region.walk.dequantizers) if _names_its_type(graph, n)]
    if named:
        return Refusal.of("typed", label(named[0]))
    return check_rescale(graph, region, np.asarray((grid or grid_16(region, None)).scale))


def _contrib(graph: Graph) -> bool:
    """Whether the standard has no quantizers of 16 bits yet."""
    return max((o.version for o in graph.model.opset_import if o.domain in ("", "ai.onnx")), default=1) < FIRST


def _names_its_type(graph: Graph, node: NodeProto) -> bool:
    """Whether an attribute says more than the channel axis: a type, or what the other domain does not know."""
    more = {a.name for a in node.attribute} - {"axis"}
    return bool(more) if _contrib(graph) else "output_dtype" in more


def _untyped(graph: Graph, quantize: NodeProto) -> bool:
    """Whether nobody takes the type of its integers for his own (CastLike)."""
    t = quantize.output[0]
    return len(graph.readers(t)) == len(graph.value_readers(t))


def to_16(graph: EditableGraph, region: Region, grid: Grid, original: Graph | None = None) -> list[Sixteen]:
    """Give a region's quantizers 16 bits (checked before), and those that carry it on.

    Args:
        graph: the graph.
        region: the region.
        grid: of 16 bits.
        original: the graph before the run, where the step may have changed since: biases are rounded once.
    """
    q, walk, kind = region.quantizer, region.walk, type_16(region.quantizer)
    contrib, edits = _contrib(graph), []
    if contrib and all(o.domain != CONTRIB for o in graph.model.opset_import):
        graph.model.opset_import.add(domain=CONTRIB, version=1)
    made: dict[tuple[int, ...], str] = {}
    for n in (*region.nodes, *walk.carried, *walk.dequantizers):
        scale = graph.constant(n.input[1])
        assert scale is not None
        if scale.shape not in made:
            name = n.input[2] if len(n.input) > 2 and n.input[2] else n.input[1]
            made[scale.shape] = graph.add_initializer(name + "_16", np.full(scale.shape, grid.zero_point, kind))
        graph.set_input(n, 2, made[scale.shape])
        if contrib:
            n.domain = CONTRIB
        graph.reshaped.add(n.output[0] if is_op(n, "QuantizeLinear") else n.input[0])  # value_info has the old type
        if is_op(n, "QuantizeLinear"):
            edits.append(Sixteen(str(n.output[0]), kind.name, int(q.zero_point), grid.zero_point))
        else:
            _without_clip(graph, n)
    rescale(graph, region, np.asarray(grid.scale), original)
    return edits


def _without_clip(graph: EditableGraph, dequantize: NodeProto) -> None:
    """Let a DequantizeLinear read around the Clip in front of it."""
    clip = graph.producer[dequantize.input[0]]
    if is_op(clip, "Clip"):
        graph.set_input(dequantize, 0, clip.input[0])
