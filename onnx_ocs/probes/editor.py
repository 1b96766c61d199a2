"""Edits of a model that is only built to be asked, through onnx-graphsurgeon."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, is_idle, read_quantizer

__all__ = ["MAGIC", "Editor"]

MOVES = frozenset(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "MaxPool"])
MAGIC = 1.5 * 2**23  # adding and subtracting it rounds a float32 to the nearest integer, ties to even


class Editor:
    """Graphsurgeon graph of the model plus the facts that the quantizers need."""

    def __init__(self, model: onnx.ModelProto) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.value_info[:]  # an integer tensor's copy becomes float
        for name in ("producer_name", "producer_version"):  # which need not be text, in a damaged file
            copy.ClearField(name)
        self.facts = Graph(model)
        with G_LOGGER.suppress():  # it logs to stdout, which is ours
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
                    if not (isinstance(dq, Quantizer) and dq.same_parameters(q)):
                        continue
                    out = n.outputs[0]
                    n.outputs.clear()
                    self.dropped.add(id(n))
                    self.count += 1
                    self.graph.nodes.append(gs.Node("Identity", f"{self.token}/{self.count}", {}, [floats], [out]))
                elif is_idle(proto, q.dtype) or (
                    is_op(proto, "Clip") and integer_clip(self.facts, proto, q) == (q.qmin, q.qmax)
                ):
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
        with G_LOGGER.suppress():
            new: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        new.ir_version = self.facts.model.ir_version
        return new
