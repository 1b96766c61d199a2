"""Give quantizers another step: Q, DQ, and the integer biases that are tied to it.

A bias stored in int32 with scale s_x * s_w must follow s_x, or integer kernels (which take that product for granted)
would read it wrongly: b' = round(b * s_x / s'_x), in int64, never clipped.  Where it would overflow, s_w grows by a
power of two and the channel's weights are rounded to it, as onnxruntime's own quantizer does.  Such a channel is next
to constant: its bias is more than 2^30 steps, and its weights reach a few thousand.  If rounding them could change the
channel by more than TOLERANCE of its bias, the step is refused.  Shared parameters are cloned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.graph import Array, Graph, integer_range, is_op, label
from onnx_ocs.quantizer import Quantizer, Refusal, read_quantizer
from onnx_ocs.region import COARSEST, Region, find_regions
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.tensors import unpack
from onnx_ocs.weights import Bias, coarsen, coarsened, read_bias, read_weight, write_bias
from onnx_ocs.widen import LAYOUT

__all__ = ["check_rescale", "read_scales", "rescale", "rescale_model"]

SCALE = "onnx_ocs.scale_before"
TOLERANCE = 1e-3  # largest change of a layer's channel by coarser weights, as a share of its bias


def _tied_bias(graph: Graph, node: NodeProto, scale: Array) -> tuple[Bias, Array, Array] | None:
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
        region: a region with a walk.
        scale: the new step, shape of the old one.

    Returns:
        None, or why not.
    """
    walk, q = region.walk, region.quantizer
    assert walk is not None and q is not None
    at = label(region.nodes[0])
    if walk.integers_leave:
        return Refusal("integers_leave", "somebody else reads the integers, so their step must stay", at)
    reach = np.asarray((q.qmax - q.zero_point) * scale.astype(q.float_dtype).astype(np.float64))
    held = reach.astype(q.float_dtype).astype(np.float64)
    if np.max(np.abs(held - reach) / scale) > COARSEST:
        return Refusal("half_precision", f"{q.float_dtype.name} does not hold the new X_clip exactly enough", at)
    if walk.joined:
        return Refusal("joined", "a quantizer on the same grid reads other values too, so their step must stay", at)
    if not walk.dequantizers:
        return Refusal("not_dequantized", "no DequantizeLinear with the same parameters reads it", at)
    for node, factor in zip(walk.weights, walk.factors, strict=True):
        tied = _tied_bias(graph, node, q.scale * factor)
        if tied is not None and not _holds(graph, node, q, tied, scale * factor):
            return Refusal("bias_range", f"the bias of {label(node)} would overflow at the new step", label(node))
    return None


def _factors(tied: tuple[Bias, Array, Array], scale: Array) -> Array:
    """By what the weight's steps must grow for the bias to fit its integers: powers of two, float64 (C,)."""
    bias, old, _ = tied
    new = np.abs(bias.value.astype(np.float64)) * float(old) / float(scale)
    over = new / integer_range(bias.value.dtype)[1]
    # half the range is left free: copies made early still shift the bias
    return np.where(over > 1, 2.0 ** np.ceil(np.log2(np.maximum(over, 1.0)) + 1), 1.0)


def _holds(graph: Graph, node: NodeProto, q: Quantizer, tied: tuple[Bias, Array, Array], scale: Array) -> bool:
    """Whether the bias fits at the new step, with coarser weights where it must."""
    factors = _factors(tied, scale)
    if np.all(factors == 1):
        return True
    weight = read_weight(graph, node, 1)
    found = None if weight is None else coarsened(graph, weight, factors)
    if found is None:
        return False
    reach = max(int((q.qmax - q.zero_point).max()), int((q.zero_point - q.qmin).max()))
    return bool(np.all(found[2] * reach <= TOLERANCE * np.abs(tied[0].value.astype(np.float64))))


