"""Gains are written: constants in front are multiplied, weights behind are divided, all by powers of two.

A weight's integers q (zero-point z, step s[o]) become rint((q - z) 2^-(e[c] + r[o])) + z, its step s[o] 2^r[o], with
the smallest r[o] for which they stay in the range that the weight uses.  An int32 bias on the step of input times
weight follows: rint(b 2^-r[o]).  The rest is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass
from onnx_ocs.qdq.bias import Bias, read_bias
from onnx_ocs.qdq.layers import Layer
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.qdq.weights import edit_weight, read_weight, scale_channels
from onnx_ocs.records.grids import Gains, record_edits
from onnx_ocs.records.history import stamp
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Key, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regridding.absorb import Absorbing, absorbing, inserting
from onnx_ocs.regridding.octaves import Chosen

__all__ = ["gained"]

TIED = 1e-3  # by what the scale of a bias that is tied to its input's may miss input times weight


@dataclass(frozen=True, eq=False)
class _Divided:
    """A layer's weight, divided by the gains of its inputs.

    Attributes:
        value: of the root, in the layer's axes.
        factors: what the steps are multiplied with, () or (outputs,).
        bias: the layer's int32 bias and its new integers; None where it does not follow.
    """

    value: Array
    factors: Array
    bias: tuple[Bias, Array] | None


def gained(
    model: onnx.ModelProto, chosen: Sequence[Chosen], by: Pass, bounded: Bounded, original: Graph | None = None
) -> tuple[onnx.ModelProto, set[Key]]:
    """Give channels of tensors gains, on a copy of the model.

    Args:
        model: the model; not changed.
        chosen: the gains.
        by: the pass; its name and version are written on all that is edited.
        bounded: which tensors the float model bounds at 6.
        original: the graph before the run, where steps may have changed since.

    Returns:
        The copy, and the regions' keys of those that have gains; what a step or a bias cannot follow is left out.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    wanted = {c.absorbing.region.key: c for c in chosen}
    edits: list[Gains] = []
    done: set[Key] = set()
    for region in find_regions(graph, infer_shapes(new), bounded=bounded):
        if region.key not in wanted:
            continue
        find = absorbing if wanted[region.key].absorbing.sources else inserting
        a = find(graph, region)  # as it is now: another one may have changed a weight
        edit = None if a is None else _give(graph, a, wanted[region.key].octaves, original)
        if edit is not None:
            edits.append(edit)
            done.add(region.key)
    graph.commit(lambda node: stamp(node, by.name, by.version))
    if edits:
        record_edits(new, edits)
    return new, done


def _give(graph: EditableGraph, a: Absorbing, octaves: Array, original: Graph | None) -> Gains | None:
    """Give one tensor gains, if all can follow exactly."""
    divided = [_divided(graph, layer, a.region, octaves, original) for layer in a.layers]
    factors = 2.0**octaves
    if any(d is None for d in divided) or not all(_exact(graph, o.node, o.index, o.axis, factors) for o in a.sources):
        return None
    for o in a.sources:
        scale_channels(graph, o.node, o.index, o.axis, factors)
    for layer, d in zip(a.layers, divided, strict=True):
        assert d is not None
        _write(graph, layer, d)
    product = None if a.sources else _insert(graph, a, factors)
    sources = tuple((str(next(t for t in o.node.output if t)), o.index) for o in a.sources)
    layers = tuple(str(x.node.output[0]) for x in a.layers)
    quantized = tuple(str(n.output[0]) for n in a.region.nodes)
    return Gains(quantized, sources, layers, tuple(octaves.tolist()), product)


def _insert(graph: EditableGraph, a: Absorbing, factors: Array) -> tuple[str, str]:
    """Put a product in front of a quantizer; who is no layer reads what it read."""
    tensor = a.region.tensor
    constant = graph.add_initializer(tensor + "_gain", factors.astype(np.float32).reshape(-1, *[1] * (-1 - a.axis)))
    scaled = graph.add_node("Mul", [tensor, constant], graph.fresh(tensor + "_gained"))
    for n in a.region.nodes:
        graph.set_input(n, 0, scaled)
    behind = {o for n in a.region.walk.dequantizers for o in n.output}
    for n in a.others:
        for k, t in enumerate(n.input):
            if t in behind:
                graph.set_input(n, k, tensor)
    return graph.producer[scaled].name, scaled


