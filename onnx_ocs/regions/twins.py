"""Layers of the float model that layers of the quantized one were made from, known again by their weights.

Rows of both point the same way, whatever BatchNormalization was folded into them (cosine).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.layers import is_layer, read_layer

__all__ = ["Twins"]

ALIKE = 0.9  # mean cosine that the rows of one layer have at least
APART = 0.05  # by how much another layer's must be smaller
SCALING = ("BatchNormalization", "Mul", "Add", "Sub", "Div")


class Twins:
    """The float model's layers, looked up by weight."""

    def __init__(self, floats: onnx.ModelProto) -> None:
        """Find the float model's layers; their weights are read when they are asked for."""
        self.graph = Graph(floats)
        layers = (read_layer(self.graph, n) for n in self.graph.nodes if is_layer(n))
        self._known = [(x.node, (x.kind, x.weight.shape)) for x in layers if x is not None]
        self._rows: dict[int, Array | None] = {}  # of the layers that were compared: many have the same shape

    def of(self, graph: Graph, layer: NodeProto) -> list[NodeProto]:
        """The float layers that have a layer's weight: none where it is not found, several where they are alike.

        Args:
            graph: the quantized model's.
            layer: one of its nodes.
        """
        found, rows = read_layer(graph, layer), _rows(graph, layer)
        if found is None or rows is None:
            return []
        same = [n for n, form in self._known if form == (found.kind, found.weight.shape)]
        scores = [_cosine(rows, self._row(n)) for n in same]
        best = max(scores, default=0.0)
        return [n for s, n in zip(scores, same, strict=True) if s > best - APART] if best > ALIKE else []

    def _row(self, node: NodeProto) -> Array | None:
        if id(node) not in self._rows:
            self._rows[id(node)] = _rows(self.graph, node)
        return self._rows[id(node)]

    def behind(self, layer: NodeProto) -> NodeProto | None:
        """The only node that reads a layer's output, behind BatchNormalization and other constants; None: several."""
        tensor = layer.output[0]
        for _ in range(6):
            readers = self.graph.value_readers(tensor)
            if len(readers) != 1 or tensor in self.graph.outputs:
                return None
            n = readers[0]
            scaling = is_op(n, *SCALING) and sum(not self.graph.is_constant(t) for t in n.input) == 1
            if not scaling and not is_op(n, "Identity", "Cast"):
                return n
            tensor = n.output[0]
        return None


def _cosine(a: Array, b: Array | None) -> float:
    """Mean cosine of rows of length 1."""
    return 0.0 if b is None or a.shape != b.shape else float(np.einsum("ij,ij->i", a, b).mean())


def _rows(graph: Graph, node: NodeProto) -> Array | None:
    """A layer's weight as rows of length 1, one for each output channel; None where it is not constant."""
    if not is_layer(node):
        return None
    layer = read_layer(graph, node)
    value = graph.constant(node.input[1]) if layer is not None else None
    if layer is None or value is None:
        return None
    w = np.moveaxis(value.astype(np.float32), layer.out, 0).reshape(value.shape[layer.out], -1)
    length = np.sqrt((w**2).sum(1, keepdims=True))
    return np.asarray(w / np.where(length > 0, length, 1.0))