def rescale(graph: Graph, region: Region, scale: Array) -> None:
    """Change one region's step (checked before), its carried quantizers' and the readers' tied biases."""
    walk, q = region.walk, region.quantizer
    assert walk is not None and q is not None
    new = scale.astype(q.float_dtype)
    made: dict[tuple[tuple[int, ...], bytes], str] = {}
    for node in (*region.nodes, *walk.carried, *walk.dequantizers):
        old = graph.constant(node.input[1])
        assert old is not None
        before = old.astype(np.float64).reshape(q.scale.shape)
        same = np.array_equal(before, q.scale)  # else behind a multiplication by a constant
        value = (new if same else (scale * before / q.scale).astype(q.float_dtype)).reshape(old.shape)
        key = value.shape, value.tobytes()
        if key not in made:
            made[key] = graph.add_initializer(node.input[1] + "_rescaled", value)
        graph.set_input(node, 1, made[key])
        if is_op(node, "QuantizeLinear"):
            node.metadata_props.add(key=SCALE, value=json.dumps(before.tolist()))
    for node, share in zip(walk.weights, walk.factors, strict=True):
        tied = _tied_bias(graph, node, q.scale * share)
        if tied is None:
            continue
        bias, old_scale, weight_scale = tied
        at_reader = (new * share).reshape(())
        factors = _factors(tied, at_reader)
        if np.any(factors > 1):
            coarsen(graph, node, 1, factors)
            weight_scale = weight_scale * factors
        factor = float(old_scale) / float(at_reader) / factors
        value = np.rint(bias.value.astype(np.float64) * factor).astype(bias.value.dtype)
        everything = np.arange(value.size)
        write_bias(graph, node, 2, bias, value, everything)
        dq = graph.producer[node.input[2]]
        old_product = graph.constant(dq.input[1])
        assert old_product is not None
        product = np.asarray(at_reader.astype(np.float32) * weight_scale.astype(np.float32))
        product = np.broadcast_to(
            product.reshape(-1) if old_product.ndim else product.reshape(-1)[0], old_product.shape
        )
        graph.set_input(dq, 1, graph.add_initializer(dq.input[1] + "_rescaled", product.astype(old_product.dtype)))


def read_scales(model: onnx.ModelProto) -> dict[str, Array]:
    """The new steps in a rewritten model, by what the Q wrote in the original (layouts give renamed ones)."""
    found: dict[str, Array] = {}
    graph: Graph | None = None
    for n in model.graph.node:
        keys = {p.key: p.value for p in n.metadata_props}
        if SCALE not in keys:
            continue
        graph = graph or Graph(model)
        q = read_quantizer(graph, graph.producer[n.output[0]])
        if isinstance(q, Quantizer):
            wide = json.loads(keys[LAYOUT]) if LAYOUT in keys else None
            scale = q.scale
            if scale.size > 1 and wide is not None:  # per channel, repeated for the copies
                origin, level = unpack(wide["origin"]), unpack(wide["level"])
                base = np.flatnonzero(level == 0)
                scale = np.empty(wide["narrow"])
                scale[origin[base]] = q.scale[base]
            found[wide["original"] if wide else str(n.output[0])] = scale
    return found


def rescale_model(model: onnx.ModelProto, scales: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of a model with new steps, by what each Q writes; the yardstick for a rewrite that changed steps.

    Only regions' own quantizers need be named; a carried one follows its region.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = Graph(new)
    for region in find_regions(graph, infer_shapes(new)):
        scale = next((scales[o] for o in region.outputs if o in scales), None)
        q = region.quantizer
        if scale is None or q is None or not region.adjustable:
            continue
        if np.array_equal(read_now(graph, region), q.scale):  # not yet changed by the region that carries it
            rescale(graph, region, scale.reshape(q.scale.shape))
    graph.commit()
    return new


def read_now(graph: Graph, region: Region) -> Array:
    """The region's step at this moment."""
    q = read_quantizer(graph, region.nodes[0])
    return q.scale if isinstance(q, Quantizer) else np.zeros(())
