"""Constants on an integer grid, read and written where they are stored.

    integers -> [Clip] -> DQ -> reader                        (possibly a Transpose, Cast, Reshape... in between)
    floats -> Q -> [Clip] -> DQ -> reader                     the floats then lie on the grid, and Q finds them again
    floats -> reader                                          no grid

Both weights and biases are read as such.  New values replace the content of the constants; a constant that somebody
else reads too is replaced by a copy under a fresh name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.qdq.weights import Weight, read_weight
from onnx_ocs.records.weights import Refit, digest

__all__ = ["Stored", "read_stored", "write_scale", "write_values"]

Kind = Literal["integers", "floats", "plain"]
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Move:
    """A Transpose, or what gives an array other axes: Reshape, Squeeze, Unsqueeze.

    Attributes:
        before: shape of what it reads.
        after: shape of what it writes.
        perm: of a Transpose; None for the others.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    perm: tuple[int, ...] | None

    def forth(self, x: Array) -> Array:
        """What it makes of an array; axes of size 1 may stand for any."""
        return x.reshape(self.after) if self.perm is None else np.transpose(x, self.perm)

    def back(self, x: Array) -> Array:
        """What it made an array of."""
        return x.reshape(self.before) if self.perm is None else np.transpose(x, np.argsort(self.perm))


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant operand of a node.

    Attributes:
        reader: the node.
        index: which of its inputs.
        kind: "integers" behind DQ, "floats" on a grid behind Q and DQ, or "plain" floats.
        chain: how it is stored.
        look: gives what the reader sees, in its axes and type; made anew where it comes from a side file.
        held: what DQ sees, in the reader's axes and the file's type; None for plain floats.
        scale: float64, shape () or along `axis`; 1 for plain floats.
        zero: zero-point, int64, of the scale's shape.
        axis: the reader's axis along which the scale lies; None for one scale, and where a Reshape stands behind it.
        grid: shape of what DQ writes, and its axis along which the scale lies.
        moves: what is done to the axes between DQ and the reader, in this order.
        moves_before: the same between the constant and DQ.
        low: smallest integer that the file's dialect takes.
        high: largest.
        dtype: of the stored floats, or of the scale.
        scales: for Q (if any) and DQ, the node and the name of its scale.
    """

    reader: NodeProto
    index: int
    kind: Kind
    chain: Weight
    look: Callable[[], Array]
    held: Array | None
    scale: Array
    zero: Array
    axis: int | None
    grid: tuple[tuple[int, ...], int | None]
    moves: tuple[Move, ...]
    moves_before: tuple[Move, ...]
    low: int
    high: int
    dtype: np.dtype[np.generic]
    scales: tuple[tuple[NodeProto, str], ...]

    @property
    def value(self) -> Array:
        """What the reader sees, float64."""
        return self.look().astype(np.float64)

    @property
    def integers(self) -> Array | None:
        """What DQ sees, int64; None for plain floats."""
        return None if self.held is None else self.held.astype(np.int64)

    @property
    def root(self) -> str:
        """Name of the constant at the end of the chain."""
        return self.chain.root

    def spread(self, parameter: Array) -> Array:
        """A scale or zero-point in a shape that broadcasts against the reader's view."""
        whole, axis = self.grid
        if axis is None or parameter.size == 1:
            return parameter.reshape(())
        shape = [1] * len(whole)
        shape[axis] = -1
        x = parameter.reshape(shape)
        if self.reshaped:
            x = np.broadcast_to(x, whole)
        for m in self.moves:
            x = m.forth(x)
        return x

    @property
    def reshaped(self) -> bool:
        """Whether the reader's axes are others than the constant's, and not only in another order."""
        return any(m.perm is None for m in (*self.moves, *self.moves_before))


