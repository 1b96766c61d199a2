"""What stands in front of a quantizer: the activation function, in every spelling, and the layer that feeds it.

Exporters write one function in many ways: GELU as one node (ai.onnx or com.microsoft), as an erf or a tanh chain, with
or without Q/DQ between its nodes; SiLU as Sigmoid and Mul; HardSwish as HardSigmoid and Mul; ReLU not at all (the
quantizer's saturation does it).  A chain is recognised by the operators between the quantizer and the one tensor that
all its inputs come from.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.qdq.layers import LAYERS

__all__ = ["LEAST", "Activation", "recognise"]

SINGLE = {
    "Relu": "ReLU", "Clip": "Clip", "LeakyRelu": "LeakyReLU", "PRelu": "PReLU", "HardSwish": "HardSwish", "Elu": "ELU",
    "Gelu": "GELU", "FastGelu": "GELU", "QuickGelu": "GELU", "BiasGelu": "GELU", "Swish": "SiLU", "Mish": "Mish",
    "Sigmoid": "Sigmoid", "HardSigmoid": "HardSigmoid", "Tanh": "Tanh", "Selu": "SELU", "Celu": "CELU",
    "Softplus": "Softplus", "Softmax": "Softmax",
}  # fmt: skip
# Smallest values of functions that dip below zero, with a margin for quantized pieces inside.
LEAST = {"GELU": -0.2, "SiLU": -0.32, "HardSwish": -0.42, "Mish": -0.35}
PIECES = frozenset({
    "Mul", "Add", "Sub", "Div", "Pow", "Erf", "Tanh", "Sigmoid", "HardSigmoid", "Softplus", "Sqrt", "Cast",
    "Identity", "Reshape", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
LIMIT = 24  # nodes of the longest spelling (a quantized tanh GELU)


@dataclass(frozen=True)
class Activation:
    """The function in front of a quantizer.

    Attributes:
        kind: "ReLU", "GELU", "residual Add", ...; "none" when the layer feeds the quantizer directly.
        source: the tensor that the function is applied to.
        producer: the node that writes `source`, or "graph input".
        node: the single node that is the function, when it is one.
    """

    kind: str
    source: str
    producer: str
    node: NodeProto | None = None


def _origin(graph: Graph, tensor: str) -> str:
    n = graph.producer.get(tensor)
    return "graph input" if n is None else f"{n.op_type} {label(n)}"


def _chain(graph: Graph, tensor: str) -> Activation | None:
    """A spelled-out function: all ways back from `tensor` lead to one tensor through few arithmetic nodes."""
    ops: set[str] = set()
    sources: dict[str, None] = {}
    stack, seen = [tensor], {tensor}
    while stack:
        t = stack.pop()
        n = graph.producer.get(t)
        if n is None or n.op_type not in PIECES or (not ops and n.op_type not in ("Mul", "Reshape")):
            sources[t] = None
            continue
        ops.add(n.op_type)
        for i in n.input if n.op_type not in ("QuantizeLinear", "DequantizeLinear", "Reshape") else n.input[:1]:
            if i and i not in seen and not graph.is_constant(i):
                seen.add(i)
                stack.append(i)
        if len(seen) > LIMIT:
            return None
    if len(sources) != 1:
        return None
    kind = (
        "GELU" if "Erf" in ops else
        "Mish" if {"Tanh", "Softplus"} <= ops else
        "GELU" if "Tanh" in ops else
        "SiLU" if "Sigmoid" in ops else
        "HardSwish" if "HardSigmoid" in ops else None
    )  # fmt: skip
    if kind is None or "Mul" not in ops:
        return None
    source = next(iter(sources))
    return Activation(kind, source, _origin(graph, source))


def recognise(graph: Graph, tensor: str) -> Activation:
    """The activation function that writes the float input of a quantizer.

    Args:
        graph: the graph.
        tensor: float input of a QuantizeLinear.

    Returns:
        What it is; kind "none" for a layer that feeds the quantizer directly, or the operator's name otherwise.
    """
    n = graph.producer.get(tensor)
    if n is None:
        return Activation("none", tensor, "graph input")
    if n.op_type in SINGLE and n.domain in ("", "ai.onnx", "com.microsoft"):
        before = graph.producer.get(n.input[0])
        kind = SINGLE[n.op_type]
        if kind == "ReLU" and is_op(before, "Add") and before is not None and _two_tensors(graph, before):
            kind = "residual Add + ReLU"
        return Activation(kind, n.input[0], _origin(graph, n.input[0]), n)
    found = _chain(graph, tensor)
    if found:
        return found
    if n.op_type in LAYERS:
        return Activation("none", tensor, _origin(graph, tensor))
    if is_op(n, "Add") and not _two_tensors(graph, n):
        layer = next((t for t in n.input if not graph.is_constant(t)), n.input[0])
        return Activation("none", layer, _origin(graph, layer))
    kind = "residual Add" if is_op(n, "Add") else n.op_type
    return Activation(kind, tensor, _origin(graph, tensor), n)


def _two_tensors(graph: Graph, node: NodeProto) -> bool:
    return all(not graph.is_constant(t) for t in node.input)
