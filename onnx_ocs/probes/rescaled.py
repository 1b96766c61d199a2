"""The original with the steps that a rewritten file declares: the yardstick for changed steps.

Built from the original and the declared steps, without any code of the rewriter:

    Q, and every DQ that reads its integers with the same parameters      the new step
    an integer bias with the scale s_x * s_w, behind that DQ              b' = round(b * s_x / s'_x),  scale s'_x * s_w
    where b' leaves its integers: s_w' = 2^k * s_w, w' = round(w / 2^k)   b' = round(b * s_x / s'_x / 2^k)

k is the least for which b' fills no more than half of its range (a copy made by the producer shifts it further).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.names import Names
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.model.order import topological
from onnx_ocs.qdq.bias import Bias, read_bias
from onnx_ocs.qdq.quantizer import Quantizer, is_idle, read_quantizer
from onnx_ocs.qdq.weights import Weight, read_weight

__all__ = ["Followed", "Source", "Steps", "coarse", "rescaled"]


KEEPING = frozenset({  # a multiple of the step stays one, or becomes a mean of such
    "Identity", "Dropout", "GlobalAveragePool", "AveragePool", "MaxPool", "ReduceMean", "Transpose", "Flatten",
    "Reshape", "Squeeze", "Unsqueeze", "Pad", "Resize", "Upsample",
})  # fmt: skip
MOVING = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool"})
TIED = 1e-4  # how far a bias's scale may be from s_x * s_w
TOLERANCE = 1e-3  # most that coarser weights may change a channel by, as a share of its bias


@dataclass(frozen=True, eq=False)
class Source:
    """The quantizer whose integers, or multiples of whose step, a tensor holds.

    Attributes:
        before: in the original.
        now: with the declared step.
        factor: what its values have been multiplied by since.
        direct: whether nothing but its DequantizeLinear stands in between.
    """

    before: Quantizer
    now: Quantizer
    factor: float = 1.0
    direct: bool = True

    @property
    def changed(self) -> bool:
        """Whether its step is another one now."""
        return not np.array_equal(self.before.scale, self.now.scale)


@dataclass(frozen=True, eq=False)
class Followed:
    """A layer whose integer bias follows its input's step.

    Attributes:
        bias: the bias now.
        factors: by what the steps of the weight's channels have grown, float64 (C,).
        required: whether it must follow: an integer kernel takes the product of the steps for the bias's.
    """

    bias: Bias
    factors: Array
    required: bool


class Steps:
    """What becomes of an original's quantizers and biases when some steps change.

    Attributes:
        integers: by tensor of integers, the quantizer that made them.
        floats: by float tensor, the quantizers whose multiples it holds.
        parameters: by output of a Q or DQ, its scale now.
        broken: what is read with a step that is no longer its own, one sentence each.
    """

    def __init__(self, graph: Graph, declared: Mapping[str, Array]) -> None:
        """Follow the steps through a graph.

        Args:
            graph: the original.
            declared: the new steps, by what the QuantizeLinear writes.
        """
        self.graph = graph
        self.integers: dict[str, Source] = {}
        self.floats: dict[str, tuple[Source, ...]] = {}
        self.parameters: dict[str, Array] = {}
        self.broken: list[str] = []
        for n in graph.nodes:
            if is_op(n, "QuantizeLinear"):
                self._quantize(n, declared)
            elif is_op(n, "DequantizeLinear"):
                self._dequantize(n)
            else:
                self._through(n)
        for t, s in self.integers.items():
            if s.changed and (t in graph.outputs or graph.captured(t)):
                self.broken.append(f"the integers '{t}', whose step has changed, are read outside the graph's nodes")

    def _quantize(self, n: NodeProto, declared: Mapping[str, Array]) -> None:
        name = n.output[0]
        if self.graph.is_constant(n.input[0]):
            return
        q = read_quantizer(self.graph, n)
        if not isinstance(q, Quantizer):
            return
        now = q
        if name in declared:
            now = replace(q, scale=declared[name].astype(q.float_dtype).astype(np.float64).reshape(q.scale.shape))
            self._parameter(n, now.scale)
        self.integers[name] = Source(q, now)

    def _parameter(self, n: NodeProto, scale: Array) -> None:
        old = self.graph.constant(n.input[1])
        assert old is not None
        self.parameters[n.output[0]] = scale.astype(old.dtype).reshape(old.shape)

    def _dequantize(self, n: NodeProto) -> None:
        if self.graph.is_constant(n.input[0]):
            return
        q, source = read_quantizer(self.graph, n), self.integers.get(n.input[0])
        if not isinstance(q, Quantizer):
            return
        if source is None:
            self.floats[n.output[0]] = (Source(q, q),)
            return
        b = source.before
        own = q.same_parameters(b)
        if source.changed:
            if own:
                self._parameter(n, source.now.scale)
            else:
                self.broken.append(f"'{n.output[0]}' is dequantized with a step of its own")
        self.floats[n.output[0]] = (source if own else Source(q, q),)

    def _through(self, n: NodeProto) -> None:
        if not n.input or not n.output or n.domain not in ("", "ai.onnx"):
            self._stranger(n)
            return
        tensor, out = n.input[0], n.output[0]
        source = self.integers.get(tensor)
        if source is not None and (n.op_type in (*MOVING, "Clip") or is_idle(n, source.before.dtype)):
            self.integers[out] = source
            return
        self._stranger(n)
        if n.op_type == "Concat":
            found = tuple(s for t in n.input for s in self.floats.get(t, ()))
        elif n.op_type in ("Mul", "Div"):
            found = self._scaled(n)
        else:
            found = self.floats.get(tensor, ()) if n.op_type in KEEPING else ()
        if found:
            self.floats[out] = tuple(replace(s, direct=False) for s in found)

    def _stranger(self, n: NodeProto) -> None:
        for t in n.input:
            if t in self.integers and self.integers[t].changed and self.graph.value_readers(t):
                self.broken.append(f"'{n.name or n.output[0]}' reads the integers '{t}', whose step has changed")

    def _scaled(self, n: NodeProto) -> tuple[Source, ...]:
        for k in (0, 1):
            c = self.graph.constant(n.input[k])
            if c is None or c.size != 1 or c.dtype.kind != "f" or (n.op_type == "Div" and k == 0):
                continue
            factor = float(c.reshape(()))
            if 0 < factor < np.inf:
                factor = 1 / factor if n.op_type == "Div" else factor
                return tuple(replace(s, factor=s.factor * factor) for s in self.floats.get(n.input[1 - k], ()))
        return ()

    # ---- biases -----------------------------------------------------------------------------------------------------

    def followed(self, node: NodeProto) -> list[Followed]:
        """How a layer's integer bias may follow the changed steps of its input; empty where none is tied."""
        if not is_op(node, "Conv", "ConvTranspose", "Gemm") or len(node.input) < 3 or not node.input[2]:
            return []
        sources = [s for s in self.floats.get(node.input[0], ()) if s.changed and s.before.scale.size == 1]
        if not sources:
            return []
        weight, value = read_weight(self.graph, node, 1), self.graph.constant(node.input[2])
        w = None if weight is None else weight.quantizer(self.graph)
        bias = None if value is None else read_bias(self.graph, node, 2, value.size)
        if (
            weight is None
            or w is None
            or bias is None
            or bias.scale is None
            or w.scale.size not in (1, bias.value.size)
        ):
            return []
        return [
            self._follow(weight, w, bias, s)
            for s in sources
            if np.allclose(bias.scale, s.before.scale * s.factor * w.scale, rtol=TIED)
        ]

    def _follow(self, weight: Weight, w: Quantizer, bias: Bias, source: Source) -> Followed:
        old = float(source.before.scale * source.factor)
        now = (source.now.scale.astype(source.now.float_dtype) * source.factor).reshape(())
        b = bias.value.astype(np.float64)
        over = np.abs(b) * old / float(now) / integer_range(bias.value.dtype)[1]
        factors = np.where(over > 1, 2.0 ** np.ceil(np.log2(np.maximum(over, 1.0)) + 1), 1.0)
        value = np.rint(b * (old / float(now) / factors)).astype(bias.value.dtype)
        assert bias.scale is not None
        # a product of two float32, as integer kernels compute it
        product = np.asarray(
            now.astype(np.float32) * (w.scale * factors if w.scale.size > 1 else w.scale).astype(np.float32)
        )
        product = np.broadcast_to(product.reshape(-1) if bias.scale.ndim else product.reshape(-1)[0], bias.scale.shape)
        required = source.direct and weight.shape != ()
        return Followed(replace(bias, value=value, scale=product.astype(np.float64)), factors, required)


