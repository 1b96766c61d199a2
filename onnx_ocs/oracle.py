"""Models that the verification compares with, built from the *original* model, without any code of the rewriter.

The oracle has wide fake-quantizers in place of the translated Q/DQ: in float,

    k = clip(round(a / s), -(n_low + 1) * (z - qmin), (n + 1) * (qmax - z)),      a_hat = k * s

with n and n_low per channel; for halved channels (OCS) the same with 2 s for s and n = n_low = 0.  The reference has no
activation quantizer at all (only the saturation that acts as a ReLU is kept): what the float model was, as far as the
QDQ file tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_ocs.graph import Array, Graph, is_op
from onnx_ocs.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.region import Region

__all__ = ["Editor", "WideQuantizer", "oracle", "reference"]

G_LOGGER.severity = G_LOGGER.CRITICAL  # graphsurgeon logs to stdout, which is ours
MOVES = frozenset(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool"])
MAGIC = 1.5 * 2**23  # adding and subtracting it rounds a float32 to the nearest integer, ties to even


@dataclass(frozen=True, eq=False)
class WideQuantizer:
    """A quantizer with more levels on some channels.

    Attributes:
        quantizer: the original grid.
        axis: channel axis.
        copies: upper copies of every channel, (C,).
        copies_low: lower copies of every channel, (C,).
        rank: rank of the tensor, None if unknown.
        halved: whether a copy doubles its channel's step instead of its levels.
    """

    quantizer: Quantizer
    axis: int
    copies: Array
    copies_low: Array
    rank: int | None
    halved: bool = False

    def column(self, values: Array) -> Array:
        """Per-channel values in a shape that broadcasts along the channel axis."""
        if values.size == 1 or np.all(values == values.flat[0]):
            return np.asarray(values.flat[0])
        if self.axis < 0:
            return values.reshape(-1, *[1] * (-1 - self.axis))
        if self.rank is None:
            raise ValueError("a per-channel bound needs the tensor's rank")
        return values.reshape(-1, *[1] * (self.rank - 1 - self.axis))

    def step(self) -> Array:
        """The step of every channel, float32, in a shape that broadcasts."""
        scale = self.quantizer.scale.astype(np.float32)
        if scale.size > 1:
            scale = scale.reshape(self.column(np.arange(scale.size)).shape)
        return scale * self.column(self.copies + 1).astype(np.float32) if self.halved else scale

    def limits(self) -> tuple[Array, Array]:
        """Smallest and largest k = q - zero_point of every channel, int64."""
        q = self.quantizer
        if self.halved:
            low, top = q.qmin - q.zero_point, q.qmax - q.zero_point
            return np.broadcast_to(low, self.copies.shape), np.broadcast_to(top, self.copies.shape)
        top = (self.copies + 1) * (q.qmax - q.zero_point)
        low = (self.copies_low + 1) * (q.zero_point - q.qmin)
        return -np.broadcast_to(low, self.copies.shape), np.broadcast_to(top, self.copies.shape)


class Editor:
    """Graphsurgeon graph of the model plus the facts that the quantizers need."""

    def __init__(self, model: onnx.ModelProto) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.value_info[:]  # an integer tensor's copy becomes float
        for name in ("producer_name", "producer_version"):  # which need not be text, in a damaged file
            copy.ClearField(name)
        self.facts = Graph(model)
        self.graph = gs.import_onnx(copy)
        self.by_output = {o.name: n for n in self.graph.nodes for o in n.outputs}
        self.opset = self.facts.opset
        self.count = 0
        names = set(self.by_output) | {n.name for n in self.graph.nodes} | set(self.facts.initializers)
        self.token = "oracle"  # what all names that are added begin with, and no others
        while any(n.startswith(self.token) for n in names):
            self.token += "_"
        self.dropped: set[int] = set()
        self.replaced: list[gs.Node] = []  # what integers flowed through, from the quantizers on

    def node(self, op: str, inputs: list[gs.Tensor], name: str, **attrs: object) -> gs.Variable:
        """Add a node with one output; its name is made unique."""
        self.count += 1
        out = gs.Variable(f"{self.token}/{self.count}/{name}")
        self.graph.nodes.append(gs.Node(op, f"{self.token}/{self.count}", attrs, inputs, [out]))
        return out

    def constant(self, value: Array) -> gs.Constant:
        """A constant under a name of its own."""
        self.count += 1
        return gs.Constant(f"{self.token}/{self.count}/constant", np.asarray(value, order="C"))

    def floats(self, x: gs.Tensor, q: Quantizer, name: str) -> gs.Tensor:
        """A float tensor in float32."""
        return x if q.float_dtype == np.float32 else self.node("Cast", [x], name, to=int(onnx.TensorProto.FLOAT))

    def replace(self, quantized: str, q: Quantizer, value: gs.Tensor) -> None:
        """Let the float `value` flow where the integers of one Q flowed, up to and in place of the DQs' outputs."""
        stack: list[tuple[gs.Tensor, gs.Tensor]] = [(self.by_output[quantized].outputs[0], value)]
        self.replaced.append(self.by_output[quantized])
        while stack:
            integers, floats = stack.pop()
            for n in list(integers.outputs):
                proto = self.facts.producer.get(n.outputs[0].name)
                if proto is None or proto.input[0] != integers.name:
                    continue
                name = n.outputs[0].name
                if is_op(proto, "DequantizeLinear"):
                    dq = read_quantizer(self.facts, proto)
                    if not (isinstance(dq, Quantizer) and np.array_equal(dq.scale, q.scale)):
                        continue
                    if not np.array_equal(dq.zero_point, q.zero_point):
                        continue
                    out = n.outputs[0]
                    n.outputs.clear()
                    self.dropped.add(id(n))
                    self.count += 1
                    self.graph.nodes.append(gs.Node("Identity", f"{self.token}/{self.count}", {}, [floats], [out]))
                elif is_op(proto, "Clip") and integer_clip(self.facts, proto, q) == (q.qmin, q.qmax):
                    self.replaced.append(n)
                    stack.append((n.outputs[0], floats))
                elif n.op in MOVES:
                    self.replaced.append(n)
                    moved = self.node(n.op, [floats, *n.inputs[1:]], name + "_oracle", **n.attrs)
                    stack.append((n.outputs[0], moved))

    def export(self) -> onnx.ModelProto:
        """The edited model."""
        wanted = {t.name for t in self.graph.outputs}
        for n in reversed(self.replaced):  # integers that nobody reads would be computed, and keep layers from fusing
            read = any(id(r) not in self.dropped for o in n.outputs for r in o.outputs)
            if not read and wanted.isdisjoint(o.name for o in n.outputs):
                self.dropped.add(id(n))
        self.graph.nodes = [n for n in self.graph.nodes if id(n) not in self.dropped]
        new: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        new.ir_version = self.facts.model.ir_version
        return new


