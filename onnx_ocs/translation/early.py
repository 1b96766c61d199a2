"""Early: the producer makes the copies.

    W'[j] = W[origin[j]],       b'[j] = b[origin[j]] - level[j] * X_clip       translation (OCS+, eq. 8 and 9)
    W'[j] = W[origin[j]],       b'[j] = b[origin[j]] - level[j] * X_range      whole ranges (`onnx_ocs.regions.full`)
    W'[j] = W[origin[j]] / 2,   b'[j] = b[origin[j]] / 2                       halving (OCS)

Nothing is added to the graph: the activation, the one existing Q/DQ and the integer kernels stay as they are.
An integer bias is shifted by a whole number of its steps, in int64; what does not fit is refused, never clipped.
Integers are halved by halving their steps, which is exact; so is f(y / 2) = f(y) / 2 in front of the quantizer wherever
a translation is exact (`onnx_ocs.regions.find`).
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.bias import Bias, add_bias, read_bias, write_bias
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.qdq.weights import read_weight, scale_channels, scales_apart, take
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.constant import check_constants

__all__ = ["apply", "check", "shift_of"]

COARSEST = 0.02  # quantization steps by which an integer bias may miss the shift


def shift_of(region: Region, wide: Wide) -> Array:
    """What is subtracted from every wide channel, float64, in the tensor's units."""
    if wide.halved:
        return np.zeros(wide.origin.size)
    q = region.quantizer
    size = q.x_clip + q.x_low if wide.full else q.x_clip
    return np.asarray(wide.level * np.broadcast_to(size, (wide.narrow,))[wide.origin])


def _layer_bias(graph: Graph, region: Region, wide: Wide) -> tuple[Bias, Array | str]:
    """The layer's bias now, and widened: shifted unless an affine node behind the layer takes the shift."""
    early = region.early
    assert isinstance(early, Early)
    bias = read_bias(graph, early.layer, 2, wide.narrow)
    assert bias is not None
    shift = np.zeros(wide.origin.size) if early.affine else shift_of(region, wide)
    if is_op(early.layer, "Gemm"):
        shift = shift / float(attribute(early.layer, "beta", 1.0))
    if bias.kind == "none" and not early.affine and not wide.halved:
        bias = _integer_zero(graph, early, wide.narrow) or bias
    return bias, bias.shifted(wide.origin, shift)


def _integer_zero(graph: Graph, early: Early, channels: int) -> Bias | None:
    """A zero int32 bias with scale s_x * s_w, where input and weight are quantized.

    A float bias would cost the layer its integer kernel.
    """
    weight = read_weight(graph, early.layer, 1)
    w = weight.quantizer(graph) if weight else None
    n = graph.producer.get(early.layer.input[0])
    x = read_quantizer(graph, n) if is_op(n, "DequantizeLinear") and n is not None else None
    if w is None or not isinstance(x, Quantizer) or x.scale.size != 1 or w.float_dtype != np.float32:
        return None
    if w.axis is not None and w.axis != early.weight_axis:
        return None
    scale = (x.scale.astype(np.float32) * w.scale.astype(np.float32)).astype(np.float32)
    if not np.all(scale > 0):
        return None
    zero = np.zeros((), np.int64)
    return Bias("integer", np.zeros(channels, np.int32), scale.astype(np.float64), zero)


def check(graph: Graph, region: Region, wide: Wide) -> Refusal | None:
    """Whether the copies' biases can be stored.

    Args:
        graph: the graph, not edited.
        region: a region with an `Early`.
        wide: the layout asked for.

    Returns:
        None, or why not.
    """
    early = region.early
    assert isinstance(early, Early)
    if wide.full:
        why = check_constants(graph, region, wide)
        if why is not None:
            return why
    elif np.any(wide.level < 0):
        return Refusal.of("early_low", label(early.layer))
    if region.quantizer.float_dtype != np.float32:
        kind = region.quantizer.float_dtype.name
        return Refusal("early_bias_step", f"a {kind} bias cannot hold the shift exactly", label(early.layer))
    if wide.halved:
        return _check_halves(graph, early, wide)
    bias, value = _layer_bias(graph, region, wide)
    if isinstance(value, str):
        return Refusal("early_bias_range", value, label(early.layer))
    if not np.all(np.isfinite(value.astype(np.float64))):
        return Refusal("early_bias_range", f"the shifted bias overflows {value.dtype.name}", label(early.layer))
    if bias.kind == "integer" and not early.affine and bias.scale is not None:
        step = np.broadcast_to(bias.scale, bias.value.shape)[wide.origin]
        if is_op(early.layer, "Gemm"):
            step = step * float(attribute(early.layer, "beta", 1.0))
        shift = shift_of(region, wide)
        error = (
            np.abs(np.rint(shift / step) * step - shift)
            / np.broadcast_to(region.quantizer.scale, wide.narrow)[wide.origin]
        )
        if error.max() > COARSEST:
            return Refusal(
                "early_bias_step",
                f"the integer bias has too coarse a step: X_clip would be off by {error.max():.3f} quantization steps",
                label(early.layer),
            )
    return None


