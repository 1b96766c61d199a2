"""Constant operands: weights behind Q, Clip, DQ, Transpose, Cast; biases in float or integers.

A weight is a chain of nodes from a constant (the root) to the node that reads it.  Channels are repeated or
reordered in the root, by position, so that a quantized weight's copies are bit-identical; per-channel parameters on
the same axis follow.  Roots are never edited in place, and a chain that somebody else reads is cloned first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model import tensors
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import fold
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer

__all__ = ["Weight", "coarsen", "coarsened", "edit_weight", "read_weight", "scale_channels", "scales_apart", "take"]

BLOCK = 1 << 18  # bytes of a weight that are worked on at a time: what a cache holds


@dataclass(frozen=True)
class Weight:
    """A constant weight as its reader sees it.

    Attributes:
        root: name of the constant at the chain's end.
        shape: shape seen by the reader.
        nodes: the chain's nodes, the reader's neighbour first.
        perms: for each node, the map from the reader's axes to the axes of that node's input.
    """

    root: str
    shape: tuple[int, ...]
    nodes: tuple[NodeProto, ...]
    perms: tuple[tuple[int, ...], ...]

    def parameter_axis(self, graph: Graph, k: int) -> int | None:
        """The reader's axis along which the k-th node (Q or DQ) is per channel; None if per tensor."""
        n = self.nodes[k]
        scale = graph.constant(n.input[1])
        if scale is None or scale.size == 1:
            return None
        return self.perms[k].index(int(attribute(n, "axis", 1)) % len(self.shape))

    def _dequantizer(self, graph: Graph) -> tuple[Quantizer, int | None] | None:
        """The quantizer of the last DequantizeLinear of the chain, and its axis as the reader sees it."""
        for k, n in enumerate(self.nodes):
            if is_op(n, "DequantizeLinear"):
                q = read_quantizer(graph, n)
                return (q, self.parameter_axis(graph, k)) if isinstance(q, Quantizer) else None
        return None

    def channel_axis(self, graph: Graph) -> int | None:
        """The reader's axis along which the weight is dequantized; None if it is not, or per tensor."""
        found = self._dequantizer(graph)
        return None if found is None else found[1]

    def quantizer(self, graph: Graph) -> Quantizer | None:
        """The quantizer of the last DequantizeLinear of the chain, with its axis as the reader sees it."""
        found = self._dequantizer(graph)
        return None if found is None else replace(found[0], axis=found[1])

    def blocks(self, graph: Graph) -> Iterator[tuple[int, slice, Array]]:
        """The values as the reader sees them, some rows of the root at a time.

        Args:
            graph: the graph.

        Yields:
            An axis of the reader's, positions along it, and the values there; they are freed before the next.
        """
        axis = self.perms[-1].index(0) if self.perms else 0
        start = 0
        for part in self._stored(graph):
            x: Array | None = part
            where = slice(start, start + len(part))
            for k, n in reversed([*enumerate(self.nodes)]):
                args = [graph.constant(t) if t else None for t in n.input[1:]]
                if is_op(n, "QuantizeLinear", "DequantizeLinear") and self.parameter_axis(graph, k) == axis:
                    args = [a[where] if a is not None and a.size > 1 else a for a in args]
                x = fold(n, [x, *args])
            if x is None:
                return
            yield axis, where, x
            start = where.stop

    def _stored(self, graph: Graph) -> Iterator[Array]:
        """The root's values, a block at a time."""
        if graph.is_outside(self.root):
            yield from tensors.arrays(graph.initializers[self.root], BLOCK)
            return
        value = graph.constant(self.root)
        if value is not None:
            step = max(1, BLOCK // max(1, value[:1].nbytes))
            yield from (value[k : k + step] for k in range(0, len(value), step))


def read_weight(graph: Graph, node: NodeProto, index: int) -> Weight | None:
    """The constant weight at one input of a node; None when it is not constant or of a form that we cannot edit."""
    key = id(node), index
    if key not in graph.memo:
        graph.memo[key] = _read(graph, node, index)
    found: Weight | None = graph.memo[key]
    return found


def _read(graph: Graph, node: NodeProto, index: int) -> Weight | None:
    if len(node.input) <= index or not node.input[index]:
        return None
    tensor = node.input[index]
    chain: list[NodeProto] = []
    perms: list[tuple[int, ...]] = []
    transposes: list[tuple[int, ...] | None] = []
    while tensor not in graph.initializers:
        n = graph.producer.get(tensor)
        if n is None or len(chain) > 16:
            return None
        if is_op(n, "Constant"):
            break
        if not is_op(n, "Identity", "Cast", "CastLike", "Clip", "QuantizeLinear", "DequantizeLinear", "Transpose"):
            return None
        if is_op(n, "QuantizeLinear", "DequantizeLinear"):
            scale = graph.constant(n.input[1])
            if scale is None or attribute(n, "block_size", 0) or scale.ndim > 1:
                return None
            zero = graph.constant(n.input[2]) if len(n.input) > 2 and n.input[2] else None
            if zero is not None and zero.size not in (1, scale.size):
                return None
        if is_op(n, "Clip") and any(t and (c := graph.constant(t)) is not None and c.size > 1 for t in n.input[1:]):
            return None
        chain.append(n)
        transposes.append(tuple(attribute(n, "perm") or ()) if is_op(n, "Transpose") else None)
        tensor = n.input[0]
    shape = graph.constant_shape(tensor)
    if shape is None:
        return None
    axes = tuple(range(len(shape)))
    for t in transposes:
        # output axis k of a Transpose is axis perm[k] of its input
        if t is not None:
            t = t or tuple(reversed(range(len(shape))))
            if sorted(t) != sorted(axes):
                return None  # of another rank, in a damaged file
            axes = tuple(t[a] for a in axes)
        perms.append(axes)
    weight = Weight(tensor, tuple(shape[a] for a in axes), tuple(chain), tuple(perms))
    for k, n in enumerate(chain):
        if is_op(n, "QuantizeLinear", "DequantizeLinear"):
            axis, scale = weight.parameter_axis(graph, k), graph.constant(n.input[1])
            if axis is not None and scale is not None and scale.size != weight.shape[axis]:
                return None
            if axis is not None and not -len(shape) <= int(attribute(n, "axis", 1)) < len(shape):
                return None  # such an axis is no file's, but onnxruntime lets it pass
    return weight


def edit_weight(
    graph: EditableGraph,
    node: NodeProto,
    index: int,
    edit: Callable[[Array], Array] | None,
    axis: int,
    positions: Array,
) -> None:
    """Replace a weight by `edit(weight)`; per-channel parameters along `axis` are taken at `positions`.

    A weight in a side file that is only taken from stays there.

    Args:
        graph: the graph.
        node: the reader of the weight.
        index: which of its inputs.
        edit: function of the root's values in the reader's axes; the result's dtype must be the same.  None: the
            values at `positions`.
        axis: the reader's axis that changes.
        positions: old position of every new one along that axis.
    """
    weight = read_weight(graph, node, index)
    assert weight is not None
    axis %= len(weight.shape)
    perm = weight.perms[-1] if weight.perms else tuple(range(len(weight.shape)))
    if edit is None:
        root = graph.add_initializer(weight.root + "_wide", graph.take(weight.root, perm[axis], positions))
    else:
        value = graph.constant(weight.root)
        assert value is not None
        new = np.transpose(edit(np.transpose(value, perm)).astype(value.dtype, copy=False), np.argsort(perm))
        name = weight.root + "_wide"
        same = new.shape == value.shape
        root = graph.add_like(weight.root, name, new) if same else graph.add_initializer(name, new)
    reader, at = node, index
    for k, n in enumerate(weight.nodes):
        tensor = n.output[0]
        if not graph.private(tensor):
            n = graph.clone_node(n, graph.fresh(tensor + "_wide"))
            graph.set_input(reader, at, n.output[0])
        if is_op(n, "QuantizeLinear", "DequantizeLinear") and weight.parameter_axis(graph, k) == axis:
            for p in range(1, len(n.input)):
                parameter = graph.constant(n.input[p])
                if parameter is not None and parameter.size > 1:
                    graph.set_input(n, p, graph.add_initializer(n.input[p] + "_wide", parameter[positions]))
        graph.reshaped.add(n.output[0])
        reader, at = n, 0
    graph.set_input(reader, at, root)


def take(graph: EditableGraph, node: NodeProto, index: int, axis: int, positions: Array) -> None:
    """Repeat or reorder a weight's channels: new channel k along `axis` is the old channel positions[k]."""
    edit_weight(graph, node, index, None, axis, positions)


def scales_apart(graph: Graph, node: NodeProto, index: int, axis: int) -> bool:
    """Whether each channel of a weight can be multiplied with a power of two exactly: in float, or by its own step."""
    weight = read_weight(graph, node, index)
    if weight is None:
        return False
    integers = False
    for k, n in enumerate(weight.nodes):
        if is_op(n, "QuantizeLinear", "DequantizeLinear"):
            integers = n.op_type == "DequantizeLinear"
            if weight.parameter_axis(graph, k) != axis % len(weight.shape):
                return False
        elif is_op(n, "Clip") and not integers:
            return False
    root = graph.constant(weight.root)
    return integers or (root is not None and root.dtype == np.float32)


def scale_channels(graph: EditableGraph, node: NodeProto, index: int, axis: int, factors: Array) -> None:
    """Multiply the channels of a weight or bias that nobody else reads with powers of two (`scales_apart`).

    Integers stay what they are: their steps are multiplied.

    Args:
        graph: the graph.
        node: the reader.
        index: which of its inputs.
        axis: the reader's channel axis.
        factors: one for each channel.
    """
    weight = read_weight(graph, node, index)
    assert weight is not None
    root = graph.constant(weight.root)
    if root is not None and root.dtype.kind == "f":
        shape = [1] * len(weight.shape)
        shape[axis] = -1
        edit_weight(graph, node, index, lambda w: w * factors.reshape(shape), axis, np.arange(factors.size))
        weight = read_weight(graph, node, index)
        assert weight is not None
    for k, n in enumerate(weight.nodes):
        if is_op(n, "QuantizeLinear", "DequantizeLinear") and weight.parameter_axis(graph, k) == axis:
            scale = graph.constant(n.input[1])
            assert scale is not None
            graph.set_input(n, 1, graph.add_initializer(n.input[1], (scale * factors).astype(scale.dtype)))


def coarsened(graph: Graph, weight: Weight, factors: Array) -> tuple[int, Array, Array] | None:
    """A weight's integers on coarser steps in some channels.

    Args:
        graph: the graph, not edited.
        weight: stored in integers with one step a channel.
        factors: what to multiply each channel's step with, shape (C,).

    Returns:
        The reader's channel axis; the new integers in the reader's axes; for each channel the sum of what its weights
        change by, in old steps.  None if the weight is not stored like that.
    """
    root, q = graph.constant(weight.root), weight.quantizer(graph)
    if root is None or root.dtype.kind == "f" or q is None or q.axis is None or q.scale.size != factors.size:
        return None
    columns = (-1, *[1] * (root.ndim - 1 - q.axis))
    factor, zero = factors.reshape(columns), np.broadcast_to(q.zero_point, q.scale.shape).reshape(columns)
    steps = np.transpose(root, weight.perms[-1]).astype(np.float64) - zero
    new = np.rint(steps / factor)
    change = np.abs(new * factor - steps).sum(tuple(a for a in range(root.ndim) if a != q.axis))
    return q.axis, (new + zero).astype(root.dtype), change


def coarsen(graph: EditableGraph, node: NodeProto, index: int, factors: Array) -> None:
    """Multiply the steps of a layer's weight, a channel each, and round its integers to them (`coarsened`)."""
    weight = read_weight(graph, node, index)
    found = None if weight is None else coarsened(graph, weight, factors)
    assert found is not None
    axis, value, _ = found
    edit_weight(graph, node, index, lambda _: value, axis, np.arange(factors.size))
    scale_channels(graph, node, index, axis, factors)
