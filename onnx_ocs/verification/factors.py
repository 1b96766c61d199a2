"""Gains on the constants of the original: vectors that are multiplied, weights that are divided.

Nodes and initializers that somebody else reads are copied, not edited.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.verification.values import Differs

__all__ = ["FARTHEST", "Factors"]

FARTHEST = 30  # octaves
TIED = 1e-3  # by what the scale of a bias that is tied to its input's may miss input times weight


class Factors:
    """Constants times powers of two.

    Args:
        graph: of the original; its nodes are edited.
        constant: adds a constant, named like another one.
        added: where copies of nodes go.
        fresh: gives a name that nothing has.
    """

    def __init__(
        self, graph: Graph, constant: Callable[[str, Array], str], added: list[NodeProto], fresh: Callable[[str], str]
    ) -> None:
        self.graph, self.constant, self.added, self._fresh = graph, constant, added, fresh

    def view(self, tensor: str) -> tuple[Array, list[NodeProto], tuple[int, ...]]:
        """A stored constant as its reader sees its axes, the nodes behind it, and the order of its own axes."""
        nodes: list[NodeProto] = []
        while (n := self.graph.producer.get(tensor)) is not None and is_op(
            n, "DequantizeLinear", "QuantizeLinear", "Transpose"
        ):
            nodes.append(n)
            tensor = str(n.input[0])
        value = self.graph.constant(tensor)
        if value is None:
            raise Differs(f"'{tensor}' is no constant that can have gains")
        order = _order(nodes, value.ndim)
        return np.transpose(value, order), nodes, order

    def multiplied(self, tensor: str, axis: int, factors: Array, alone: bool = True) -> str:
        """A constant times one factor a channel; integers stay, and their steps are multiplied."""
        n = self.graph.producer.get(tensor)
        if n is None or is_op(n, "Constant"):
            value = self.view(tensor)[0]
            if value.dtype.kind != "f":
                return tensor
            return self.constant(tensor, (value * self._shaped(factors, value.ndim, axis)).astype(value.dtype))
        value = self.view(tensor)[0]
        copy = self._copied(n, alone)
        alone = copy is n
        if is_op(n, "Transpose"):
            perm = attribute(n, "perm") or range(value.ndim)[::-1]
            copy.input[0] = self.multiplied(str(n.input[0]), int(perm[axis]) - value.ndim, factors, alone)
            return str(copy.output[0])
        scale = self.graph.constant(n.input[1])
        per_channel = scale is not None and scale.size == factors.size
        if not per_channel or int(attribute(n, "axis", 1)) % value.ndim != axis % value.ndim:
            raise Differs(f"'{tensor}' has no step for each channel that has a gain")
        assert scale is not None
        copy.input[1] = self.constant(str(n.input[1]), (scale * factors).astype(scale.dtype))
        copy.input[0] = self.multiplied(str(n.input[0]), axis, factors, alone)
        return str(copy.output[0])

    def _shaped(self, values: Array, rank: int, axis: int) -> Array:
        shape = [1] * rank
        shape[axis] = -1
        return values.reshape(shape)

    def _copied(self, n: NodeProto, alone: bool = True) -> NodeProto:
        """A node that may be edited: a copy, where somebody else reads it, or what stands behind it (not `alone`)."""
        t, g = n.output[0], self.graph
        if alone and len(g.value_readers(t)) == 1 and t not in g.outputs and not g.captured(t):
            return n
        copy = NodeProto()
        copy.CopyFrom(n)
        copy.output[0] = self._fresh(n.output[0] + "_yardstick")
        copy.name = copy.output[0]
        self.added.append(copy)
        return copy

    # ---- weights ----------------------------------------------------------------------------------------------------

    def divide(self, layer: NodeProto, grid: Quantizer, octaves: Array) -> None:
        """Divide the weight of a layer, input by input, on steps that are as small as they can be."""
        stored, nodes, order = self.view(str(layer.input[1]))
        pairs = [n for n in nodes if not is_op(n, "Transpose")]
        if not pairs or not is_op(pairs[0], "DequantizeLinear") or [n.op_type for n in pairs[1:]] not in (
            [], ["QuantizeLinear"],
        ):  # fmt: skip
            raise Differs(f"the weight of '{label(layer)}' is not stored as integers of one kind")
        q = read_quantizer(self.graph, pairs[0])
        if not isinstance(q, Quantizer):
            raise Differs(f"the weight of '{label(layer)}' is not on a grid")
        upright = is_op(layer, "Conv") or (is_op(layer, "Gemm") and bool(attribute(layer, "transB", 0)))
        turned = _order(nodes[: nodes.index(pairs[0])], stored.ndim)[0 if upright else -1]
        if q.axis is not None and q.axis % stored.ndim != turned:
            raise Differs(f"the weight of '{label(layer)}' has steps that are none of its outputs'")
        by_row = stored if upright else np.moveaxis(stored, -1, 0)  # outputs first
        taken = self._taken(layer, by_row, octaves)
        step = q.scale.reshape(-1, *[1] * (stored.ndim - 1)) if q.scale.size > 1 else q.scale
        zero = q.zero_point.reshape(-1, *[1] * (stored.ndim - 1)) if q.zero_point.size > 1 else q.zero_point
        floats = stored.dtype.kind == "f"
        # float32 holds integers of 16 bits times powers of two
        whole = np.clip(np.rint(by_row / step) + zero, q.qmin, q.qmax) if floats else by_row.astype(np.float32)
        whole = whole - zero.astype(whole.dtype)
        wanted = whole / np.exp2(taken).astype(whole.dtype)
        used = float(np.abs(whole).max(initial=0.0))
        rows = wanted.reshape(len(wanted), -1) if q.scale.size > 1 else wanted.reshape(1, -1)
        above = np.minimum(used, q.qmax - q.zero_point) * np.ones(len(rows))
        below = np.minimum(used, q.zero_point - q.qmin) * np.ones(len(rows))
        grown = np.asarray([_least(r, a, b) for r, a, b in zip(rows, above, below, strict=True)])
        factors = 2.0**grown
        each = factors.reshape(-1, *[1] * (stored.ndim - 1)) if len(factors) > 1 else factors[0]
        del whole
        new = by_row / 2.0**taken if floats else np.rint(wanted / np.asarray(each, wanted.dtype)) + zero
        new = new.astype(stored.dtype) if upright else np.moveaxis(new.astype(stored.dtype), 0, -1)
        self._replace(layer, nodes, np.transpose(new, np.argsort(order)), factors)
        self._follow(layer, grid, q, factors)

    def _taken(self, layer: NodeProto, by_row: Array, octaves: Array) -> Array:
        """The octaves that each weight is divided by, outputs first."""
        groups = int(attribute(layer, "group", 1)) if is_op(layer, "Conv") else 1
        outputs, inside = by_row.shape[:2]
        if inside * groups != octaves.size:
            raise Differs(f"'{label(layer)}' reads another number of channels than have gains")
        group = np.arange(outputs)[:, None] * groups // outputs
        found = octaves[group * inside + np.arange(inside)].astype(np.float64)
        return np.asarray(found.reshape(outputs, inside, *[1] * (by_row.ndim - 2)))

    def _replace(self, layer: NodeProto, nodes: list[NodeProto], root: Array, factors: Array) -> None:
        """Let a layer read a copy of its weight's nodes, with this root and these factors on its steps."""
        reader, k, alone = layer, 1, True
        for n in nodes:
            copy = self._copied(n, alone)
            alone = copy is n
            if not is_op(n, "Transpose"):
                self._grow(copy, factors)
            reader.input[k] = copy.output[0]
            reader, k = copy, 0
        reader.input[k] = self.constant(str(reader.input[k]), root)

    def _grow(self, n: NodeProto, factors: Array) -> None:
        scale = self.graph.constant(n.input[1])
        assert scale is not None
        by = factors if scale.size > 1 else factors.reshape(scale.shape)
        n.input[1] = self.constant(str(n.input[1]), (scale * by).astype(scale.dtype))

    def _follow(self, layer: NodeProto, grid: Quantizer, q: Quantizer, factors: Array) -> None:
        """Integers of a bias on the step of input times weight keep their value."""
        n = self.graph.producer.get(layer.input[2]) if len(layer.input) > 2 else None
        b = read_quantizer(self.graph, n) if n is not None and is_op(n, "DequantizeLinear") else None
        if n is None or not isinstance(b, Quantizer) or np.any(b.zero_point):
            return
        tied = float(grid.scale) * q.scale
        if b.scale.size != tied.size or not np.allclose(b.scale, tied, rtol=TIED, atol=0):
            return
        value = self.graph.constant(n.input[0])
        if value is None:
            raise Differs(f"the bias of '{label(layer)}' is no constant")
        copy = self._copied(n)
        copy.input[0] = self.constant(str(n.input[0]), np.rint(value / factors).astype(value.dtype))
        self._grow(copy, factors)
        layer.input[2] = copy.output[0]


def _order(nodes: list[NodeProto], rank: int) -> tuple[int, ...]:
    """For each axis that is seen in front of nodes which of those behind them it is, the nearest node first."""
    order = tuple(range(rank))
    for n in reversed(nodes):
        if is_op(n, "Transpose"):
            order = tuple(order[a] for a in (attribute(n, "perm") or range(rank)[::-1]))
    return order


def _least(row: Array, above: float, below: float) -> int:
    """The smallest exponent of a power of two by which a row fits between -below and above; 0 for a row of zeros."""
    high, low = float(row.max(initial=0.0)), float(-row.min(initial=0.0))
    if high == 0 and low == 0:
        return 0
    if (high and not above) or (low and not below):
        raise Differs("a weight leaves the range that it has")
    r = -FARTHEST * 2
    while high > above * 2.0**r or low > below * 2.0**r:
        r += 1
    return r