def _check_halves(graph: Graph, early: Early, wide: Wide) -> Refusal | None:
    at = label(early.layer)
    if not scales_apart(graph, early.layer, 1, early.weight_axis):
        return Refusal("early_weight", "one step for all of the producer's rows: some cannot be halved alone", at)
    bias = read_bias(graph, early.layer, 2, wide.narrow)
    if bias is not None and bias.scale is not None and bias.scale.size == 1:
        return Refusal("early_bias", "one step for the whole bias: parts of it cannot be halved alone", at)
    return None


def apply(graph: EditableGraph, region: Region, wide: Wide) -> str:
    """Widen the producer; returns the name of the widened float tensor (which is the old one)."""
    early = region.early
    assert isinstance(early, Early)
    layer, shift = early.layer, shift_of(region, wide)
    factor = 1 / wide.units()[wide.origin]
    bias, value = _layer_bias(graph, region, wide)
    assert not isinstance(value, str)
    take(graph, layer, 1, early.weight_axis, wide.origin)
    if wide.halved:
        scale_channels(graph, layer, 1, early.weight_axis, factor)
    if bias.kind == "integer" and bias.dequantize is None:
        add_bias(graph, layer, bias, value, wide.origin, graph.producer[layer.input[0]].domain)
    elif bias.kind != "none" or not (early.affine or wide.halved):
        if bias.kind == "none":
            value = value.astype(region.quantizer.float_dtype)
        write_bias(graph, layer, 2, bias, value, wide.origin)
        if wide.halved:
            scale_channels(graph, layer, 2, 0, factor)
    behind = len(read_shape(graph, layer)) - 2 if is_op(layer, "Conv", "ConvTranspose") else 0
    for k, node in enumerate(early.affine):
        part = shift if k == len(early.affine) - 1 else np.zeros_like(shift)
        if is_op(node, "BatchNormalization"):
            for i in range(1, 5):  # scale, bias, mean, variance
                _replace(graph, node, i, wide, part if i == 2 else None, 0, factor if i in (2, 3) else None)
        else:
            i = 0 if graph.is_constant(node.input[0]) else 1
            _replace(graph, node, i, wide, part, behind, factor)
    if early.slope is not None:
        _replace(graph, early.slope, 1, wide, None, behind)
    tensor = region.tensor
    while True:  # value_info of all that has become wider
        graph.reshaped.add(tensor)
        n = graph.producer[tensor]
        if n is layer:
            return region.tensor
        graph.touched[id(n)] = n
        tensor = next(t for t in n.input if not graph.is_constant(t))


def read_shape(graph: Graph, layer: NodeProto) -> tuple[int, ...]:
    """Shape of a layer's weight."""
    weight = read_weight(graph, layer, 1)
    assert weight is not None
    return weight.shape


def _replace(
    graph: EditableGraph,
    node: NodeProto,
    index: int,
    wide: Wide,
    shift: Array | None,
    behind: int,
    factor: Array | None = None,
) -> None:
    """Repeat a node's per-channel constant, times `factor`, minus `shift`; one number is spread over the channels."""
    value = graph.constant(node.input[index])
    assert value is not None
    if value.size == 1:
        value = np.full((wide.narrow, *[1] * behind), value.reshape(()), value.dtype)
    axis = value.ndim - 1 - behind
    new = np.take(value, wide.origin, axis=axis)
    shape = [1] * new.ndim
    shape[axis] = -1
    if factor is not None:
        new = (new * factor.reshape(shape)).astype(value.dtype)
    if shift is not None:
        new = (new.astype(np.float64) - shift.reshape(shape)).astype(value.dtype)
    graph.set_input(node, index, graph.add_initializer(node.input[index] + "_wide", new))