def oracle(model: onnx.ModelProto, wide: Mapping[str, WideQuantizer]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The original model with wide fake-quantizers.

    Args:
        model: the original model; not changed.
        wide: by the name that the QuantizeLinear writes.

    Returns:
        The oracle, and for each Q the name of its float tensor k (integers minus zero_point).
    """
    e = Editor(model)
    names: dict[str, str] = {}
    for quantized, w in wide.items():
        q = w.quantizer
        x = e.floats(e.by_output[quantized].inputs[0], q, quantized + "_x")
        column = w.step()
        t = e.node("Div", [x, e.constant(column)], quantized + "_over_scale")
        if e.opset >= 11:
            t = e.node("Round", [t], quantized + "_rounded")
        else:
            magic = e.constant(np.asarray(MAGIC, np.float32))
            t = e.node("Sub", [e.node("Add", [t, magic], quantized + "_magic"), magic], quantized + "_rounded")
        lo, hi = (e.constant(w.column(v).astype(np.float32)) for v in w.limits())
        t = e.node("Max", [e.node("Min", [t, hi], quantized + "_below"), lo], quantized + "_k")
        names[quantized] = t.name
        t = e.node("Mul", [t, e.constant(column)], quantized + "_wide")
        if q.float_dtype != np.float32:
            t = e.node("Cast", [t], quantized + "_cast", to=int(helper.np_dtype_to_tensor_dtype(q.float_dtype)))
        e.replace(quantized, q, t)
    return e.export(), names


def reference(model: onnx.ModelProto, regions: Sequence[Region]) -> onnx.ModelProto:
    """The model without activation quantizers: the stand-in for the float model.

    A Q with zero_point == qmin keeps its lower saturation (it may be a folded ReLU), one with a folded Clip its bound.
    """
    e = Editor(model)
    for region in regions:
        q = region.quantizer
        if q is None:
            continue
        for name in region.outputs:
            value = e.by_output[name].inputs[0]
            if q.rectifies and region.bounds[0] < 0:
                value = e.node("Relu", [value], name + "_floor")
            if np.isfinite(region.ceiling):
                bound = e.constant(np.asarray(region.ceiling, q.float_dtype))
                value = e.node("Min", [value, bound], name + "_bound")
            e.replace(name, q, value)
    return e.export()
