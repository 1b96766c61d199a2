"""What costs a layer its integer kernel in onnxruntime, or another operator its integer form.

It computes a layer, its activation and the one quantizer behind it in one integer kernel; with another reader of the
float values in between, the layer runs in float.  That is read off the structure.  Kernels are lost for other reasons,
too (a float bias, a MatMul of two activations of which one is folded back, a depthwise Conv, whose copies are added up
in float in front of it), and operators between quantizers leave the integers with their neighbours (QLinearAdd,
QLinearMul, pools): that is found out by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.regions.region import Quantized
from onnx_ocs.targets.ort import integer_outputs, operators, without_kernels
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.widen import widened

__all__ = ["behind_kernels", "losing"]

PARTS = ("Add", "BatchNormalization", "Clip", "LeakyRelu", "Relu")  # between a layer and its quantizer in one kernel


def behind_kernels(graph: Graph, regions: Sequence[Quantized]) -> set[str]:
    """The quantized tensors in front of whose quantizers nothing can be inserted without the loss of a kernel."""
    tensors = []
    for r in regions:
        n = graph.producer.get(r.tensor)
        while n is not None and is_op(n, *PARTS):
            varying = [t for t in n.input if not graph.is_constant(t)]
            n = graph.producer.get(varying[0]) if len(varying) == 1 else None
        if is_layer(n):
            tensors.append(r.tensor)
    return without_kernels(graph.model, tensors)


def losing(model: onnx.ModelProto, decisions: Sequence[Decision]) -> list[Decision]:
    """Those decisions that must be left out for no operator to leave the integers.

    Late copies are made of floats: where an integer operator writes what a quantizer gave, it is lost.  The rest is
    found by bisection.

    Args:
        model: the model; not changed.
        decisions: about regions of this model.
    """
    whole = operators(model)

    def lost(part: Sequence[Decision]) -> int:
        new = widened(model, lambda _, of: [replace(d, region=of[d.region.key]) for d in part])
        left = operators(new)
        return 0 if left is None or whole is None else whole.lost(left)

    def search(part: Sequence[Decision], count: int) -> list[Decision]:
        """Of decisions that lose so many operators together."""
        if len(part) == 1 or (count >= len(part) and all(_depthwise(d) for d in part)):  # each its reader's
            return [*part]
        halves = part[: len(part) // 2], part[len(part) // 2 :]
        found = [d for half in halves if (n := lost(half)) > 0 for d in search(half, n)]
        return found or [*part]

    written = integer_outputs(model) if any(d.mode == "late" for d in decisions) else set()

    def surely(d: Decision) -> bool:
        return d.mode == "late" and any(n.output[0] in written for n in d.region.nodes)

    found = [d for d in decisions if surely(d)]
    left = sorted((d for d in decisions if not surely(d)), key=_depthwise)
    while whole and left and (count := lost(left)) > 0:
        found += search(left, count)
        left = [d for d in left if not any(d is f for f in found)]
    return found


def _depthwise(decision: Decision) -> bool:
    """Whether a depthwise layer reads it, which runs in float behind the sum of the copies."""
    return decision.region.walk.depthwise
