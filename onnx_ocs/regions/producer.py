"""Producers that can make the copies themselves (early translation), and why others cannot.

Early is exact only where Q(f(y - i * X_clip)) == Q(relu(f(y) - i * X_clip)) for every y, see `onnx_ocs.regions.find`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.intervals import clip_bounds
from onnx_ocs.qdq.layers import is_layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.refusals import Refusal

__all__ = ["Early", "find_early"]

ANY = 1 << 20  # more copies than anybody makes


@dataclass(frozen=True)
class Early:
    """How a producer's rows are repeated.

    Attributes:
        layer: the Conv, ConvTranspose, Gemm or MatMul.
        weight_axis: output-channel axis of its weight.
        affine: nodes behind it with per-channel constants (BatchNormalization, Add), in order.
        slope: a PRelu whose slope is per channel.
        copies: most copies a channel for which it stays exact.
        full: whether the copies are shifted by the whole range (`onnx_ocs.regions.full`).
    """

    layer: NodeProto
    weight_axis: int
    affine: tuple[NodeProto, ...]
    slope: NodeProto | None
    copies: int
    full: bool = False


def find_early(
    graph: Graph,
    tensor: str,
    nodes: Sequence[NodeProto],
    q: Quantizer,
    axis: int,
    channels: int,
    rank: int | None,
    full: bool = False,
) -> Early | Refusal:
    """Whether the copies can be made by the producer, exactly.

    Args:
        graph: the graph.
        tensor: float input of the quantizer.
        nodes: its QuantizeLinear nodes.
        q: the quantizer.
        axis: channel axis.
        channels: number of channels.
        rank: rank of the tensor; None if unknown.
        full: whether the copies are to be shifted by the whole range; then the quantizer must be all that acts.

    Returns:
        How the producer's rows are to be repeated, or why that is not exact.
    """
    at = label(nodes[0])
    quantizes = {id(n) for n in nodes}
    if any(id(r) not in quantizes for r in graph.value_readers(tensor)) or tensor in graph.outputs:
        return Refusal("early_shared", "the float tensor is read by others too, so its producer must stay as it is", at)
    if graph.captured(tensor):
        return Refusal("early_shared", "a subgraph reads the float tensor, so its producer must stay as it is", at)
    if np.any(q.x_clip <= 0):
        return Refusal.of("early_range", at)
    function = _Function(tensor) if full else _function(graph, tensor, q, at)
    if isinstance(function, Refusal):
        return function
    affine = _affine(graph, tensor, function.before, at)
    if isinstance(affine, Refusal):
        return affine
    found = _layer(graph, *affine, function.slope, function.copies, channels, axis, rank)
    return replace(found, full=True) if full and isinstance(found, Early) else found


@dataclass(frozen=True)
class _Function:
    """What acts as a ReLU: the tensor before it, a slope per channel, and for how many copies it does."""

    before: str
    slope: NodeProto | None = None
    copies: int = ANY


def _function(graph: Graph, tensor: str, q: Quantizer, at: str) -> _Function | Refusal:
    """The activation in front of the quantizer, which may be the quantizer itself."""
    n, low_end = graph.producer.get(tensor), q.rectifies
    if n is None or not is_op(n, "Relu", "Clip", "LeakyRelu", "PRelu", "Elu"):
        if low_end:
            return _Function(tensor)
        why = f"no ReLU in front, and zero_point {int(q.zero_point.max())} > qmin {q.qmin}"
        return Refusal("early_activation", why, at)

    def no(code: str, message: str) -> Refusal:
        return Refusal(code, message, label(n))

    if n.op_type == "Relu":
        return _Function(n.input[0])
    if n.op_type == "Clip":
        lo, hi = clip_bounds(graph, n)
        if np.isnan(lo) or not hi > max(lo, 0.0):
            return no("early_bound", f"Clip from {lo:g} to {hi:g} lets nothing above zero through")
        if lo > 0 or (lo < 0 and not low_end):
            return no("early_activation", f"Clip from {lo:g} does not act as a ReLU in front of this quantizer")
        copies = int(min(hi / float(q.x_clip.max()) * (1 + 1e-6), ANY)) - 1
        if copies < 1:
            return no("early_bound", f"the bound {hi:g} lies below 2 * X_clip = {2 * float(q.x_clip.max()):g}")
        return _Function(n.input[0], copies=copies)
    if not low_end:
        return no("early_activation", f"{n.op_type} keeps negative values (zero_point > qmin)")
    if n.op_type == "PRelu":
        values = graph.constant(n.input[1])
        if values is None or np.any(values < 0):
            return no("early_activation", "the PRelu's slope is computed or negative")
        return _Function(n.input[0], n if values.size > 1 else None)
    if float(attribute(n, "alpha", 1.0 if n.op_type == "Elu" else 0.01)) < 0:
        return no("early_activation", f"{n.op_type} with a negative alpha is positive below zero")
    return _Function(n.input[0])


def _affine(graph: Graph, start: str, tensor: str, at: str) -> tuple[NodeProto, tuple[NodeProto, ...]] | Refusal:
    """The node that makes the value, and the nodes with constants per channel behind it, in order."""
    affine: list[NodeProto] = []
    while True:
        n = graph.producer.get(tensor)
        if n is None:
            return Refusal("early_producer", "the value comes from a graph input", at)
        if tensor != start and not graph.private(tensor):
            return Refusal("early_shared", f"the output of {label(n)} is read by others too", label(n))
        if is_op(n, "BatchNormalization") and all(graph.is_constant(t) for t in n.input[1:5]):
            affine.insert(0, n)
            tensor = n.input[0]
        elif is_op(n, "Add") and (k := _constant_side(graph, n)) is not None:
            affine.insert(0, n)
            tensor = n.input[1 - k]
        else:
            return n, tuple(affine)


def _constant_side(graph: Graph, node: NodeProto) -> int | None:
    """Which input of an Add is a constant (of what shape, the layer behind it decides)."""
    for k in (0, 1):
        if graph.is_constant(node.input[k]) and not graph.is_constant(node.input[1 - k]):
            return k
    return None


def per_channel(value: Array, channels: int, behind: int) -> bool:
    """Whether a constant is one number, or lies along the channel axis alone, which has `behind` axes behind it."""
    if value.size == 1:
        return True
    axis = value.ndim - 1 - behind
    return axis >= 0 and value.size == channels == value.shape[axis]


def _layer(
    graph: Graph,
    n: NodeProto,
    affine: Sequence[NodeProto],
    slope: NodeProto | None,
    copies: int,
    channels: int,
    axis: int,
    rank: int | None,
) -> Early | Refusal:
    def no(code: str, message: str) -> Refusal:
        return Refusal(code, message, label(n))

    if not is_layer(n):
        return no("early_producer", f"the value is made by {n.op_type}, not by a Conv, ConvTranspose, Gemm or MatMul")
    layer = read_layer(graph, n)
    if layer is None:
        return no("early_weight", "the producer's weight is not a constant that can be repeated")
    if layer.groups != 1:
        return no("early_grouped", "a grouped or depthwise producer would need its input repeated as well")
    if layer.outputs != channels:
        return no("early_axis", "the producer's rows are not the channels that the readers add up")
    if not layer.writes(axis, rank):
        return no("early_axis", "the channel axis is not the producer's")
    behind = len(layer.weight.shape) - 2 if layer.slides else 0
    for node, inputs in ((slope, (1,)), *((a, (0, 1)) for a in affine if is_op(a, "Add"))):
        for t in (node.input[i] for i in inputs) if node is not None else ():
            value = graph.constant(t)
            if value is not None and not per_channel(value, channels, behind):
                return no("early_axis", f"the constant '{t}' does not lie along the producer's channels")
    if layer.bias(graph) is None:
        return no("early_bias", "the bias is not a constant per output channel")
    if n.op_type == "Gemm" and len(n.input) > 2 and n.input[2] and not attribute(n, "beta", 1.0):
        return no("early_bias", "beta is 0")
    if n.op_type == "MatMul" and not affine:
        return no("early_bias", "a MatMul without an Add has no bias to shift")
    return Early(n, layer.out, tuple(affine), slope, copies)