def read_stored(graph: Graph, node: NodeProto, index: int) -> Stored | str:
    """A constant operand, or why it cannot be given new values.

    Args:
        graph: the graph.
        node: who reads it.
        index: at which input.
    """
    chain = read_weight(graph, node, index) or _reshaped(graph, node, index)
    if chain is None:
        return "it is not a constant on one grid that can be edited in place"
    dequantizers = [k for k, n in enumerate(chain.nodes) if is_op(n, "DequantizeLinear")]
    quantizers = [k for k, n in enumerate(chain.nodes) if is_op(n, "QuantizeLinear")]
    if not dequantizers and not quantizers:
        return _plain(graph, node, index, chain)
    if len(dequantizers) != 1 or len(quantizers) > 1 or (quantizers and quantizers[0] < dequantizers[0]):
        return "more than one quantizer stands in front of it"
    at = dequantizers[0]
    dq = chain.nodes[at]
    grid = read_quantizer(graph, dq)
    integers, look = graph.constant(dq.input[0]), _seen(graph, str(node.input[index]))
    root = graph.constant(chain.root)
    if not isinstance(grid, Quantizer):
        return grid.message
    if integers is None or look is None or root is None:
        return "its values cannot be read"
    if any(is_op(n, "Clip") for n in chain.nodes[:at]) or (not quantizers and root.dtype.kind == "f"):
        return "its values are changed between the grid and the layer"
    if integers.dtype != grid.dtype:  # without a zero-point a DQ does not say what its integers are
        least, most = integer_range(integers.dtype)
        grid = replace(grid, dtype=integers.dtype, qmin=least, qmax=most)
    low, high = _range(graph, chain, at, grid, integers)
    nodes = [chain.nodes[k] for k in (*quantizers, at)]
    moves, before = _moves(graph, chain.nodes[:at]), _moves(graph, chain.nodes[at:])
    plain = all(m.perm is not None for m in (*moves, *before))
    if quantizers and not plain:
        return "a Reshape stands between its floats and the layer"
    turned = integers
    for m in moves:
        turned = m.forth(turned)
    return Stored(
        node,
        index,
        "floats" if quantizers else "integers",
        chain,
        look,
        turned,
        grid.scale,
        grid.zero_point,
        chain.parameter_axis(graph, at) if plain else None,
        (integers.shape, _axis(dq, grid, integers.ndim)),
        moves,
        before,
        low,
        high,
        root.dtype if quantizers else grid.float_dtype,
        tuple((n, str(n.input[1])) for n in nodes),
    )


def _axis(dq: NodeProto, grid: Quantizer, rank: int) -> int | None:
    """A DequantizeLinear's axis along which its scales lie."""
    return None if grid.scale.size == 1 else int(attribute(dq, "axis", 1)) % rank


def _moves(graph: Graph, nodes: Sequence[NodeProto]) -> tuple[Move, ...]:
    """What some nodes of a chain, the reader's neighbour first, do to the axes, in the order in which they do it."""
    found = []
    for n in reversed(nodes):
        if not is_op(n, "Transpose", *RESHAPES):
            continue
        before, after = graph.constant_shape(n.input[0]), graph.constant_shape(n.output[0])
        assert before is not None and after is not None
        perm = tuple(attribute(n, "perm") or reversed(range(len(before)))) if is_op(n, "Transpose") else None
        found.append(Move(before, after, perm))
    return tuple(found)


def _reshaped(graph: Graph, node: NodeProto, index: int) -> Weight | None:
    """A chain in which axes are split, joined or added, which `read_weight` does not follow; None if it is none."""
    if len(node.input) <= index or not node.input[index]:
        return None
    tensor, chain = str(node.input[index]), list[NodeProto]()
    while tensor not in graph.initializers:
        n = graph.producer.get(tensor)
        if n is None or len(chain) > 16 or is_op(n, "Constant"):
            break
        scaled = is_op(n, "QuantizeLinear", "DequantizeLinear")
        if not (scaled or is_op(n, "Identity", "Cast", "CastLike", "Clip", "Transpose", *RESHAPES)):
            return None
        given = [graph.constant(t) for t in n.input[1:] if t]
        if any(g is None or (is_op(n, "Clip") and g.size > 1) for g in given):
            return None
        chain.append(n)
        tensor = str(n.input[0])
    shape = graph.constant_shape(str(node.input[index]))
    if shape is None or graph.constant_shape(tensor) is None or not any(is_op(n, *RESHAPES) for n in chain):
        return None
    return Weight(tensor, shape, tuple(chain), ())


def _seen(graph: Graph, tensor: str) -> Callable[[], Array] | None:
    """What gives a constant, which is held where the graph holds it, too; None where it cannot be read."""
    if graph.is_outside(tensor) and graph.is_constant(tensor):

        def look() -> Array:
            value = graph.constant(tensor)
            assert value is not None
            return value

        return look
    value = graph.constant(tensor)
    return None if value is None else lambda: value


