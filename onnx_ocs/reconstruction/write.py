"""New values of one layer, and how they get into a graph.

Rows that follow others (`onnx_ocs.reconstruction.copies.Tie`) follow them exactly: the same integers and scales, a
bias that is less by a whole number of X_clip.  An integer bias whose scale is that of input times weight follows the
weight's scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.biases import beta, bias_shift, follows_weight, output_shift
from onnx_ocs.reconstruction.linear import LinearMap, canonical
from onnx_ocs.reconstruction.solve import Problem, Solution
from onnx_ocs.reconstruction.stored import Stored, write_scale, write_values
from onnx_ocs.records.weights import Refit, Refitted, digest, record_refitted

__all__ = ["Values", "on_grid", "scale_free", "smallest", "values", "values_of", "write", "write_all"]


@dataclass(frozen=True, eq=False)
class Values:
    """What a layer's constants become.

    Attributes:
        weight: integers, in the reader's axes and the smallest type.
        scale: scales of the weight, float64; None where they stay.
        bias: integers, or floats; in the shape in which the reader sees them; None where the bias stays.
        bias_scale: float64; None where it stays.
    """

    weight: Array
    scale: Array | None
    bias: Array | None
    bias_scale: Array | None


def scale_free(layer: LinearMap, graph: Graph) -> bool:
    """Whether a layer's weight may get new scales."""
    stored, bias = layer.weight, layer.bias
    names = {name for _, name in stored.scales}
    if len(names) != 1 or not all(graph.is_stored(name) for name in names):
        return False
    if bias is None:
        return layer.free or not np.any(layer.fixed)
    if bias.kind == "plain" or not follows_weight(graph, layer):
        return True
    return (
        bias.scale.size == stored.scale.size
        and len({name for _, name in bias.scales}) == 1
        and graph.is_stored(bias.scales[0][1])
    )


def _input_scale(layer: LinearMap, graph: Graph) -> Array | None:
    """The one scale of a layer's input, in float32."""
    n = graph.producer.get(layer.x)
    q = read_quantizer(graph, n) if is_op(n, "DequantizeLinear") and n is not None else None
    if not isinstance(q, Quantizer) or q.scale.size != 1 or q.float_dtype != np.float32:
        return None
    return np.asarray(q.scale.reshape(()), np.float32)


def _factors(layer: LinearMap, p: Problem, s: Solution) -> Array:
    """By what each of the stored scales is multiplied; copies' scales follow."""
    factor = s.factor.copy()
    if layer.tie is not None and factor.size == layer.tie.origin.size:
        factor = factor[layer.tie.base[layer.tie.origin]]
    return factor


def values(layer: LinearMap, p: Problem, s: Solution, graph: Graph) -> Values | str:
    """What a layer's constants become, or why that cannot be stored."""
    stored = layer.weight
    assert stored.integers is not None
    flat = stored.integers.reshape(-1).copy()
    used = layer.index >= 0
    flat[layer.index[used]] = np.rint(s.q[used]).astype(np.int64)
    if layer.tie is not None:
        everything = _all_rows(layer)
        flat[everything] = flat[everything[layer.tie.base[layer.tie.origin]]]
    return values_of(layer, _small(flat).reshape(stored.chain.shape), _factors(layer, p, s), s.bias, graph)


def values_of(layer: LinearMap, weight: Array, factor: Array, bias: Array | None, graph: Graph) -> Values | str:
    """What a layer's constants become, or why that cannot be stored.

    Args:
        layer: the layer.
        weight: integers, in the reader's axes.
        factor: by what each of the stored scales is multiplied.
        bias: what is to be added, float64 (G, m), in units of the output; not read where the bias stays.
        graph: the graph.
    """
    stored, scale = layer.weight, None
    if np.any(factor != 1):
        scale = (stored.scale * factor.reshape(stored.scale.shape)).astype(stored.dtype).astype(np.float64)
    if not layer.free:
        return Values(weight, scale, None, None)
    wanted = np.zeros(layer.channels)
    wanted[layer.rows] = bias
    if layer.tie is not None:
        wanted = wanted[layer.tie.base[layer.tie.origin]] - output_shift(layer)
    found = _bias(layer, wanted / beta(layer), scale, graph)
    return found if isinstance(found, str) else Values(weight, scale, *found)


