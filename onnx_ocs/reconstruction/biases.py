"""What a layer's bias is tied to: the weight's scale, and where channels have copies, the channels' own biases."""

from __future__ import annotations

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.reconstruction.linear import LinearMap

__all__ = ["beta", "bias_shift", "follows_weight", "output_shift"]


def beta(layer: LinearMap) -> float:
    """What a layer multiplies its bias by."""
    return float(attribute(layer.node, "beta", 1.0)) if is_op(layer.node, "Gemm") else 1.0


def follows_weight(graph: Graph, layer: LinearMap) -> bool:
    """Whether a bias's integers are those of an accumulator, whose scale goes with the weight's scale."""
    if layer.bias is None or layer.bias.kind != "integers":
        return False
    root = graph.constant(layer.bias.root)
    return root is not None and root.dtype.itemsize >= 4


def output_shift(layer: LinearMap) -> Array:
    """What rows that follow others are less than theirs, float64 (rows,); nothing where a node behind takes the shift.

    Args:
        layer: one with copies.
    """
    tie = layer.tie
    assert tie is not None
    seen = layer.fixed[tie.base[tie.origin]] - layer.fixed
    return np.asarray(tie.shift if np.allclose(seen, tie.shift, rtol=1e-3) else seen)


def bias_shift(layer: LinearMap) -> Array:
    """The same in the units of the bias."""
    return np.asarray(output_shift(layer) / beta(layer))
