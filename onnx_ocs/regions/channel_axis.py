"""Along which axis a tensor's channels lie, by what makes it: for tensors that no layer with a constant weight reads.

A Conv writes its channels along axis 1, a Gemm, a MatMul or a LayerNormalization along the last axis; nodes behind them
hand them on, and a Transpose moves them.  Nothing is at stake but how well outliers are told apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.model.shapes import Shape

__all__ = ["channel_axis"]

FAR = 24  # nodes that are looked at
SECOND = ("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization")
LAST = ("Gemm", "MatMul", "LayerNormalization", "SkipLayerNormalization", "RMSNormalization")
MIXING = ("Flatten", "Squeeze", "Unsqueeze", "Split", "DepthToSpace", "SpaceToDepth")  # axes that are others behind it


def channel_axis(graph: Graph, tensor: str, shapes: Mapping[str, Shape]) -> int | None:
    """The axis of a tensor's channels, counted from the front.

    Args:
        graph: the graph.
        tensor: a float tensor.
        shapes: shapes as far as known.

    Returns:
        The axis; None for a tensor of unknown rank, or with one axis.
    """
    shape = shapes.get(tensor)
    if shape is None or len(shape) < 2:
        return None
    at, rank = tensor, len(shape)
    axis: list[int] = [*range(rank)]  # where the axes of `at` lie in the tensor
    for _ in range(FAR):
        n = graph.producer.get(at)
        if n is None:
            break
        if n.op_type in SECOND and rank > 1:
            return axis[1]
        if n.op_type in LAST:
            return axis[-1]
        if is_op(n, "Reshape"):  # of pictures the channels stay where they are, of heads a part of them lies last
            before, after = shapes.get(n.input[0], ()), shapes.get(at, ())
            return axis[1] if len(before) == 4 and before[:2] == after[:2] else axis[-1]
        source = _handed_on(graph, n, shapes, rank)
        if source is None:
            break
        if is_op(n, "Transpose"):
            perm: list[int] = list(attribute(n, "perm") or range(rank)[::-1])
            axis = [axis[perm.index(k)] for k in range(rank)]
        at = source
    return axis[1] if len(shape) != 3 else axis[-1]


def _handed_on(graph: Graph, node: NodeProto, shapes: Mapping[str, Shape], rank: int) -> str | None:
    """The input whose axes a node keeps; None where there is none."""
    if node.op_type in MIXING:
        return None
    return next((t for t in node.input if not graph.is_constant(t) and len(shapes.get(t) or ()) == rank), None)
