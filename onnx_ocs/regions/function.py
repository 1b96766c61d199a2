"""The one function that reads a quantized tensor, and what it makes of values: errors count behind it.

In front of SiLU, GELU, HardSwish or ReLU large negative values do not matter, and large positive ones do.  A gate is
found with and without a quantizer between its two nodes: x * Sigmoid(x), x * DQ(Q(Sigmoid(x))).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.regions.region import Region

__all__ = ["FUNCTIONS", "Function", "function_behind"]

Function = Callable[[Array], Array]


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))


def _gelu(x: Array) -> Array:  # its tanh spelling is near enough to weigh errors
    return np.asarray(0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))))


FUNCTIONS: Mapping[str, Function] = {
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": _sigmoid,
    "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Swish": lambda x: x * _sigmoid(x),
    "Gelu": _gelu,
    "FastGelu": _gelu,
}
GATES = {"Sigmoid": "Swish", "HardSigmoid": "HardSwish"}  # multiplied by what they read


def function_behind(graph: Graph, region: Region) -> str | None:
    """The one function that reads a quantized tensor, a key of `FUNCTIONS`; None where others read it, too.

    Args:
        graph: the graph.
        region: the tensor's.
    """
    found: set[str] = set()
    for d in region.walk.dequantizers:
        t = d.output[0]
        if t in graph.outputs or graph.captured(t):
            return None
        readers = graph.readers(t)
        gates = [r for r in readers if r.op_type in GATES]
        products = {id(m) for g in gates for m in _behind(graph, g) if is_op(m, "Mul") and t in m.input}
        for r in readers:
            if id(r) in products:
                continue
            gated = r.op_type in GATES and any(id(m) in products for m in _behind(graph, r))
            found.add(GATES[r.op_type] if gated else r.op_type)
    return found.pop() if len(found) == 1 and found <= FUNCTIONS.keys() else None


def _behind(graph: Graph, node: NodeProto) -> Iterator[NodeProto]:
    """Who reads what a node writes, as it is or quantized."""
    for r in graph.readers(node.output[0]):
        if is_op(r, "QuantizeLinear", "DequantizeLinear"):
            yield from _behind(graph, r)
        else:
            yield r
