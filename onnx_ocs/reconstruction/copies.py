"""Where a translated file has copies: whose rows follow others', and what is added up behind a depthwise layer.

    producer (early)      row j is row origin[j], its bias less level[j] * X_clip (or the whole range)
    depthwise reader      channel c of the sum behind it belongs to all rows j with origin[j] = c

Layouts are read from the file (`onnx_ocs.widen.read_layouts`) and followed as far as layers read them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.qdq.weights import read_weight
from onnx_ocs.records.layouts import quantizers, read_layouts
from onnx_ocs.regions.wide import Wide

__all__ = ["Tie", "folded", "layouts", "ties"]

SAME_CHANNELS = (
    "DequantizeLinear", "QuantizeLinear", "Clip", "Identity", "Cast", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Pad", "Resize", "Upsample", "Flatten", "Reshape", "Squeeze", "ReduceMean", "Mul", "Div", "Relu",
)  # fmt: skip
FUNCTIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Add", "BatchNormalization", "Identity", "Mul", "Cast")


@dataclass(frozen=True, eq=False)
class Tie:
    """Rows of a producer that follow others.

    Attributes:
        origin: for every row, the channel that it belongs to, (rows,).
        base: for every channel, its own row, (channels,).
        shift: what each row's bias is less than its base's, float64 (rows,).
        halved: whether copies hold half of the value (pass `split`).
    """

    origin: Array
    base: Array
    shift: Array
    halved: bool


def layouts(graph: Graph) -> dict[str, Wide]:
    """The layout of every wide tensor that a layer may read, by name; the axis is not kept behind a Flatten."""
    found: dict[str, Wide] = {}
    stack = [(name, wide) for name, wide in read_layouts(graph.model).values()]
    while stack:
        tensor, wide = stack.pop()
        if tensor in found:
            continue
        found[tensor] = wide
        for n in graph.readers(tensor):
            if n.input[0] != tensor and not is_op(n, "Mul"):
                continue
            if is_op(n, *SAME_CHANNELS):
                stack.append((n.output[0], wide))
            elif is_op(n, "Transpose") and attribute(n, "perm") and wide.axis >= 0:
                stack.append((n.output[0], replace(wide, axis=list(attribute(n, "perm")).index(wide.axis))))
            elif _depthwise(graph, n, wide):
                weight = read_weight(graph, n, 1)
                assert weight is not None
                inner = weight.shape[0] // wide.origin.size
                origin, level = wide.spread(inner)
                wider = Wide(1, origin, level, wide.narrow * inner, None, halved=wide.halved)
                stack.append((n.output[0], wider))
    return found


def _depthwise(graph: Graph, node: NodeProto, wide: Wide) -> bool:
    weight = read_weight(graph, node, 1) if is_op(node, "Conv") else None
    groups = int(attribute(node, "group", 1))
    return weight is not None and groups > 1 and groups == wide.origin.size and weight.shape[0] % groups == 0


def ties(graph: Graph) -> dict[int, Tie]:
    """The producers that make copies themselves, by id of the node."""
    found: dict[int, Tie] = {}
    for name, wide in read_layouts(graph.model).values():
        q, *copies = quantizers(graph, name)
        if copies:  # made behind the producer
            continue
        grid = read_quantizer(graph, q)
        layer = _producer(graph, str(q.input[0]))
        if layer is None or not isinstance(grid, Quantizer):
            continue
        weight = read_weight(graph, layer, 1)
        if weight is None or wide.origin.size not in weight.shape:
            continue
        base = np.zeros(wide.narrow, np.int64)
        base[wide.origin[wide.level == 0]] = np.flatnonzero(wide.level == 0)
        size = grid.x_clip + grid.x_low if wide.full else grid.x_clip
        step = np.broadcast_to(size, wide.origin.shape if size.size > 1 else (1,))
        found[id(layer)] = Tie(wide.origin, base, wide.level * step, wide.halved)
    return found


def _producer(graph: Graph, tensor: str) -> NodeProto | None:
    """The layer in front of a quantizer, through functions of one value and constants."""
    for _ in range(16):
        n = graph.producer.get(tensor)
        if n is None or is_op(n, "Conv", "ConvTranspose", "Gemm", "MatMul"):
            return n
        if not is_op(n, *FUNCTIONS):
            return None
        varying = [t for t in n.input if t and not graph.is_constant(t)]
        if len(varying) != 1:
            return None
        tensor = varying[0]
    return None


def folded(graph: Graph, tensor: str, wide: Wide) -> str | None:
    """The tensor in which a wide tensor's copies are all added onto their channels; None if there is none.

    Gather, Concat and Add of channels are followed as what they are: linear maps, rows of which channels are summed.
    """
    start = np.eye(wide.origin.size, dtype=np.int8)
    goal = (np.arange(wide.narrow)[:, None] == wide.origin[None]).astype(np.int8)
    known: dict[str, Array] = {tensor: start}
    stack = [tensor]
    while stack:
        for n in graph.readers(stack.pop()):
            parts = [known.get(t) for t in n.input]
            out = _channel_map(graph, n, parts, wide.axis)
            if out is None or n.output[0] in known:
                continue
            if out.shape == goal.shape and np.array_equal(out, goal):
                return str(n.output[0])
            known[n.output[0]] = out
            stack.append(n.output[0])
    return None


def _channel_map(graph: Graph, node: NodeProto, parts: list[Array | None], axis: int) -> Array | None:
    """What a node makes of channel maps; None if it is none of those that fold copies."""
    if is_op(node, "Gather") and parts[0] is not None and int(attribute(node, "axis", 0)) == axis:
        where = graph.constant(node.input[1])
        return None if where is None else parts[0][where.reshape(-1)]
    whole = [p for p in parts if p is not None]
    if len(whole) != len(parts):
        return None
    if is_op(node, "Concat") and int(attribute(node, "axis", 0)) == axis:
        return np.concatenate(whole)
    if is_op(node, "Add") and whole[0].shape == whole[1].shape:
        return np.asarray(whole[0] + whole[1])
    return None
