"""What an exporter or a quantizer got wrong, and no step or copy mends: saturated biases, activations that are lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.qdq.bias import read_bias
from onnx_ocs.qdq.layers import is_layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.regions.twins import Twins

__all__ = ["flaws", "lost_activations", "saturated_biases"]

NAMED = 3  # nodes that a sentence names
RECTIFIERS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "Elu", "Tanh")


def saturated_biases(graph: Graph) -> list[str]:
    """Layers with an integer bias that stands at an end of its type: the value that was meant did not fit."""
    found = []
    for n in graph.nodes:
        layer = read_layer(graph, n) if is_layer(n) and len(n.input) > 2 and n.input[2] else None
        bias = None if layer is None else read_bias(graph, n, 2, layer.outputs)
        if bias is not None and bias.kind == "integer" and bias.value.dtype.itemsize >= 4:
            low, high = integer_range(bias.value.dtype)
            if np.any((bias.value <= low + 1) | (bias.value == high)):
                found.append(label(n))
    return found


def lost_activations(graph: Graph, floats: onnx.ModelProto) -> list[tuple[str, str]]:
    """Layers behind which the float model has an activation function, and the quantized one has nothing like it.

    Args:
        graph: the quantized model's.
        floats: the float model.

    Returns:
        The layer and the function; a quantizer that saturates at 0 may stand for a ReLU.
    """
    twins, found = Twins(floats), list[tuple[str, str]]()
    for n in graph.nodes:
        if not is_layer(n) or not n.output or n.output[0] in graph.outputs:
            continue
        kinds = {b.op_type if (b := twins.behind(t)) is not None else "" for t in twins.of(graph, n)}
        kind = kinds.pop() if len(kinds) == 1 else ""
        if kind in RECTIFIERS and _bare(graph, n, kind):
            found.append((label(n), kind))
    return found


def _bare(graph: Graph, layer: NodeProto, kind: str) -> bool:
    """Whether a quantizer that lets negative values through, then nothing but another layer, reads what it writes."""
    tensor, open_below = layer.output[0], kind not in ("Relu", "Clip")
    for _ in range(8):
        readers = graph.value_readers(tensor)
        if len(readers) != 1 or tensor in graph.outputs:
            return False
        n = readers[0]
        if is_op(n, "QuantizeLinear"):
            q = read_quantizer(graph, n)
            if not isinstance(q, Quantizer) or q.rectifies:
                return False
            open_below = True
        elif is_layer(n):
            return open_below and n.input[0] == tensor
        elif not is_op(n, "DequantizeLinear", "Identity") and not _added(graph, n):
            return False
        tensor = n.output[0]
    return False


def _added(graph: Graph, node: NodeProto) -> bool:
    """Whether a node adds a constant, as a bias behind a MatMul is."""
    return is_op(node, "Add", "BatchNormalization") and sum(not graph.is_constant(t) for t in node.input) == 1


def flaws(model: onnx.ModelProto, floats: onnx.ModelProto | None) -> list[str]:
    """Sentences about what is wrong with a file; none where nothing is.

    Args:
        model: the QDQ model.
        floats: the float model; without it no lost activation is found.
    """
    graph, found = Graph(model), []
    if saturated := saturated_biases(graph):
        found.append(
            "int32 biases are saturated, the values that were meant do not fit their steps: of "
            f"{_named([(at, '') for at in saturated])}; quantize again with larger weight or activation steps "
            "there, or keep these biases in float"
        )
    if floats is not None and (lost := lost_activations(graph, floats)):
        found.append(
            "activation functions of the float model are missing: behind "
            f"{_named(lost)}; export the model again"
        )
    return found


def _named(nodes: Sequence[tuple[str, str]]) -> str:
    """Nodes by name, each with a word behind it."""
    more = len(nodes) - NAMED
    told = (f"'{at}' ({word})" if word else f"'{at}'" for at, word in nodes[:NAMED])
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")
