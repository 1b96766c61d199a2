"""The yardstick of gains: the original with constants that are multiplied and weights that are divided, as declared.

All is found again here: which constants the tensor's channels are linear in, and who reads it.  A declaration that
names others, or leaves one out, cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.intervals import value_bounds
from onnx_ocs.qdq.layers import LAYERS
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.grids import Gains
from onnx_ocs.verification.values import Differs

__all__ = ["Gained"]

PASSING = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity",
                     "Dropout"})  # fmt: skip
LAST = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
SECOND = frozenset({"BatchNormalization", "InstanceNormalization"})
FARTHEST = 30  # octaves
TIED = 1e-3
Source = tuple[NodeProto, int, int]  # a node, which of its inputs, and that constant's channel axis from the end


class Gained:
    """Gains, given to the original.

    Args:
        graph: of the original; its nodes are edited.
        constant: adds a constant, named like another one.
        added: where copies of nodes go.
        fresh: gives a name that nothing has.
    """

    def __init__(
        self, graph: Graph, constant: Callable[[str, Array], str], added: list[NodeProto], fresh: Callable[[str], str]
    ) -> None:
        self.graph, self._constant, self._added, self._fresh = graph, constant, added, fresh
        self._declared: set[tuple[str, int]] = set()
        self._second = False  # whether the channels are known to lie along the second axis

    def give(self, nodes: Sequence[NodeProto], q: Quantizer, e: Gains) -> None:
        """Make the declared edit.

        Args:
            nodes: the QuantizeLinears, of one tensor and on one grid.
            q: the grid.
            e: the gains.

        Raises:
            Differs: they cannot be.
        """
        octaves = np.asarray(e.octaves, np.int64)
        source, who = str(nodes[0].input[0]), f"'{nodes[0].input[0]}', whose channels have gains,"
        if q.scale.size != 1 or not octaves.size or np.abs(octaves).max() > FARTHEST:
            raise Differs(f"the gains that {who} is said to have cannot be")
        layers, others = self._readers(e)
        if sorted(str(x.output[0]) for x in layers) != sorted(e.layers):
            raise Differs(f"{who} has other readers than are declared")
        axes = {self._axis(x) for x in layers}
        if len(axes) != 1:
            raise Differs(f"the readers of {who} read other channels")
        axis = axes.pop()
        if e.product is not None and not e.sources:
            self._insert(nodes, q, e.product, 2.0 ** octaves.astype(np.float64), axis, others)
        else:
            self._declared = {*e.sources}
            self._second = axis != -1 or all(is_op(x, "Gemm") for x in layers)
            sources = self._absorb(source, nodes, axis, octaves.size)
            if others or _named(sources) != sorted(e.sources):
                raise Differs(f"what takes in the gains of '{source}' is not what is declared")
            for node, k, own in sources:
                node.input[k] = self._multiplied(str(node.input[k]), own, 2.0**octaves)
        for x in layers:
            self._divide(x, q, octaves)

    def _insert(
        self, nodes: Sequence[NodeProto], q: Quantizer, product: tuple[str, str], factors: Array, axis: int,
        others: list[tuple[NodeProto, str]],
    ) -> None:  # fmt: skip
        """A product in front of the quantizers; all but layers read what they read."""
        source, (name, scaled) = str(nodes[0].input[0]), product
        if not scaled or scaled in self.graph.producer or scaled in self.graph.inputs:
            raise Differs(f"the product that is said to give '{source}' its gains cannot be")
        if others and q.rectifies and value_bounds(self.graph, [source])[source][0] < 0:
            raise Differs(f"the quantizer of '{source}' stands for a ReLU, and not all read it any more")
        factor = self._constant(source, factors.astype(q.float_dtype).reshape(-1, *[1] * (-1 - axis)))
        self._added.append(helper.make_node("Mul", [source, factor], [scaled], name=name))
        for n in nodes:
            n.input[0] = scaled
        for reader, t in others:
            for k, read in enumerate(reader.input):
                if read == t:
                    reader.input[k] = source

    # ---- who reads it -----------------------------------------------------------------------------------------------

    def _readers(self, e: Gains) -> tuple[list[NodeProto], list[tuple[NodeProto, str]]]:
        """The layers behind a quantizer that are declared, and who else reads its tensor, under which name."""
        found: list[NodeProto] = []
        others: list[tuple[NodeProto, str]] = []
        for t in self._behind([*e.quantized]):
            n = self.graph.producer[t]
            for r in self.graph.readers(t):
                if not is_op(n, "DequantizeLinear"):
                    if not is_op(r, "DequantizeLinear", "Clip"):
                        raise Differs(f"'{label(r)}' reads the integers '{t}', whose channels have gains")
                elif is_op(r, *LAYERS) and r.output[0] in e.layers:
                    once = r.input[0] == t and [*r.input].count(t) == 1
                    if is_op(r, "ConvTranspose") or not once or attribute(r, "transA", 0):
                        raise Differs(f"'{label(r)}' reads '{t}', whose channels have gains")
                    found.append(r)
                else:
                    others.append((r, t))
        return found, others

    def _behind(self, tensors: list[str]) -> list[str]:
        """Integers and what they are dequantized to."""
        for t in tensors:
            if t in self.graph.outputs or self.graph.captured(t):
                raise Differs(f"'{t}', whose channels have gains, is read outside the graph's nodes")
            if not is_op(self.graph.producer[t], "DequantizeLinear"):
                tensors += [str(r.output[0]) for r in self.graph.readers(t) if is_op(r, "DequantizeLinear", "Clip")]
        return tensors

    def _axis(self, layer: NodeProto) -> int:
        """The axis of what a layer reads, from the end, along which its input channels lie."""
        return 1 - len(self._view(str(layer.input[1]))[0].shape) if is_op(layer, "Conv") else -1

    # ---- who takes them in ------------------------------------------------------------------------------------------

    def _absorb(self, tensor: str, readers: Sequence[NodeProto], axis: int, channels: int) -> list[Source]:
        """The constants that a tensor's channels are linear in."""
        g = self.graph
        if tensor in g.outputs or g.captured(tensor) or {*map(id, g.readers(tensor))} != {*map(id, readers)}:
            raise Differs(f"somebody else reads '{tensor}', whose channels have gains")
        n = g.producer.get(tensor)
        if n is None or sum(map(bool, n.output)) > 1:
            raise Differs(f"nothing takes in the gains of '{tensor}'")
        first = str(n.input[0])
        if n.op_type in PASSING and is_op(n, n.op_type):
            return self._absorb(first, [n], axis, channels)
        if is_op(n, *LAYERS):
            return self._layer(n, axis, channels)
        if (n.op_type in LAST and axis == -1) or (n.op_type in SECOND and self._second):
            given = [k for k in (1, 2) if len(n.input) > k and n.input[k]]
            return [(n, k, -1) for k in given if self._is_vector(n, k, -1, channels)]
        constant = [k for k, t in enumerate(n.input) if g.is_constant(t)]
        if is_op(n, "Mul", "Add") and len(constant) == 1:
            k = constant[0]
            other = str(n.input[1 - k])
            if is_op(n, "Mul") and self._view(str(n.input[k]))[0].size == 1 != channels:
                return self._absorb(other, [n], axis, channels)
            self._is_vector(n, k, axis, channels)
            return [(n, k, axis), *([] if is_op(n, "Mul") else self._absorb(other, [n], axis, channels))]
        if is_op(n, "Mul") and not constant and n.input[0] != n.input[1]:
            self._second = False  # a factor may have fewer axes
            for k in (0, 1):
                try:
                    found = self._absorb(str(n.input[k]), [n], axis, channels)
                except Differs:
                    continue  # the other factor may
                if self._declared.issuperset(_named(found)):
                    return found
        raise Differs(f"'{label(n)}' does not take in the gains of '{tensor}'")

    def _is_vector(self, n: NodeProto, k: int, axis: int, channels: int) -> bool:
        """A constant must have one value for each channel, at the channels' place."""
        value = self._view(str(n.input[k]))[0]
        if value.size != channels or value.ndim < -axis or value.shape[axis] != channels:
            raise Differs(f"input {k} of '{label(n)}' has no value for each channel")
        return True

    def _layer(self, n: NodeProto, axis: int, channels: int) -> list[Source]:
        value = self._view(str(n.input[1]))[0]
        upright = is_op(n, "Conv") or (is_op(n, "Gemm") and attribute(n, "transB", 0))
        out = -value.ndim if upright else -1
        mine = 1 - value.ndim if is_op(n, "Conv") else -1
        if is_op(n, "ConvTranspose") or mine != axis or value.shape[out] != channels:
            raise Differs(f"the outputs of '{label(n)}' are not the channels that have gains")
        bias = len(n.input) > 2 and n.input[2] and self._is_vector(n, 2, -1, channels)
        return [(n, 1, out), *([(n, 2, -1)] if bias else [])]

    # ---- constants --------------------------------------------------------------------------------------------------

    def _view(self, tensor: str) -> tuple[Array, list[NodeProto], tuple[int, ...]]:
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
        order = tuple(range(value.ndim))
        for n in reversed(nodes):
            if is_op(n, "Transpose"):
                order = tuple(order[a] for a in (attribute(n, "perm") or range(value.ndim)[::-1]))
        return np.transpose(value, order), nodes, order

    def _multiplied(self, tensor: str, axis: int, factors: Array, alone: bool = True) -> str:
        """A constant times one factor a channel; integers stay, and their steps are multiplied."""
        n = self.graph.producer.get(tensor)
        if n is None or is_op(n, "Constant"):
            value = self._view(tensor)[0]
            if value.dtype.kind != "f":
                return tensor
            return self._constant(tensor, (value * self._shaped(factors, value.ndim, axis)).astype(value.dtype))
        value = self._view(tensor)[0]
        copy = self._copied(n, alone)
        alone = copy is n
        if is_op(n, "Transpose"):
            perm = attribute(n, "perm") or range(value.ndim)[::-1]
            copy.input[0] = self._multiplied(str(n.input[0]), int(perm[axis]) - value.ndim, factors, alone)
            return str(copy.output[0])
        scale = self.graph.constant(n.input[1])
        per_channel = scale is not None and scale.size == factors.size
        if not per_channel or int(attribute(n, "axis", 1)) % value.ndim != axis % value.ndim:
            raise Differs(f"'{tensor}' has no step for each channel that has a gain")
        assert scale is not None
        copy.input[1] = self._constant(str(n.input[1]), (scale * factors).astype(scale.dtype))
        copy.input[0] = self._multiplied(str(n.input[0]), axis, factors, alone)
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
        self._added.append(copy)
        return copy

    # ---- weights ----------------------------------------------------------------------------------------------------

    def _divide(self, layer: NodeProto, grid: Quantizer, octaves: Array) -> None:
        """Divide the weight of a layer, input by input, on steps that are as small as they can be."""
        stored, nodes, order = self._view(str(layer.input[1]))
        pairs = [n for n in nodes if not is_op(n, "Transpose")]
        if not pairs or not is_op(pairs[0], "DequantizeLinear") or [n.op_type for n in pairs[1:]] not in (
            [], ["QuantizeLinear"],
        ):  # fmt: skip
            raise Differs(f"the weight of '{label(layer)}' is not stored as integers of one kind")
        q = read_quantizer(self.graph, pairs[0])
        if not isinstance(q, Quantizer):
            raise Differs(f"the weight of '{label(layer)}' is not on a grid")
        upright = is_op(layer, "Conv") or (is_op(layer, "Gemm") and bool(attribute(layer, "transB", 0)))
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
        reader.input[k] = self._constant(str(reader.input[k]), root)

    def _grow(self, n: NodeProto, factors: Array) -> None:
        scale = self.graph.constant(n.input[1])
        assert scale is not None
        by = factors if scale.size > 1 else factors.reshape(scale.shape)
        n.input[1] = self._constant(str(n.input[1]), (scale * by).astype(scale.dtype))

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
        copy.input[0] = self._constant(str(n.input[0]), np.rint(value / factors).astype(value.dtype))
        self._grow(copy, factors)
        layer.input[2] = copy.output[0]


def _named(sources: list[Source]) -> list[tuple[str, int]]:
    """Sources as they are declared."""
    return sorted((str(next(o for o in n.output if o)), k) for n, k, _ in sources)


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
