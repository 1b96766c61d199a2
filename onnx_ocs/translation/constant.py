"""The constant that copies of a whole range stand at (`onnx_ocs.regions.full`), taken out of what reads them.

    layer       b' = b - s_w * s_x * sum over copies j of rest[j] * (sum of W[:, origin[j]] over the kernel)
    others      read the sum of the copies, each less its constant

Integer kernels count both in steps s_w * s_x, so the constant is a whole number of them.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.qdq.bias import Bias, add_bias, write_bias
from onnx_ocs.qdq.layers import Layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.full import sums_of_weights
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.wide import Wide

__all__ = ["check_constants", "constant_of", "take_out"]


def check_constants(graph: Graph, region: Region, wide: Wide) -> Refusal | None:
    """Whether the biases of all layers that read a region hold the constant.

    Args:
        graph: the graph, not edited.
        region: a region with an `Early` of the kind `full`.
        wide: the layout asked for.

    Returns:
        None, or why not.
    """
    for node in region.walk.weights:
        layer = read_layer(graph, node)
        if layer is None or layer.groups != 1:
            continue  # a depthwise layer reads the sum
        bias, constant = layer.bias(graph), constant_of(graph, layer, wide, region.quantizer)
        value = bias.value.astype(np.int64) if bias is not None and bias.kind == "integer" else 0
        most = int(np.abs(value - constant).max(initial=0))
        if most > np.iinfo(np.int32).max:
            told = f"the bias of '{label(node)}', less the copies' constant, is {most} and does not fit int32"
            return Refusal("early_reader", told, label(node))
    return None


def constant_of(graph: Graph, layer: Layer, wide: Wide, q: Quantizer) -> Array:
    """What the copies add to a layer's outputs while they rest, in steps s_w * s_x, int64 (outputs,)."""
    rests = np.bincount(wide.origin, wide.rests(q), wide.narrow).astype(np.int64)
    return np.asarray(sums_of_weights(graph, layer) @ rests, np.int64)


def take_out(graph: EditableGraph, node: NodeProto, wide: Wide) -> None:
    """Take the constant out of the bias of a layer that is about to read copies (checked before).

    Args:
        graph: the graph.
        node: the layer, whose weight has not been repeated yet.
        wide: what it is to read.
    """
    layer, q = read_layer(graph, node), wide.grid
    assert layer is not None and q is not None
    bias, w = layer.bias(graph), layer.weight.quantizer(graph)
    assert bias is not None and w is not None
    constant, everything = constant_of(graph, layer, wide, q), np.arange(layer.outputs)
    if bias.kind == "float":
        value = bias.value.astype(np.float64) - constant * (w.scale * q.scale)
        write_bias(graph, node, 2, bias, value.astype(bias.value.dtype), everything)
    elif bias.kind == "integer":
        write_bias(graph, node, 2, bias, (bias.value - constant).astype(bias.value.dtype), everything)
    else:
        scale = (q.scale.astype(np.float32) * w.scale.astype(np.float32)).astype(np.float64)
        dequantize = graph.producer[node.input[0]]
        assert is_op(dequantize, "DequantizeLinear")
        zero = Bias("integer", np.zeros(layer.outputs, np.int32), scale, np.zeros((), np.int64))
        add_bias(graph, node, zero, (-constant).astype(np.int32), everything, dequantize.domain)