def smallest(low: int, high: int) -> np.dtype[np.generic]:
    """The smallest type of integers with such values: many layers hold theirs until the last is fitted."""
    fits = (t for t in (np.int8, np.uint8, np.int16, np.uint16) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.dtype(next(fits, np.int64))


def _small(values: Array) -> Array:
    """Integers in the smallest type."""
    return values.astype(smallest(int(values.min(initial=0)), int(values.max(initial=0))))


def _all_rows(layer: LinearMap) -> Array:
    """Positions of all rows in the flattened weight, copies included, (rows, K)."""
    form = canonical(layer.node, layer.weight.index, layer.weight.chain.shape)
    assert form is not None
    return np.asarray(form[0][0])


def _bias(layer: LinearMap, wanted: Array, scale: Array | None, graph: Graph) -> tuple[Array, Array | None] | str:
    """A bias on its grid: values in the reader's shape, and the scale where it changes."""
    bias = layer.bias
    if bias is None:
        made = _added_scale(layer, scale, graph)
        if made is None:
            return wanted.astype(np.float32), None
        whole = _integers(wanted, made, np.zeros(()), *integer_range(np.dtype(np.int32)), layer)
        return whole if isinstance(whole, str) else (whole, made)
    shape = bias.chain.shape
    if bias.kind == "plain":
        return wanted.reshape(shape).astype(bias.dtype), None
    root = graph.constant(bias.scales[-1][0].input[0])
    assert root is not None
    low, high = integer_range(root.dtype)
    step, fresh = bias.scale, None
    if follows_weight(graph, layer):
        if scale is not None:
            x = _input_scale(layer, graph)
            old = None if x is None else (x * layer.weight.scale.astype(np.float32)).astype(np.float64)
            if x is not None and old is not None and np.array_equal(np.broadcast_to(old, step.shape), step):
                fresh = (x * scale.astype(np.float32)).astype(np.float64).reshape(step.shape)
            else:
                fresh = (step * (scale / layer.weight.scale).reshape(step.shape)).astype(bias.dtype).astype(np.float64)
            step = fresh
        low, high = integer_range(root.dtype)
    else:
        room = np.abs(wanted) / (min(-low if low else high, high) * np.broadcast_to(step, wanted.shape))
        need = np.maximum(1.0, room if step.size > 1 else room.max(initial=1.0))
        if np.any(need > 1):
            if not all(graph.is_stored(name) for _, name in bias.scales):
                return "the bias does not fit its integers"
            exponent = 2.0 ** np.ceil(np.log2(need))
            fresh = (step * exponent.reshape(step.shape) if step.size > 1 else step * exponent.max()).astype(bias.dtype)
            step = fresh = fresh.astype(np.float64)
    found = _integers(wanted, step, bias.zero, low, high, layer)
    return found if isinstance(found, str) else (found.reshape(shape), fresh)


def _integers(wanted: Array, step: Array, zero: Array, low: int, high: int, layer: LinearMap) -> Array | str:
    """A bias on a grid; copies' integers are their channels' less a whole number of steps."""
    tie = layer.tie
    steps = np.broadcast_to(step, wanted.shape)
    shift = np.zeros_like(wanted)
    if tie is not None:
        shift = np.rint(bias_shift(layer) / steps)
        wanted = (wanted + bias_shift(layer))[tie.base[tie.origin]]
    found = np.rint(wanted / steps) - shift + np.broadcast_to(zero, wanted.shape)
    if found.min(initial=0) < low or found.max(initial=0) > high:
        return "the bias does not fit its integers"
    return np.asarray(found, np.int64)


def _added_scale(layer: LinearMap, scale: Array | None, graph: Graph) -> Array | None:
    """The scale of an int32 bias that is added where input and weight are integers; None: floats."""
    x, stored = _input_scale(layer, graph), layer.weight
    if x is None or stored.dtype != np.float32 or not is_op(layer.node, "Conv", "ConvTranspose", "Gemm"):
        return None
    w = stored.scale if scale is None else scale
    product = (x * w.astype(np.float32)).astype(np.float32).astype(np.float64)
    if not np.all(product > 0) or (w.size > 1 and w.size != layer.channels):
        return None
    return np.asarray(product)


def write_all(graph: EditableGraph, layers: Iterable[tuple[LinearMap, Values]]) -> None:
    """Put new values of layers into a graph; what several of them share is written once."""
    written: dict[str, Refitted] = {}
    for layer, new in layers:
        root = layer.weight.root
        refitted = write(graph, layer, new, written.get(root))
        written.setdefault(root, refitted)


def write(graph: EditableGraph, layer: LinearMap, new: Values, shared: Refitted | None = None) -> Refitted:
    """Put new values into a graph and declare them on the layer's node.

    Args:
        graph: the graph that the layer was read from.
        layer: the layer.
        new: the values.
        shared: what was written for a layer with the same weight: it is not written again.
    """
    stored = layer.weight
    if shared is not None:
        weight, weight_scale = shared.weight, shared.weight_scale
    else:
        weight_scale = None if new.scale is None else write_scale(graph, stored, new.scale)
        weight = write_values(graph, stored, new.weight, stored.scale if new.scale is None else new.scale)
    bias = bias_scale = None
    if new.bias is not None and layer.bias is not None and shared is not None and _one_bias(shared, layer.bias):
        bias, bias_scale = shared.bias, shared.bias_scale
    elif new.bias is not None and layer.bias is not None:
        if new.bias_scale is not None:
            bias_scale = write_scale(graph, layer.bias, new.bias_scale)
        step = layer.bias.scale if new.bias_scale is None else new.bias_scale
        bias = write_values(graph, layer.bias, new.bias, step)
    elif new.bias is not None:
        bias, bias_scale = _add_bias(graph, layer, new)
    graph.touched[id(layer.node)] = layer.node
    found = Refitted(weight, weight_scale, bias, bias_scale, stored.low, stored.high)
    record_refitted(layer.node, found)
    return found


def _one_bias(shared: Refitted, bias: Stored) -> bool:
    """Whether the bias is shared, too."""
    return shared.bias is not None and shared.bias.before == bias.root


def _add_bias(graph: EditableGraph, layer: LinearMap, new: Values) -> tuple[Refit, Refit | None]:
    assert new.bias is not None
    name = label(layer.node) + "_bias"
    if new.bias_scale is None:
        value = new.bias.astype(layer.weight.dtype)
        root = graph.add_initializer(name, value)
        graph.set_input(layer.bias_node, layer.bias_index, root)
        return Refit(root, None, digest(value)), None
    x = graph.producer[layer.x]
    value = new.bias.astype(np.int32)
    scale = new.bias_scale.astype(np.float32)
    root, step = graph.add_initializer(name + "_quantized", value), graph.add_initializer(name + "_scale", scale)
    axis = {"axis": 0} if scale.size > 1 else {}
    out = graph.add_node("DequantizeLinear", [root, step], graph.fresh(name), domain=x.domain, **axis)
    graph.set_input(layer.bias_node, layer.bias_index, out)
    return Refit(root, None, digest(value)), Refit(step, None, digest(scale))


def on_grid(layer: LinearMap, integers: Array, scale: Array | None, wanted: Array | None, graph: Graph) -> Values | str:
    """What a layer's constants become, or why that cannot be stored.

    Args:
        layer: the layer.
        integers: of the weight, int64, in the reader's axes; rows that follow others do so.
        scale: new scales of the weight, float64; None where they stay.
        wanted: float64 (rows,), in the units of the bias, X_clip already subtracted; None where the bias stays.
        graph: the graph.
    """
    if wanted is None or not layer.free:
        return Values(integers, scale, None, None)
    found = _bias(layer, wanted, scale, graph)
    return found if isinstance(found, str) else Values(integers, scale, *found)
