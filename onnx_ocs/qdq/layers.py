"""Layers: a Conv, ConvTranspose, Gemm or MatMul with a constant weight, read once.

operator        weight                      inputs      outputs
Conv            (M, C / groups, *kernel)    axis 1      axis 0
ConvTranspose   (C, M / groups, *kernel)    axis 0      axis 1
Gemm            (K, N); (N, K) with transB  axis 0; 1   axis 1; 0
MatMul          (..., K, N)                 axis -2     axis -1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qdq.bias import Bias, read_bias
from onnx_ocs.qdq.weights import Weight, read_weight

__all__ = ["LAYERS", "Layer", "is_layer", "read_layer"]

PART = 1 << 23  # values of a weight that become float64 at a time
LAYERS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with a constant weight.

    Attributes:
        node: the Conv, ConvTranspose, Gemm or MatMul.
        weight: the weight at its second input, of two or more axes.
        into: the weight's axis of input channels (of one group, for a Conv).
        out: the weight's axis of output channels (of one group, for a ConvTranspose).
        groups: number of groups that do not see each other.
    """

    node: NodeProto
    weight: Weight
    into: int
    out: int
    groups: int

    @property
    def kind(self) -> str:
        """The operator."""
        return self.node.op_type

    @property
    def slides(self) -> bool:
        """Whether the weight is a kernel that slides over the axes behind the channels."""
        return self.kind in ("Conv", "ConvTranspose")

    @property
    def inputs(self) -> int:
        """Number of input channels, of all groups."""
        return self.weight.shape[self.into] * (self.groups if self.kind == "Conv" else 1)

    @property
    def outputs(self) -> int:
        """Number of output channels, of all groups."""
        return self.weight.shape[self.out] * (self.groups if self.kind == "ConvTranspose" else 1)

    def reads(self, axis: int, rank: int | None) -> bool:
        """Whether its input channels lie along an axis of its input; negative ones count from the end."""
        if self.slides:
            return axis == 1
        if self.kind == "Gemm":
            own = 0 if attribute(self.node, "transA", 0) else 1
            return axis in (own, own - 2)
        return axis == -1 or (rank is not None and axis == rank - 1)

    def writes(self, axis: int, rank: int | None) -> bool:
        """Whether its output channels lie along an axis of its output."""
        if self.kind == "MatMul":
            return axis == -1 or (rank is not None and axis == rank - 1)
        return axis in (1, -1)

    def rows(self, graph: Graph) -> Array | None:
        """The weight's values as (input channels, outputs of a group, taps), float64; None where they are none."""
        w = graph.constant(self.node.input[1])
        return None if w is None else self._arranged(w).astype(np.float64)

    def parts(self, graph: Graph) -> Iterator[Array]:
        """The same for some outputs at a time: the floats of a large weight would be many times what is stored."""
        w = graph.constant(self.node.input[1])
        if w is None:
            return
        w = self._arranged(w)
        step = max(1, PART // max(1, w[:, :1].size))
        for k in range(0, w.shape[1], step):
            yield w[:, k : k + step].astype(np.float64)

    def _arranged(self, w: Array) -> Array:
        """A weight's values as (input channels, outputs of a group, taps)."""
        if self.kind == "Conv":
            m, k = w.shape[0] // self.groups, w.shape[1]
            split = w.reshape(self.groups, m, k, -1)
            return np.asarray(np.moveaxis(split, 2, 1).reshape(self.groups * k, m, -1))
        if self.kind == "MatMul":
            return np.moveaxis(w, -2, 0).reshape(w.shape[-2], -1, 1)
        return w.reshape(w.shape[0], w.shape[1], -1) if self.into == 0 else w.T.reshape(w.shape[1], w.shape[0], 1)

    def bias(self, graph: Graph) -> Bias | None:
        """Its bias per output channel; None where that is not constant.  What stands behind a MatMul is not seen."""
        if self.kind == "MatMul":
            return Bias("none", np.zeros(self.outputs, np.float32))
        return read_bias(graph, self.node, 2, self.outputs)


def is_layer(node: NodeProto | None) -> bool:
    """Whether a node is of one of the four operators, whatever its weight."""
    return is_op(node, *LAYERS)


def read_layer(graph: Graph, node: NodeProto) -> Layer | None:
    """A node as a layer; None where it is none, or where its weight is not constant or of a form we cannot edit."""
    weight = read_weight(graph, node, 1) if is_layer(node) else None
    if weight is None or len(weight.shape) < 2:
        return None
    kind, rank = node.op_type, len(weight.shape)
    upright = kind == "Conv" or (kind == "Gemm" and bool(attribute(node, "transB", 0)))
    into, out = (1, 0) if upright else (rank - 2, rank - 1) if kind == "MatMul" else (0, 1)
    groups = int(attribute(node, "group", 1)) if kind in ("Conv", "ConvTranspose") else 1
    return Layer(node, weight, into, out, groups)
