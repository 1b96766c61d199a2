"""How a widened tensor travels: the rules by which a node reads the copies, carries them on, or has them folded back.

A wide tensor's channel axis holds `origin.size` channels; wide channel j belongs to narrow channel `origin[j]`, and
the narrow value is the sum of all that belong to it:

    narrow[c] = sum over j with origin[j] = c of wide[j]

(with halved channels, OCS, a base and its copy hold half of the value each).
A layer with a constant weight reads it wide: its weight is repeated, w_wide[:, j] = w[:, origin[j]] (OCS+, eq. 10).
What is linear per channel, or keeps the integer grid, carries it on: pooling, Resize, Pad with zeros, Transpose,
Flatten, Reshape that keeps the channels, Concat, a multiplication by a positive constant, a depthwise Conv, a Q/DQ pair
on the same grid.  For every other reader the copies are folded back: gathered and added onto their channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.qdq.weights import read_weight
from onnx_ocs.regions.carry import NOT_LINEAR, Route, carry, concat, fits, fold, same, scaled
from onnx_ocs.regions.wide import Wide

__all__ = ["route", "weight_axis"]


def weight_axis(graph: Graph, node: NodeProto, index: int, wide_axis: int, rank: int | None) -> int | None:
    """The input-channel axis of the constant weight with which a dense layer reads `index`; None if it has none."""
    if index != 0:
        return None
    weight = read_weight(graph, node, 1)
    if weight is None or len(weight.shape) < 2:
        return None
    if is_op(node, "Conv", "ConvTranspose"):
        return (1 if node.op_type == "Conv" else 0) if wide_axis == 1 else None
    if is_op(node, "Gemm"):
        axis = 0 if attribute(node, "transA", 0) else 1
        return (1 if attribute(node, "transB", 0) else 0) if wide_axis in (axis, axis - 2) else None
    if is_op(node, "MatMul"):
        last = wide_axis == -1 or (rank is not None and wide_axis == rank - 1)
        return len(weight.shape) - 2 if last else None
    return None


def _conv(graph: Graph, node: NodeProto, index: int, wide: Wide, rank: int | None) -> Route:
    axis = weight_axis(graph, node, index, wide.axis, rank)
    weight = read_weight(graph, node, 1)
    if axis is None or weight is None:
        return fold("its weight is not a constant that can be repeated, or the channels lie on another axis")
    groups = int(attribute(node, "group", 1)) if node.op_type in ("Conv", "ConvTranspose") else 1
    if groups == 1:
        return Route("weight", axis=axis) if weight.shape[axis] == wide.narrow else fold("channel counts differ")
    channels = weight.shape[1] * groups if node.op_type == "Conv" else weight.shape[0]
    if channels != wide.narrow:
        return fold("channel counts differ")
    if wide.grouped(groups) and not (node.op_type == "Conv" and _per_input(graph, node)):
        return Route("grouped", axis=axis)
    if node.op_type == "Conv" and groups == channels:
        rows = wide.spread(weight.shape[0] // groups)
        return Route("depthwise", Wide(1, *rows, weight.shape[0], None, halved=wide.halved))
    return fold("the copies are not spread evenly over the groups")


def _per_input(graph: Graph, node: NodeProto) -> bool:
    weight = read_weight(graph, node, 1)
    return weight is not None and weight.channel_axis(graph) == 1


def route(graph: Graph, node: NodeProto, index: int, wide: Wide, shapes: Mapping[str, Shape]) -> Route:
    """What a node does with a wide value at one of its inputs.

    Args:
        graph: the graph.
        node: the reader.
        index: which input.
        wide: the layout.
        shapes: shapes in the *original* model.

    Returns:
        The route; "fold" is always possible.
    """
    rank = len(shapes[node.input[index]]) if node.input[index] in shapes else None
    if is_op(node, "QuantizeLinear"):
        q = read_quantizer(graph, node)
        if index == 0 and isinstance(q, Quantizer) and same(q, wide) and fits(q, wide, rank):
            return Route("carry", replace(wide, integer=True, grid=q))
        return fold("it quantizes on another grid")
    if is_op(node, "DequantizeLinear"):
        q = read_quantizer(graph, node)
        if index == 0 and wide.integer and wide.grid is not None and isinstance(q, Quantizer):
            alike = q is wide.grid or (
                np.array_equal(q.scale, wide.grid.scale) and np.array_equal(q.zero_point, wide.grid.zero_point)
            )
            if alike and fits(q, wide, rank):
                return Route("carry", replace(wide, integer=False))
        return fold("it dequantizes with other parameters")
    if wide.integer and is_op(node, "Clip"):
        alike = wide.grid is not None and integer_clip(graph, node, wide.grid) == (wide.grid.qmin, wide.grid.qmax)
        return Route("carry", wide) if alike and index == 0 else fold("it clips to another range")
    if wide.integer and not is_op(
        node, "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool"
    ):
        return fold("it computes with the integers")
    if is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _conv(graph, node, index, wide, rank)
    if is_op(node, "Concat"):
        return concat(node, index, wide, rank, shapes)
    if is_op(node, "Mul", "Div"):
        return scaled(graph, node, index, wide, rank)
    if index == 0 and node.domain in ("", "ai.onnx"):
        return carry(graph, node, wide, shapes)
    return fold(NOT_LINEAR)