def coarse(root: Array, weight: Weight, q: Quantizer, factors: Array) -> Array:
    """A weight's integers, in its root's axes, on steps that have grown by powers of two.

    Args:
        root: the integers.
        weight: how its reader sees it.
        q: its quantizer, in the reader's axes.
        factors: one for each channel.
    """
    perm = weight.perms[-1] if weight.perms else tuple(range(root.ndim))
    shape = [1] * root.ndim
    shape[perm[q.axis or 0]] = -1
    z, f = np.broadcast_to(q.zero_point, factors.shape).reshape(shape), factors.reshape(shape)
    return np.asarray(np.rint((root.astype(np.float64) - z) / f) + z).astype(root.dtype)


class _Yardstick:
    """A copy of the original that gets other constants."""

    def __init__(self, graph: Graph) -> None:
        self.before = graph
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph.model)
        self.nodes = {o: n for n in self.model.graph.node for o in n.output if o}
        self.names = Names(graph.initializers, graph.producer, (i.name for i in graph.model.graph.input))
        self.added: list[NodeProto] = []

    def constant(self, like: str, value: Array) -> str:
        name = self.names.fresh(like + "_yardstick")
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def clone(self, n: NodeProto) -> NodeProto:
        new = NodeProto()
        new.CopyFrom(n)
        new.name, new.output[0] = (self.names.fresh(t + "_yardstick") for t in (n.name or n.output[0], n.output[0]))
        self.added.append(new)
        return new

    def follow(self, node: NodeProto, f: Followed) -> None:
        """Give a layer the bias, and where it must be the weight, that follow its input's step."""
        layer, b = self.nodes[node.output[0]], f.bias
        assert b.dequantize is not None and b.scale is not None
        stored, scale = (self.before.constant(t) for t in b.dequantize.input[:2])
        assert stored is not None and scale is not None
        dq = self.clone(b.dequantize)
        value = b.value.reshape(stored.shape) if stored.size == b.value.size else b.value
        dq.input[0] = self.constant(dq.input[0], value)
        dq.input[1] = self.constant(dq.input[1], b.scale.astype(scale.dtype).reshape(scale.shape))
        layer.input[2] = dq.output[0]
        if np.any(f.factors > 1):
            self.coarsen(node, layer, f.factors)

    def coarsen(self, node: NodeProto, layer: NodeProto, factors: Array) -> None:
        weight = read_weight(self.before, node, 1)
        assert weight is not None
        q, root = weight.quantizer(self.before), self.before.constant(weight.root)
        assert q is not None and root is not None
        reader, index = layer, 1
        for n in weight.nodes:
            new = self.clone(n)
            reader.input[index] = new.output[0]
            if is_op(n, "DequantizeLinear"):
                old = self.before.constant(n.input[1])
                assert old is not None
                new.input[1] = self.constant(n.input[1], (old * factors).astype(old.dtype))
            reader, index = new, 0
        reader.input[index] = self.constant(weight.root, coarse(root, weight, q, factors))

    def finish(self) -> onnx.ModelProto:
        g = self.model.graph
        nodes = topological([*g.node, *self.added])
        kept = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del g.node[:]
        g.node.extend(kept)
        return self.model


def rescaled(
    model: onnx.ModelProto, scales: Mapping[str, Array], unfollowed: Collection[str] = (), steps: Steps | None = None
) -> onnx.ModelProto:
    """A copy of a model with other steps.

    Args:
        model: the original; not changed.
        scales: the new steps, by what the QuantizeLinear writes.
        unfollowed: layers, by what they write, whose integer bias stays what it is.
        steps: what is known of the steps already.

    Returns:
        The yardstick.
    """
    steps = steps or Steps(Graph(model), scales)
    y = _Yardstick(steps.graph)
    for name, scale in steps.parameters.items():
        n = y.nodes[name]
        n.input[1] = y.constant(n.input[1], scale)
    for n in steps.graph.nodes:
        if is_op(n, "Conv", "ConvTranspose", "Gemm") and n.output[0] not in unfollowed:
            for f in steps.followed(n)[:1]:
                y.follow(n, f)
    return y.finish()
