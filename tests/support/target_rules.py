"""The rules of three targets once more, from their documents and with code of its own, to hold rewritten files against.

tensorrt: onnx-tensorrt refuses zero points other than 0, and takes int8 and int4 only, so no int32 biases.
qnn: each operator must be a "node unit": DQ on all inputs that are no constants, Q on all outputs.
generic-int8 (LiteRT's specification): the same, int8 weights with zero point 0, 8-bit activations, a step a tensor.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

QDQ = ("QuantizeLinear", "DequantizeLinear")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "Tanh")


class File:
    """A model's main graph: constants by name, and who reads and writes a tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        g = model.graph
        self.nodes = list(g.node)
        self.values = {t.name: numpy_helper.to_array(t) for t in g.initializer}
        self.fixed = set(self.values)
        for n in self.nodes:
            if n.op_type == "Constant":
                self.fixed.add(n.output[0])
                for a in n.attribute:
                    if a.name == "value":
                        self.values[n.output[0]] = numpy_helper.to_array(a.t)
            elif n.op_type != "Shape" and all(t in self.fixed for t in n.input if t):
                self.fixed.update(n.output)
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for n in self.nodes:
            for t in n.input:
                self.readers[t].append(n)
        for o in g.output:
            self.readers[o.name].append(NodeProto(op_type="the caller"))
        self.kinds: dict[str, str] = {i.name: "float" for i in g.input}
        for n in self.nodes:
            moved = n.op_type not in QDQ and any(self.kinds.get(t) == "integer" for t in n.input)
            kind = {"QuantizeLinear": "integer", "DequantizeLinear": "dequantized"}.get(n.op_type)
            self.kinds |= dict.fromkeys(n.output, kind or ("integer" if moved else "float"))


def broken(model: onnx.ModelProto, target: str) -> Counter[str]:
    """How often each rule of a target is broken."""
    f, found = File(model), Counter[str]()
    for n in f.nodes:
        if n.op_type in QDQ:
            zero = f.values.get(n.input[2]) if len(n.input) > 2 and n.input[2] else _default(f, n)
            if zero is not None:
                found.update(_parameters(f, n, zero, target))
        elif target != "tensorrt" and not _unit(f, n):
            found[n.op_type] += 1
    return found


def _default(f: File, n: NodeProto) -> np.ndarray:
    """A zero point that is not there: Q writes uint8, and DQ has the type of what it reads."""
    constant = f.values.get(n.input[0]) if n.op_type == "DequantizeLinear" else None
    return np.zeros((), np.uint8 if constant is None else constant.dtype)


def _parameters(f: File, n: NodeProto, zero: np.ndarray, target: str) -> list[str]:
    fixed, kind, found = n.input[0] in f.fixed, zero.dtype.name, []
    if target == "tensorrt":
        found += ["zero"] if np.any(zero.astype(np.int64)) else []
        found += [] if kind in (("int8", "int4") if fixed else ("int8",)) else ["type"]
    if target == "generic-int8":
        found += [] if kind in (("int8", "int32") if fixed else ("int8", "uint8")) else ["type"]
        found += ["zero"] if fixed and np.any(zero.astype(np.int64)) else []
    if target != "qnn" and not fixed and f.values.get(n.input[1], np.zeros(1)).size > 1:
        found.append("step")
    return found


def _unit(f: File, n: NodeProto) -> bool:
    if all(t in f.fixed for t in n.output) or any(f.kinds[t] == "integer" for t in n.output):
        return True
    given = [t for t in n.input if t and t not in f.fixed]
    activated = len(n.output) == 1 and [r.op_type for r in f.readers[n.output[0]]]
    behind = [p for p in f.nodes if n.op_type in ACTIVATIONS and given and given[0] in p.output]
    into = behind and len(f.readers[given[0]]) == 1 and behind[0].op_type not in ACTIVATIONS
    fed = all(f.kinds[t] == "dequantized" for t in given) or bool(into)
    if activated and len(activated) == 1 and activated[0] in ACTIVATIONS:
        return fed and _quantized(f, f.readers[n.output[0]][0].output[0])
    return fed and all(_quantized(f, t) for t in n.output if t)


def _quantized(f: File, tensor: str) -> bool:
    return bool(f.readers[tensor]) and all(r.op_type == "QuantizeLinear" for r in f.readers[tensor])
