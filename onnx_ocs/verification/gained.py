"""The yardstick of gains: the original with constants that are multiplied and weights that are divided, as declared.

All is found again here: which constants the tensor's channels are linear in, and who reads it.  A declaration that
names others, or leaves one out, cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.intervals import value_bounds
from onnx_ocs.qdq.layers import LAYERS
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.grids import Gains
from onnx_ocs.verification.factors import FARTHEST, Factors
from onnx_ocs.verification.values import Differs

__all__ = ["Gained"]

PASSING = frozenset({"Relu", "LeakyRelu", "Identity", "Dropout"})
POOLING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
LAST = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
SECOND = frozenset({"BatchNormalization", "InstanceNormalization"})
Source = tuple[NodeProto, int, int]  # a node, which of its inputs, and that constant's channel axis from the end


class Gained:
    """Gains, given to the original.

    Args:
        factors: edits the original's constants.
    """

    def __init__(self, factors: Factors) -> None:
        self.graph, self._factors = factors.graph, factors
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
        layers, others = self._readers(e, q)
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
                node.input[k] = self._factors.multiplied(str(node.input[k]), own, 2.0**octaves)
        for x in layers:
            self._factors.divide(x, q, octaves)

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
        factor = self._factors.constant(source, factors.astype(q.float_dtype).reshape(-1, *[1] * (-1 - axis)))
        self._factors.added.append(helper.make_node("Mul", [source, factor], [scaled], name=name))
        for n in nodes:
            n.input[0] = scaled
        for reader, t in others:
            for k, read in enumerate(reader.input):
                if read == t:
                    reader.input[k] = source

    # ---- who reads it -----------------------------------------------------------------------------------------------

    def _readers(self, e: Gains, q: Quantizer) -> tuple[list[NodeProto], list[tuple[NodeProto, str]]]:
        """The layers behind a quantizer that are declared, and who else reads its tensor, under which name."""
        found: list[NodeProto] = []
        others: list[tuple[NodeProto, str]] = []
        for t in self._behind([*e.quantized]):
            n = self.graph.producer[t]
            d = read_quantizer(self.graph, n) if is_op(n, "DequantizeLinear") else q
            if not isinstance(d, Quantizer) or not d.same_parameters(q):
                raise Differs(f"'{t}' holds other values than were quantized, whose channels have gains")
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
        return 1 - len(self._factors.view(str(layer.input[1]))[0].shape) if is_op(layer, "Conv") else -1

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
        if (n.op_type in PASSING or (n.op_type in POOLING and axis < -1)) and is_op(n, n.op_type):
            return self._absorb(first, [n], axis, channels)
        if is_op(n, *LAYERS):
            return self._layer(n, axis, channels)
        if (n.op_type in LAST and axis == -1) or (n.op_type in SECOND and self._second):
            given = [k for k in (1, 2) if len(n.input) > k and n.input[k]]
            return [(n, k, -1) for k in given if self._is_vector(n, k, -1, channels)]
        constant = [k for k, t in enumerate(n.input) if g.is_constant(t)]
        if is_op(n, "Mul", "Add") and len(constant) == 1:
            k = constant[0]
            other, value = str(n.input[1 - k]), self._factors.view(str(n.input[k]))[0]
            self._second = self._second and value.ndim <= -axis  # else the other term may have fewer axes
            if is_op(n, "Mul") and value.size == 1 and (channels > 1 or value.ndim < -axis):
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
        value = self._factors.view(str(n.input[k]))[0]
        if value.size != channels or value.ndim < -axis or value.shape[axis] != channels:
            raise Differs(f"input {k} of '{label(n)}' has no value for each channel")
        return True

    def _layer(self, n: NodeProto, axis: int, channels: int) -> list[Source]:
        value = self._factors.view(str(n.input[1]))[0]
        upright = is_op(n, "Conv") or (is_op(n, "Gemm") and attribute(n, "transB", 0))
        out = -value.ndim if upright else -1
        mine = 1 - value.ndim if is_op(n, "Conv") else -1
        if is_op(n, "ConvTranspose") or mine != axis or value.shape[out] != channels:
            raise Differs(f"the outputs of '{label(n)}' are not the channels that have gains")
        bias = len(n.input) > 2 and n.input[2] and self._is_vector(n, 2, -1, channels)
        return [(n, 1, out), *([(n, 2, -1)] if bias else [])]


def _named(sources: list[Source]) -> list[tuple[str, int]]:
    """Sources as they are declared."""
    return sorted((str(next(o for o in n.output if o)), k) for n, k, _ in sources)
