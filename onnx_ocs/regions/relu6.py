"""Which quantizers hold a folded ReLU6, as the float model says: layer by layer.

A quantizer that saturates at 0 and at 6 may stand for a ReLU6, for a ReLU, or for one in some layers and the other in
others; the QDQ file does not say.  A layer of the float model is known again by its weight: rows point the same way,
whatever BatchNormalization was folded into them.  What stands behind it there decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.intervals import clip_bounds
from onnx_ocs.qdq.layers import is_layer, read_layer

__all__ = ["RELU6", "Bounded", "relu6_in"]

Bounded = Mapping[str, bool]  # by float tensor in front of a quantizer: whether the float model bounds it at 6
RELU6 = 6.0
ALIKE = 0.9  # mean cosine that the rows of one layer have at least
APART = 0.05  # by how much another layer's must be smaller
SCALING = ("BatchNormalization", "Mul", "Add", "Sub", "Div")
PASSING = ("Identity", "Cast", "Relu")


def relu6_in(graph: Graph, tensors: Sequence[str], floats: onnx.ModelProto) -> dict[str, bool]:
    """Whether the float model has a ReLU6 where layers of the quantized one feed quantizers directly.

    Args:
        graph: the quantized model's.
        tensors: what such layers write.
        floats: the float model.

    Returns:
        The answer for each tensor; those whose layer is not found there, or not found for sure, are left out.
    """
    there = Graph(floats)
    known = [(n, rows) for n in there.nodes if (rows := _rows(there, n)) is not None]
    found: dict[str, bool] = {}
    for tensor in tensors:
        layer = graph.producer.get(tensor)
        rows = None if layer is None else _rows(graph, layer)
        if layer is None or rows is None:
            continue
        alike = [(float((rows * r).sum(1).mean()), n) for n, r in known if r.shape == rows.shape and _same(layer, n)]
        alike.sort(key=lambda a: -a[0])
        sure = alike and alike[0][0] > ALIKE
        answers = {_bounded(there, n) for score, n in alike if score > alike[0][0] - APART} if sure else set()
        if len(answers) == 1:
            found[tensor] = answers.pop()
    return found


def _same(a: NodeProto, b: NodeProto) -> bool:
    return bool(a.op_type == b.op_type)


def _rows(graph: Graph, node: NodeProto) -> Array | None:
    """A layer's weight as rows of length 1, one for each output channel; None where it is not constant."""
    if not is_layer(node):
        return None
    layer = read_layer(graph, node)
    value = graph.constant(node.input[1]) if layer is not None else None
    if layer is None or value is None:
        return None
    w = np.moveaxis(value.astype(np.float64), layer.out, 0).reshape(value.shape[layer.out], -1)
    length = np.sqrt((w**2).sum(1, keepdims=True))
    return np.asarray(w / np.where(length > 0, length, 1.0))


def _bounded(graph: Graph, layer: NodeProto) -> bool:
    """Whether what a layer writes passes a bound at 6 before anything else reads it."""
    tensor = layer.output[0]
    for _ in range(6):
        readers = graph.value_readers(tensor)
        if len(readers) != 1:
            return False
        n = readers[0]
        if is_op(n, "Clip", "Min"):
            return _near_6(_top(graph, n))
        if is_op(n, *SCALING):
            if sum(not graph.is_constant(t) for t in n.input) != 1:
                return False
        elif not is_op(n, *PASSING):
            return False
        tensor = n.output[0]
    return False


def _top(graph: Graph, node: NodeProto) -> float:
    """The upper bound that a Clip or a Min with a constant sets."""
    if is_op(node, "Clip"):
        return clip_bounds(graph, node)[1]
    constants = [c for t in node.input if (c := graph.constant(t)) is not None and c.size == 1]
    return float(constants[0].reshape(())) if len(constants) == 1 else np.inf


def _near_6(top: float) -> bool:
    return abs(top - RELU6) < 1e-3 * RELU6
