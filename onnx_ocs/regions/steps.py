"""Whether a quantizer's step may be changed: a decision, without the code that changes it.

A bias stored in int32 with scale s_x * s_w must follow s_x.  Where it would overflow, the channel's weights are made
coarser by a power of two, if that changes the channel by no more than TOLERANCE of its bias.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.qdq.bias import Bias, read_bias
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.qdq.weights import coarsened, read_weight
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import COARSEST, Region

__all__ = ["check_rescale", "coarsening", "tied_bias"]

TOLERANCE = 1e-3  # largest change of a layer's channel by coarser weights, as a share of its bias


def tied_bias(graph: Graph, node: NodeProto, scale: Array) -> tuple[Bias, Array, Array] | None:
    """A layer's integer bias with scale s_x * s_w, its s_x and s_w; None if it has no such bias."""
    weight = read_weight(graph, node, 1)
    w = weight.quantizer(graph) if weight else None
    name = node.input[2] if len(node.input) > 2 else ""
    value = graph.constant(name) if name else None
    if w is None or value is None or node.op_type == "MatMul":
        return None
    bias = read_bias(graph, node, 2, value.size)
    if bias is None or bias.kind != "integer" or bias.scale is None or scale.size != 1:
        return None
    if w.scale.size not in (1, value.size):
        return None
    product = scale * w.scale
    return (bias, scale, w.scale) if np.allclose(bias.scale, product, rtol=1e-4) else None


def check_rescale(graph: Graph, region: Region, scale: Array) -> Refusal | None:
    """Whether a region's step can be changed.

    Args:
        graph: the graph, not edited.
        region: the region.
        scale: the new step, shape of the old one.

    Returns:
        None, or why not.
    """
    walk, q = region.walk, region.quantizer
    at = label(region.nodes[0])
    if walk.integers_leave:
        return Refusal.of("integers_leave", at)
    reach = np.asarray((q.qmax - q.zero_point) * scale.astype(q.float_dtype).astype(np.float64))
    held = reach.astype(q.float_dtype).astype(np.float64)
    if np.max(np.abs(held - reach) / scale) > COARSEST:
        return Refusal("half_precision", f"{q.float_dtype.name} does not hold the new X_clip exactly enough", at)
    if walk.joined:
        return Refusal.of("joined", at)
    if not walk.dequantizers:
        return Refusal.of("not_dequantized", at)
    for node, factor in zip(walk.weights, walk.factors, strict=True):
        tied = tied_bias(graph, node, q.scale * factor)
        if tied is not None and not _holds(graph, node, q, tied, scale * factor):
            return Refusal("bias_range", f"the bias of {label(node)} would overflow at the new step", label(node))
    return None


def coarsening(tied: tuple[Bias, Array, Array], scale: Array) -> Array:
    """By what the weight's steps must grow for the bias to fit its integers: powers of two, float64 (C,)."""
    bias, old, _ = tied
    new = np.abs(bias.value.astype(np.float64)) * float(old) / float(scale)
    over = new / integer_range(bias.value.dtype)[1]
    # half the range is left free: copies made early still shift the bias
    return np.where(over > 1, 2.0 ** np.ceil(np.log2(np.maximum(over, 1.0)) + 1), 1.0)


def _holds(graph: Graph, node: NodeProto, q: Quantizer, tied: tuple[Bias, Array, Array], scale: Array) -> bool:
    """Whether the bias fits at the new step, with coarser weights where it must."""
    factors = coarsening(tied, scale)
    if np.all(factors == 1):
        return True
    weight = read_weight(graph, node, 1)
    found = None if weight is None else coarsened(graph, weight, factors)
    if found is None:
        return False
    reach = max(int((q.qmax - q.zero_point).max()), int((q.zero_point - q.qmin).max()))
    return bool(np.all(found[2] * reach <= TOLERANCE * np.abs(tied[0].value.astype(np.float64))))
