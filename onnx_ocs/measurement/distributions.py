"""Outputs that are probabilities, and how they are compared where something is to be learnt from single samples.

Where a softmax is sure, its values hardly move, whatever the layers before it do; where it is not, they move far.  So
the squared error of probabilities lies in the few samples that are near to turning over, and whether these gain or lose
is chance.  In logarithms each sample tells about as much as any other, and in front of the softmax it does even where a
quantizer behind it makes 0 and 1 of its values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.regions.masked import axis_of, floored, rows_along

__all__ = ["LEAST", "Logits", "distribution_axis", "in_logarithms", "logits_of", "sums_to_one"]

WHOLE = 1e-3  # how far a sum of probabilities may be from 1
LEAST = 1e-3  # probabilities far below are alike
PASSED = ("DequantizeLinear", "QuantizeLinear", "Identity", "Cast", "Clip")  # between a softmax and an output


class Logits(NamedTuple):
    """What a softmax makes an output of.

    Attributes:
        graph: the graph.
        tensor: its input.
        axis: of the classes.
    """

    graph: Graph
    tensor: str
    axis: int

    def counted(self, value: Array) -> Array:
        """Values as they are compared: about their mean, which a softmax takes out, and no lower than counts."""
        kept = floored(self.graph, value.astype(np.float64), self.axis)
        return np.asarray(kept - kept.mean(rows_along(self.graph, value.ndim, self.axis), keepdims=True))


def logits_of(graph: Graph, output: str) -> Logits | None:
    """What a softmax makes an output of, whatever quantizers stand behind it; None where there is none."""
    node = graph.producer.get(output)
    while node is not None and is_op(node, *PASSED):
        node = graph.producer.get(node.input[0])
    if node is None or not is_op(node, "Softmax") or node.input[0] not in graph.producer:
        return None
    return Logits(graph, node.input[0], axis_of(graph, node))


def distribution_axis(value: Array) -> int | None:
    """The second or the last axis, where values along it are probabilities; None where they are along neither."""
    axes = (1, value.ndim - 1) if value.ndim > 1 else ()
    return next((a for a in axes if sums_to_one(value, a)), None)


def sums_to_one(value: Array, axis: int) -> bool:
    """Whether values are probabilities of classes along an axis."""
    if value.ndim < 2 or value.shape[axis] < 2 or not value.size or value.dtype.kind != "f":
        return False
    return bool(value.min() >= 0 and np.all(np.abs(value.sum(axis, dtype=np.float64) - 1) < WHOLE))


def in_logarithms(value: Array) -> Array:
    """Probabilities p as log(p + 0.001), float64."""
    return np.asarray(np.log(np.maximum(value, 0).astype(np.float64) + LEAST))