def _exact(graph: Graph, node: onnx.NodeProto, index: int, axis: int, factors: Array) -> bool:
    """Whether a constant, or its steps, times powers of two are floats without rounding."""
    weight = read_weight(graph, node, index)
    assert weight is not None
    root = graph.constant(weight.root)
    floats = []
    if root is not None and root.dtype.kind == "f":
        floats.append(np.moveaxis(np.transpose(root, weight.perms[-1]) if weight.perms else root, axis, -1))
    for k, n in enumerate(weight.nodes):
        if is_op(n, "QuantizeLinear", "DequantizeLinear") and weight.parameter_axis(graph, k) == axis:
            scale = graph.constant(n.input[1])
            assert scale is not None
            floats.append(scale)
    return all(_returns(f, factors) for f in floats)


def _returns(value: Array, factors: Array) -> bool:
    """Whether floats times powers of two lose nothing."""
    kind = value.dtype.type
    with np.errstate(over="ignore", under="ignore"):
        there = (value * factors.astype(kind)).astype(kind)
        back = (there.astype(np.float64) / factors).astype(kind)
    return bool(np.isfinite(there).all() and np.array_equal(back, value))


def _divided(
    graph: Graph, layer: Layer, region: Region, octaves: Array, original: Graph | None
) -> _Divided | None:
    """A layer's weight divided by powers of two of its inputs; None where a step or a bias cannot follow."""
    weight = layer.weight
    q, root = weight.quantizer(graph), graph.constant(weight.root)
    if q is None or root is None:
        return None
    value, floats = np.transpose(root, weight.perms[-1]), root.dtype.kind == "f"
    along = [-1 if k == layer.out else 1 for k in range(value.ndim)] if q.axis is not None else ()
    zero, step = (np.broadcast_to(v, q.scale.shape).reshape(along) for v in (q.zero_point, q.scale))
    # integers of up to 16 bits times powers of two are floats, and half the size
    steps = np.clip(np.rint(value / step) + zero, q.qmin, q.qmax) if floats else value.astype(np.float32)
    steps = steps - zero.astype(steps.dtype)
    smaller = _along((2.0**-octaves).astype(steps.dtype), layer, value.ndim)
    grown = _grown(steps, steps * smaller, layer, q)
    new = value * smaller if floats else _rounded(steps, smaller, grown.reshape(along), zero)
    factors, scale = 2.0**grown, q.scale.astype(q.float_dtype)
    if not _returns(scale, factors) or (floats and not _returns(value, smaller)):
        return None
    bias = _tied(graph, layer, region.quantizer, q)
    if bias is None:
        return _Divided(new.astype(root.dtype), factors, None)
    assert bias.scale is not None
    followed = _followed(bias, factors, layer, region, original)
    low, high = integer_range(bias.value.dtype)
    if followed.min() < low or followed.max() > high or not _returns(bias.scale.astype(np.float32), factors):
        return None
    return _Divided(new.astype(root.dtype), factors, (bias, followed.astype(bias.value.dtype)))


def _rounded(steps: Array, smaller: Array, grown: Array, zero: Array) -> Array:
    """Integers in other steps."""
    found = steps * smaller
    found *= (2.0**-grown).astype(steps.dtype)
    np.rint(found, found)
    found += zero.astype(steps.dtype)
    return found


