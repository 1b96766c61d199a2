"""Early copies in front of a quantizer that does not rectify: each is shifted by the whole range.

A linear layer's output y, quantized with qmin < zero_point < qmax.  With R = qmax - qmin steps, and k = round(y / s):

    base        clip(k, -L, U)                  L = zero_point - qmin,  U = qmax - zero_point
    copy i      clip(k - i R, -L, U)            stands at -L until k exceeds U + (i - 1) R
    copy -i     clip(k + i R, -L, U)            stands at U until k falls below -L - (i - 1) R

All of them add up to clip(k, -L - m R, U + n R), and a constant: n * (-L) + m * U.  The integers saturate by
themselves, so nothing but rows is added, and layers keep their integer kernels.  The constant is taken out of the
readers' biases.  That is exact for readers without padding: in padding a copy is 0, and not where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.layers import Layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early, find_early
from onnx_ocs.regions.region import Walk

__all__ = ["find_full", "sums_of_weights", "unpadded"]

TIED = 1e-6  # how far a bias's scale may be from s_x * s_w, for its integers to be those of the accumulator


def find_full(
    graph: Graph, tensor: str, nodes: Sequence[NodeProto], q: Quantizer, walk: Walk, rank: int | None
) -> Early | Refusal | None:
    """Whether the producer can make copies that are shifted by the whole range, exactly.

    Args:
        graph: the graph.
        tensor: float input of the quantizer.
        nodes: its QuantizeLinear nodes.
        q: the quantizer.
        walk: what reads it.
        rank: rank of the tensor; None if unknown.

    Returns:
        How the producer's rows are to be repeated, why that is not exact, or None where another function than the
        quantizer's stands behind the layer.
    """
    if q.scale.size != 1 or q.float_dtype != np.float32 or not q.qmin < int(q.zero_point) < q.qmax:
        return None
    found = find_early(graph, tensor, nodes, q, walk.axis, walk.channels, rank, full=True)
    if isinstance(found, Refusal):
        return None if found.code == "early_producer" else found
    return _readers(graph, nodes, q, walk) or found


def _readers(graph: Graph, nodes: Sequence[NodeProto], q: Quantizer, walk: Walk) -> Refusal | None:
    """Why a reader cannot take the constant; layers take it, and whoever reads copies that are added up."""

    def no(node: NodeProto, why: str) -> Refusal:
        return Refusal("early_reader", f"'{label(node)}' {why}", label(node))

    folding = {id(n) for n, _ in walk.folded}
    layers = {id(n) for n in walk.weights}
    if walk.integers_leave or walk.carried:
        return no(nodes[0], "writes integers that others read")
    for dequantize in (r for n in nodes for r in graph.readers(n.output[0])):
        if not is_op(dequantize, "DequantizeLinear"):
            return no(dequantize, "stands between the quantizer and the layers that read it")
        for n in graph.readers(dequantize.output[0]):
            layer = read_layer(graph, n) if id(n) in layers else None
            if layer is not None and layer.groups == 1:
                why = _unfit(graph, layer, q)
                if why is not None:
                    return no(n, why)
            elif id(n) not in folding and not (layer is not None and layer.groups == layer.inputs):
                return no(n, "carries the copies on")
    return None


def _unfit(graph: Graph, layer: Layer, q: Quantizer) -> str | None:
    """Why a layer's bias cannot take the constant."""
    if not unpadded(layer.node, layer.weight.shape):
        return "pads, or has no bias of its own"
    w = layer.weight.quantizer(graph)
    if w is None or w.float_dtype != np.float32 or (w.axis is not None and w.axis != layer.out):
        return "has a weight without a step for each output"
    bias = layer.bias(graph)
    if bias is None:
        return "has a bias that is no constant per output channel"
    if bias.kind == "float" and bias.value.dtype != np.float32:
        return f"has a bias of {bias.value.dtype.name}"
    if bias.kind == "integer":
        assert bias.scale is not None
        if bias.value.dtype != np.int32 or not np.allclose(bias.scale, q.scale * w.scale, rtol=TIED, atol=0):
            return "has an integer bias that does not count in products of its input's and its weight's steps"
    return None


def unpadded(node: NodeProto, shape: Sequence[int]) -> bool:
    """Whether a layer with a bias applies all of its weight everywhere, once: no padding, no overlap, no factor."""
    if is_op(node, "Gemm"):
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        return plain and not attribute(node, "transA", 0)
    if not is_op(node, "Conv") or any(attribute(node, "pads") or ()):
        return False
    padding = attribute(node, "auto_pad", b"NOTSET") or b"NOTSET"
    return padding in (b"NOTSET", b"VALID") or all(k == 1 for k in shape[2:])


def sums_of_weights(graph: Graph, layer: Layer) -> Array:
    """A layer's weights in their steps, added up over the kernel, int64 (outputs, inputs)."""
    rows, w = layer.rows(graph), layer.weight.quantizer(graph)
    assert rows is not None and w is not None
    steps = np.rint(np.moveaxis(rows, 0, 1) / np.broadcast_to(w.scale, (layer.outputs,))[:, None, None])
    return np.asarray(steps.sum(2), np.int64)