def _plain(graph: Graph, node: NodeProto, index: int, chain: Weight) -> Stored | str:
    value = graph.constant(node.input[index])
    root = graph.constant(chain.root)
    if value is None or root is None or root.dtype.kind != "f":
        return "it is not a constant of floats"
    if any(is_op(n, "Clip") for n in chain.nodes):
        return "its values are clipped on their way"
    one, nothing, moves = np.ones(()), np.zeros((), np.int64), _moves(graph, chain.nodes)
    grid = (value.shape, None)
    return Stored(
        node, index, "plain", chain, lambda: value, None, one, nothing, None, grid, moves, (), 0, 0,
        root.dtype, (),
    )  # fmt: skip


def _range(graph: Graph, chain: Weight, at: int, grid: Quantizer, integers: Array) -> tuple[int, int]:
    """The integers that the file takes: those of as many bits as its largest value needs, within Clip and dtype.

    A symmetric range stays one: where -2^(b - 1) does not occur, it is not taken.
    """
    low, high = integer_range(grid.dtype)
    for n in chain.nodes[at + 1 :]:
        if is_op(n, "Clip"):
            found = integer_clip(graph, n, grid)
            if found is not None:
                low, high = max(low, found[0]), min(high, found[1])
    least, most = int(integers.min(initial=0)), int(integers.max(initial=0))
    if low >= 0:
        bits = max(1, int(most).bit_length())
        return low, min(high, 2**bits - 1)
    bits = max(2, int(max(most, -least - 1)).bit_length() + 1)
    if least > -(2 ** (bits - 1)):
        bits = max(bits, int(-least).bit_length() + 1)
        low = max(low, -(2 ** (bits - 1)) + 1)
    return max(low, -(2 ** (bits - 1))), min(high, 2 ** (bits - 1) - 1)


def _alone(graph: Graph, name: str, readers: set[int]) -> bool:
    """Whether only the given nodes read a tensor."""
    others = [n for n in graph.readers(name) if id(n) not in readers]
    return not others and name not in graph.outputs and not graph.captured(name)


def exclusive(graph: Graph, stored: Sequence[Stored]) -> bool:
    """Whether nobody but these readers reads the values, at the root or anywhere on the way; each of them once."""
    own = {id(n) for s in stored for n in (s.reader, *s.chain.nodes)}
    names = {s.root for s in stored} | {str(n.output[0]) for s in stored for n in s.chain.nodes}
    once = all(list(s.reader.input).count(s.reader.input[s.index]) == 1 for s in stored)
    return once and all(_alone(graph, name, own) for name in names)


def write_values(graph: EditableGraph, stored: Stored, values: Array, scale: Array) -> Refit:
    """Give a constant new values.

    Args:
        graph: the graph; edited.
        stored: the constant, which nobody else reads (`exclusive`).
        values: integers, or plain floats, in the reader's axes.
        scale: the scale that goes with them, float64 of the scale's shape.

    Returns:
        What to declare.
    """
    chain = stored.chain
    old = graph.constant(chain.root)
    assert old is not None
    if stored.kind == "floats":
        step, zero = stored.spread(scale.astype(stored.dtype)), stored.spread(stored.zero)
        values = (values - zero).astype(stored.dtype) * step
    for m in reversed((*stored.moves_before, *stored.moves)):
        values = m.back(values)
    new = np.ascontiguousarray(values).astype(old.dtype).reshape(old.shape)
    graph.overwrite(chain.root, new)
    return Refit(chain.root, chain.root, digest(new))


def write_scale(graph: EditableGraph, stored: Stored, scale: Array) -> Refit | None:
    """Give a constant's grid new scales, in front of Q and DQ alike.

    Args:
        graph: the graph; edited.
        stored: a constant on a grid.
        scale: float64, of the scale's shape, representable in its dtype.

    Returns:
        What to declare.
    """
    before = stored.scales[-1][1]
    own = {id(n) for n, _ in stored.scales}
    old = graph.constant(before)
    assert old is not None
    new = scale.astype(old.dtype).reshape(old.shape)
    if all(name == before and _alone(graph, name, own) for _, name in stored.scales) and graph.is_stored(before):
        graph.overwrite(before, new)
        return Refit(before, before, digest(new))
    name = graph.add_initializer(before, new)
    for n, _ in stored.scales:
        graph.set_input(n, 1, name)
    return Refit(name, before, digest(new))