def _grown(before: Array, after: Array, layer: Layer, q: Quantizer) -> Array:
    """The smallest octaves that steps must grow by, () or (outputs,), for weights to fit the range that is used."""
    others = tuple(k for k in range(after.ndim) if k != layer.out or q.axis is None)
    limit = np.abs(before).max(initial=0.0)
    most = np.zeros(q.scale.shape)
    for extreme, room in (
        (after.max(others, initial=0.0), np.minimum(limit, q.qmax - q.zero_point)),
        (-after.min(others, initial=0.0), np.minimum(limit, q.zero_point - q.qmin)),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.maximum(most, np.where(extreme > 0, extreme / room, 0.0))
    part, whole = np.frexp(most)  # most = part * 2^whole, part in [0.5, 1)
    return np.asarray(np.where(most > 0, whole - (part == 0.5), 0))


def _along(values: Array, layer: Layer, rank: int) -> Array:
    """One value for each input channel, to be multiplied with a weight in the layer's axes."""
    if layer.groups == 1:
        return values.reshape([-1 if k == layer.into else 1 for k in range(rank)])
    inside = layer.weight.shape[layer.into]
    each = np.repeat(values.reshape(layer.groups, inside), layer.weight.shape[layer.out] // layer.groups, 0)
    return each.reshape(*each.shape, *[1] * (rank - 2))


def _tied(graph: Graph, layer: Layer, grid: Quantizer, q: Quantizer) -> Bias | None:
    """A layer's bias, where it is integers on the step of input times weight."""
    bias = None if layer.kind == "MatMul" else read_bias(graph, layer.node, 2, layer.outputs)
    if bias is None or bias.kind != "integer":
        return None
    assert bias.scale is not None and bias.zero_point is not None
    scale = float(grid.scale) * q.scale
    near = bias.scale.size == scale.size and np.allclose(bias.scale, scale, rtol=TIED, atol=0)
    return bias if near and not np.any(bias.zero_point) else None


def _followed(bias: Bias, factors: Array, layer: Layer, region: Region, original: Graph | None) -> Array:
    """The integers of a bias on its layer's new steps.

    Where the input's step has changed in this run, too, they are made from what the model held before: first on the new
    steps of the weight, then on that of the input, as the declarations say (`onnx_ocs.translation.rescale`).
    """
    first = None if original is None else _before(original, layer, region)
    if first is None or not np.array_equal(np.rint(first[0] * first[1]), bias.value):
        return np.rint(bias.value / factors)
    return np.rint(np.rint(first[0] / factors) * first[1])


def _before(original: Graph, layer: Layer, region: Region) -> tuple[Array, float] | None:
    """A layer's integer bias before the run, and by what that makes it a bias of now; None where there was none."""
    node, quantize = (original.producer.get(t) for t in (layer.node.output[0], region.outputs[0]))
    if node is None or quantize is None or node.op_type != layer.kind or not is_op(quantize, "QuantizeLinear"):
        return None
    q, bias = read_quantizer(original, quantize), read_bias(original, node, 2, layer.outputs)
    if not isinstance(q, Quantizer) or q.scale.size != 1 or bias is None or bias.kind != "integer":
        return None
    return bias.value.astype(np.float64), float(q.scale) / float(region.quantizer.scale)


def _write(graph: EditableGraph, layer: Layer, d: _Divided) -> None:
    """Put a divided weight, its steps and its bias in place."""
    node, weight = layer.node, layer.weight
    edit_weight(graph, node, 1, lambda _: d.value, layer.into, np.arange(weight.shape[layer.into]))
    changed = read_weight(graph, node, 1)
    assert changed is not None
    for n in changed.nodes:
        if is_op(n, "QuantizeLinear", "DequantizeLinear"):
            _scale(graph, n, d.factors)
    if d.bias is not None:
        bias, value = d.bias
        assert bias.dequantize is not None
        name = bias.dequantize.input[0]
        n = bias.dequantize
        if not graph.private(n.output[0]):
            n = graph.clone_node(n, graph.fresh(node.input[2]))
        shape = graph.constant_shape(name) or value.shape
        graph.set_input(n, 0, graph.add_initializer(name, value.reshape(shape)))
        _scale(graph, n, d.factors)
        graph.set_input(node, 2, n.output[0])


def _scale(graph: EditableGraph, n: onnx.NodeProto, factors: Array) -> None:
    """Multiply the step of a Q or DQ."""
    scale = graph.constant(n.input[1])
    assert scale is not None
    by = factors.reshape(-1) if scale.size > 1 else np.reshape(factors, scale.shape)
    graph.set_input(n, 1, graph.add_initializer(n.input[1], (scale * by).astype(scale.dtype)))
