"""Give quantizers another step: Q, DQ, and the integer biases that are tied to it.

A bias stored in int32 with scale s_x * s_w must follow s_x, or integer kernels (which take that product for granted)
would read it wrongly: b' = round(b * s_x / s'_x), in int64, never clipped.  Where it would overflow, s_w grows by a
power of two and the channel's weights are rounded to it, as onnxruntime's own quantizer does.  Such a channel is next
to constant: its bias is more than 2^30 steps, and its weights reach a few thousand.  If rounding them could change the
channel by more than TOLERANCE of its bias, the step is refused.  Shared parameters are cloned.

A step may change twice in one run (another zero-point first, copies later).  The bias is then rounded once, from what
the model held before the run: b' is what the declared steps give, and errors do not add up.  Gains in between make it
what the declared gains and then the declared steps give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.bias import Bias, write_bias
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.qdq.weights import coarsen
from onnx_ocs.records.grids import output_octaves
from onnx_ocs.records.steps import record_step
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.steps import coarsening, tied_bias

__all__ = ["rescale"]

ROUNDING = 1e-6  # relative; what a float type makes of a step that was multiplied on the way


def rescale(graph: EditableGraph, region: Region, scale: Array, original: Graph | None = None) -> None:
    """Change one region's step (checked before), its carried quantizers' and the readers' tied biases.

    Args:
        graph: the graph.
        region: the region.
        scale: the new step, of the old one's shape.
        original: the graph before the run, where the step may have changed since.
    """
    walk, q = region.walk, region.quantizer
    new = scale.astype(q.float_dtype)
    made: dict[tuple[tuple[int, ...], bytes], str] = {}
    steps: list[tuple[Array, Array]] = []  # of the dequantizers, before and now
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
            record_step(node, before, value.astype(np.float64).reshape(before.shape))
        else:
            steps.append((before, value.reshape(before.shape)))
    for node, share in zip(walk.weights, walk.factors, strict=True):
        before, at_reader = _at_reader(steps, q.scale * share, new * share)
        tied = tied_bias(graph, node, before)
        if tied is None:
            continue
        bias, _, weight_scale = tied
        factors = coarsening(tied, at_reader)
        if np.any(factors > 1):
            coarsen(graph, node, 1, factors)
            weight_scale = weight_scale * factors
        first, first_scale, _ = _first(graph, original, region, node, share, tied) or tied
        factor = float(first_scale) / float(at_reader) / factors
        value = np.rint(first.value.astype(np.float64) * factor).astype(bias.value.dtype)
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


def _at_reader(steps: Sequence[tuple[Array, Array]], before: Array, now: Array) -> tuple[Array, Array]:
    """The step that a layer reads, before and now: that of a quantizer in between, which rounds it, if there is one."""
    if before.size > 1:
        return before, now
    rounded = (s for s in steps if np.allclose(s[0], before, rtol=ROUNDING, atol=0))
    then, new = next(rounded, (before, now))
    return then.reshape(()), new.reshape(())


def _first(
    graph: Graph, original: Graph | None, region: Region, node: NodeProto, share: float,
    tied: tuple[Bias, Array, Array],
) -> tuple[Bias, Array, Array] | None:  # fmt: skip
    """What the original has for a tied bias; None where its step is still that one, or its weights have changed."""
    if original is None:
        return None
    quantize, layer = (original.producer.get(n.output[0]) for n in (region.nodes[0], node))
    if quantize is None or layer is None or layer.op_type != node.op_type:
        return None
    q = read_quantizer(original, quantize)
    if not isinstance(q, Quantizer) or np.array_equal(q.scale, region.quantizer.scale):
        return None
    first = tied_bias(original, layer, q.scale * share)
    if first is None or first[0].value.shape != tied[0].value.shape or first[2].shape != tied[2].shape:
        return None
    if np.array_equal(first[2], tied[2]):
        return first
    return _with_gains(first, tied, output_octaves(original.model, graph.model).get(str(node.output[0])))


def _with_gains(
    first: tuple[Bias, Array, Array], tied: tuple[Bias, Array, Array], octaves: Sequence[int] | None
) -> tuple[Bias, Array, Array] | None:
    """The original's bias on the steps of a weight that gains have changed; None where something else did.

    Args:
        first: the original's bias, its input's step and its weight's.
        tied: the same now.
        octaves: of the layer's outputs, whose integers stay.
    """
    factors = tied[2] / first[2] / (1.0 if octaves is None else 2.0 ** np.asarray(octaves, np.float64))
    value = np.rint(first[0].value / factors)
    now = np.rint(value * (float(first[1]) / float(tied[1])))
    if np.any(np.frexp(factors)[0] != 0.5) or not np.array_equal(now, tied[0].value):
        return None
    return replace(first[0], value=value.astype(first[0].value.dtype)), first[1], tied[2]
