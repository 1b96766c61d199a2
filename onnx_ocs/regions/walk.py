"""Walk from a quantizer to the layers that read it, and see along which axis its channels lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.layers import is_layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer, is_idle
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.carry import NOT_LINEAR, Route
from onnx_ocs.regions.channel_axis import channel_axis
from onnx_ocs.regions.region import Walk
from onnx_ocs.regions.routes import route
from onnx_ocs.regions.wide import Wide

__all__ = ["best_walk"]

MOST_CHANNELS = 1 << 20  # a longer axis is none of channels


def _channels(graph: Graph, tensor: str, axis: int, shapes: Mapping[str, Shape]) -> int | None:
    shape = shapes.get(tensor)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and 0 < size <= MOST_CHANNELS else None


def best_walk(
    graph: Graph, tensor: str, nodes: Sequence[NodeProto], q: Quantizer, shapes: Mapping[str, Shape]
) -> Walk | Refusal:
    """Follow the readers along every axis that may be the channel's; the one with most layers wins.

    Where no layer reads the tensor, its maker says which one it is (`onnx_ocs.regions.channel_axis`).

    Args:
        graph: the graph.
        tensor: the float tensor.
        nodes: its QuantizeLinear nodes on one grid.
        q: the grid.
        shapes: its tensors' shapes, as far as known.

    Returns:
        What reads the tensor, or why that cannot be known.
    """
    shape = shapes.get(tensor)
    rank = None if shape is None else len(shape)
    axes = [1, -1] if rank is None else [a for a in dict.fromkeys((1, rank - 1, *range(1, rank - 1))) if 0 < a < rank]
    if q.axis is not None:
        axes = [q.axis % rank if rank is not None else q.axis]
    best: Walk | None = None
    missing = False
    for axis in axes:
        channels = _channels(graph, tensor, axis, shapes) or _layer_channels(graph, nodes, axis)
        if not channels:
            missing = True
            continue
        if q.scale.size not in (1, channels):
            return Refusal("bad_scale", f"{q.scale.size} scales for {channels} channels", label(nodes[0]))
        walk = _walk(graph, nodes, q, axis, channels, shapes)
        if best is None or len(walk.weights) > len(best.weights):
            best = walk
        if all(why == NOT_LINEAR for _, why in walk.folded):  # no other axis leads further
            break
    axis = channel_axis(graph, tensor, shapes) if best is not None and not best.weights else None
    if best is not None and axis is not None and axis in axes and axis != best.axis:
        channels = _channels(graph, tensor, axis, shapes)
        best = _walk(graph, nodes, q, axis, channels, shapes) if channels and q.scale.size in (1, channels) else best
    at = label(nodes[0])
    if best is not None and best.weights and ((rank is None and best.axis >= 0) or best.unranked):
        return Refusal.of("unknown_rank", at)
    if best is None:
        if rank is not None and rank < 2:
            return Refusal.of("no_weight_consumer", at, f" (rank {rank})")
        return Refusal.of("unknown_channels" if missing else "no_weight_consumer", at)
    if not best.weights and not any(_dequantized(graph, n.output[0], q) for n in nodes):
        return Refusal.of("not_dequantized", at)
    return best


def _dequantized(graph: Graph, integers: str, q: Quantizer) -> bool:
    """Whether a DequantizeLinear reads integers, directly or behind nodes that hand them on as they are."""
    left = [integers]
    while left:
        for r in graph.readers(left.pop()):
            if is_op(r, "DequantizeLinear", "Clip"):
                return True
            if is_idle(r, q.dtype):
                left.append(r.output[0])
    return False


def _layer_channels(graph: Graph, nodes: Sequence[NodeProto], axis: int) -> int | None:
    """Channel count from the first layer that reads the tensor directly, when shape inference does not know it."""
    tensors = [n.output[0] for n in nodes]
    for _ in range(8):
        following: list[str] = []
        for t in tensors:
            for r in graph.readers(t):
                if is_layer(r) and r.input[0] == t:
                    layer = read_layer(graph, r)
                    if layer is not None and layer.reads(axis, None):
                        return layer.inputs
                elif is_op(r, "Clip", "DequantizeLinear", "QuantizeLinear", "Relu", "MaxPool", "Cast", "Identity"):
                    following.append(r.output[0])
        tensors = following
    return None


@lru_cache
def _interleaved(channels: int) -> tuple[Array, Array]:
    """One copy of every channel, beside it: spread evenly over any grouping, so that grouped layers show themselves."""
    origin, level = np.repeat(np.arange(channels), 2), np.tile([0, 1], channels)
    origin.flags.writeable = level.flags.writeable = False
    return origin, level


def _walk(
    graph: Graph, nodes: Sequence[NodeProto], q: Quantizer, axis: int, channels: int, shapes: Mapping[str, Shape]
) -> Walk:
    origin, level = _interleaved(channels)
    wide = Wide(axis, origin, level, channels, q, integer=False)
    stack: list[tuple[NodeProto, int, Wide, bool]] = [(n, 0, wide, False) for n in nodes]
    joined = False
    weights: dict[int, tuple[NodeProto, Array, float]] = {}
    dequantizers: dict[int, NodeProto] = {}
    leave = False
    folded: dict[tuple[int, str], tuple[NodeProto, str]] = {}
    carried: list[NodeProto] = []
    groups, depthwise, unranked, seen = 1, False, False, set()
    while stack:
        node, index, at, mixed = stack.pop()
        if (id(node), index) in seen:
            continue
        seen.add((id(node), index))
        r: Route = route(graph, node, index, at, shapes)
        if r.kind in ("weight", "grouped", "depthwise"):
            weights[id(node)] = (node, at.origin[at.level == 1], at.factor)
        depthwise = depthwise or r.kind == "depthwise"
        if r.kind == "grouped" and at.narrow == channels:  # behind a Concat the groups are those of the joined channels
            groups = int(np.lcm(groups, int(attribute(node, "group", 1))))
        if is_op(node, "DequantizeLinear") and r.kind == "carry":
            dequantizers[id(node)] = node
        leave = leave or (at.integer and r.kind == "fold")
        if r.kind == "fold":
            unranked = unranked or (at.axis >= 0 and node.input[index] not in shapes)
            folded[id(node), r.why] = (node, r.why)
        elif r.output is not None and node.output:
            if is_op(node, "QuantizeLinear") and not any(node is n for n in nodes):
                carried.append(node)
                joined = joined or mixed
            t = node.output[0]
            mixed = mixed or is_op(node, "Concat")
            leave = leave or (r.output.integer and (t in graph.outputs or bool(graph.captured(t))))
            readers = ((n, k) for n in graph.readers(t) for k, i in enumerate(n.input) if i == t)
            stack += [(n, k, r.output, mixed) for n, k in readers]
    return Walk(
        axis=axis,
        channels=channels,
        weights=tuple(n for n, _, _ in weights.values()),
        depthwise=depthwise,
        groups=groups,
        folded=tuple(folded.values()),
        carried=tuple(carried),
        columns=tuple(c for _, c, _ in weights.values()),
        factors=tuple(f for _, _, f in weights.values()),
        dequantizers=tuple(dequantizers.values()),
        integers_leave=leave,
        joined=joined,
        unranked=unranked,
    )
