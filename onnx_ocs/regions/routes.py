"""How a widened tensor travels: the rules by which a node reads the copies, carries them on, or has them folded back.

A wide tensor's channel axis holds `origin.size` channels; wide channel j belongs to narrow channel `origin[j]`, and
the narrow value is the sum of all that belong to it:

    narrow[c] = sum over j with origin[j] = c of wide[j]

(with halved channels, OCS, a base and its copy hold half of the value each).
A layer with a constant weight reads it wide: its weight is repeated, w_wide[:, j] = w[:, origin[j]] (OCS+, eq. 10).
What is linear per channel, or keeps the integer grid, carries it on: pooling, Resize, Pad with zeros, Transpose,
Flatten, Reshape that keeps the channels, Concat, a multiplication by a positive constant, a Q/DQ pair on the same grid.
For every other reader the copies are folded back: gathered and added onto their channels.  So they are in front of a
depthwise layer, too: one filter for each channel is far faster than a grouped layer, or than filtering every copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.layers import is_layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, is_idle, read_quantizer
from onnx_ocs.regions.carry import NOT_LINEAR, Route, carry, concat, fits, fold, same, scaled
from onnx_ocs.regions.wide import Wide

__all__ = ["route"]


def _weight(graph: Graph, node: NodeProto, index: int, wide: Wide, rank: int | None) -> Route:
    """A layer with a constant weight reads the copies, if the channels are what it adds up."""
    layer = read_layer(graph, node) if index == 0 else None
    if layer is None or not layer.reads(wide.axis, rank):
        return fold("its weight is not a constant that can be repeated, or the channels lie on another axis")
    if layer.inputs != wide.narrow:
        return fold("channel counts differ")
    if layer.groups == 1:
        return Route("weight", axis=layer.into)
    if layer.groups == layer.inputs:
        return Route("depthwise", why="a depthwise layer reads the sum of the copies")
    per_input = layer.kind == "Conv" and layer.weight.channel_axis(graph) == 1
    if wide.grouped(layer.groups) and not per_input:
        return Route("grouped", axis=layer.into)
    return fold("the copies are not spread evenly over the groups")


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
        if index or not wide.integer or wide.grid is None or not isinstance(q, Quantizer):
            return fold("it dequantizes with other parameters")
        if q.same_parameters(wide.grid) and fits(q, wide, rank):
            return Route("carry", replace(wide, integer=False))
        return fold("it dequantizes with other parameters")
    if wide.integer and is_op(node, "Clip"):
        alike = wide.grid is not None and integer_clip(graph, node, wide.grid) == (wide.grid.qmin, wide.grid.qmax)
        return Route("carry", wide) if alike and index == 0 else fold("it clips to another range")
    if wide.integer and wide.grid is not None and is_idle(node, wide.grid.dtype):
        return Route("carry", wide)
    if wide.integer and not is_op(
        node, "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool"
    ):
        return fold("it computes with the integers")
    if is_layer(node):
        return _weight(graph, node, index, wide, rank)
    if is_op(node, "Concat"):
        return concat(node, index, wide, rank, shapes)
    if is_op(node, "Mul", "Div"):
        return scaled(graph, node, index, wide, rank)
    if index == 0 and node.domain in ("", "ai.onnx"):
        return carry(graph, node, wide, shapes)
    return fold(NOT_LINEAR)
