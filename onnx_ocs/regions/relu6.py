"""Which quantizers hold a folded ReLU6, as the float model says: layer by layer.

A quantizer that saturates at 0 and at 6 may stand for a ReLU6, for a ReLU, or for one in some layers and the other in
others; the QDQ file does not say.  What stands behind the layer in the float model decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.qdq.intervals import clip_bounds
from onnx_ocs.regions.twins import Twins

__all__ = ["RELU6", "Bounded", "relu6_in"]

Bounded = Mapping[str, bool]  # by float tensor in front of a quantizer: whether the float model bounds it at 6
RELU6 = 6.0


def relu6_in(graph: Graph, tensors: Sequence[str], floats: onnx.ModelProto) -> dict[str, bool]:
    """Whether the float model has a ReLU6 where layers of the quantized one feed quantizers directly.

    Args:
        graph: the quantized model's.
        tensors: what such layers write.
        floats: the float model.

    Returns:
        The answer for each tensor; those whose layer is not found there, or not found for sure, are left out.
    """
    twins, found = Twins(floats), dict[str, bool]()
    for tensor in tensors:
        layer = graph.producer.get(tensor)
        answers = {_bounded(twins, n) for n in twins.of(graph, layer)} if layer is not None else set()
        if len(answers) == 1:
            found[tensor] = answers.pop()
    return found


def _bounded(twins: Twins, layer: NodeProto) -> bool:
    """Whether what a float layer writes passes a bound at 6 before anything else reads it."""
    n = twins.behind(layer)
    if is_op(n, "Relu") and n is not None:  # a bound behind it is one of its own
        readers = twins.graph.value_readers(n.output[0])
        n = readers[0] if len(readers) == 1 else None
    return n is not None and is_op(n, "Clip", "Min") and abs(_top(twins.graph, n) - RELU6) < 1e-3 * RELU6


def _top(graph: Graph, node: NodeProto) -> float:
    """The upper bound that a Clip or a Min with a constant sets."""
    if is_op(node, "Clip"):
        return clip_bounds(graph, node)[1]
    constants = [c for t in node.input if (c := graph.constant(t)) is not None and c.size == 1]
    return float(constants[0].reshape(())) if len(constants) == 1 else np.inf
