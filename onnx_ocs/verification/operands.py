"""The constant operand of a layer, on whichever side and behind whatever moves its axes: how it is quantized.

constant -> [Q] -> [Clip] -> DQ -> [Transpose, Reshape, Squeeze, Unsqueeze, Cast, Identity] -> layer
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer

__all__ = ["Operand", "read_operand", "side"]

PASSED = (
    "QuantizeLinear", "DequantizeLinear", "Clip", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "CastLike",
    "Identity",
)  # fmt: skip
LONGEST = 16


@dataclass(frozen=True)
class Operand:
    """A quantized constant.

    Attributes:
        root: the initializer, or what a Constant node writes.
        grid: of the DequantizeLinear nearest to the layer.
    """

    root: str
    grid: Quantizer


def side(graph: Graph, node: NodeProto) -> int:
    """Which of a layer's first two inputs is the constant one: of a MatMul it may be the first."""
    return 0 if is_op(node, "MatMul") and _walk(graph, str(node.input[1])) is None else 1


def read_operand(graph: Graph, node: NodeProto) -> Operand | None:
    """The constant operand of a layer; None where it has none that is quantized."""
    found = _walk(graph, str(node.input[side(graph, node)]))
    if found is None:
        return None
    root, nodes = found
    scaled = next((n for n in nodes if is_op(n, "DequantizeLinear")), None)
    grid = None if scaled is None else read_quantizer(graph, scaled)
    return Operand(root, grid) if isinstance(grid, Quantizer) else None


def _walk(graph: Graph, tensor: str) -> tuple[str, list[NodeProto]] | None:
    """The constant at the end of a chain, and the chain's nodes; None where it has no constant there."""
    nodes: list[NodeProto] = []
    while tensor not in graph.initializers:
        n = graph.producer.get(tensor)
        if is_op(n, "Constant"):
            break
        if n is None or not is_op(n, *PASSED) or len(nodes) > LONGEST:
            return None
        nodes.append(n)
        tensor = str(n.input[0])
    return tensor, nodes
