"""Which tensors exist only inside integer kernels, so that whatever else reads them costs a layer its kernel.

onnxruntime computes a layer, its activation and the one quantizer behind it in one integer kernel; with another reader
of the float values in between, the layer runs in float.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnx_ocs.graph import Graph, is_op
from onnx_ocs.region import Region
from onnx_ocs.runtime import expose, integer_kernels, optimized

__all__ = ["behind_kernels", "without_kernels"]

FUNCTIONS = ("Relu", "Clip", "LeakyRelu")  # what stands between a layer and its quantizer in one kernel
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def without_kernels(model: onnx.ModelProto, tensors: Sequence[str]) -> set[str]:
    """Those float tensors that only exist because somebody reads them: without, their layers run on integers.

    Args:
        model: the model.
        tensors: what layers write, or activation functions behind layers.
    """
    run = optimized(model)
    if run is None:
        return set()
    written = {o for n in run.graph.node for o in n.output}
    fused = [t for t in tensors if t not in written]
    whole = integer_kernels(model) or 0

    def loss(read: Sequence[str]) -> int:
        left = integer_kernels(expose(model, read))
        return 0 if left is None else whole - left

    together = loss(fused)
    if together in (0, len(fused)):
        return set(fused) if together else set()
    return {t for t in fused if loss([t])}


def behind_kernels(graph: Graph, regions: Sequence[Region]) -> set[str]:
    """The quantized tensors in front of whose quantizers nothing can be inserted without the loss of a kernel."""
    tensors = []
    for r in regions:
        n = graph.producer.get(r.tensor)
        if n is not None and is_op(n, *FUNCTIONS):
            n = graph.producer.get(n.input[0])
        if is_op(n, *LAYERS):
            tensors.append(r.tensor)
    return without_kernels(graph.model, tensors)
