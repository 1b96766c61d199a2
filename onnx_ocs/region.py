"""Regions: one quantized activation, what stands before it, and everything that reads it.

A region is found by structure and value alone.  It is either translatable, early and/or late, or refused with a
reason.  *Early* (the paper): the producer's rows are repeated and i * X_clip is subtracted from the copies' bias; then
the activation and the one existing Q/DQ do the rest.  It is exact only where

    Q(f(y - i * X_clip)) == Q(relu(f(y) - i * X_clip))      for every y:

f is ReLU (explicit with any zero-point; implicit, no node at all, with zero_point == qmin), or f(t) = t for t >= 0 and
f(t) <= 0 below with zero_point == qmin.  A bound (ReLU6) belongs to f: (n + 1) * X_clip must not exceed it.
*Late* is exact for every f: the copies are made in float behind the activation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from onnx import NodeProto

from onnx_ocs.activation import LEAST, Activation, recognise
from onnx_ocs.bounds import Interval, value_bounds
from onnx_ocs.graph import Array, Graph, attribute, is_op, label
from onnx_ocs.layout import NOT_LINEAR, Route, Wide, route
from onnx_ocs.producer import Early, find_early
from onnx_ocs.quantizer import Quantizer, Refusal, read_quantizer
from onnx_ocs.shapes import Shape
from onnx_ocs.weights import read_weight

__all__ = ["PRINCIPLE", "RELU6", "STEP_ONLY", "Early", "Region", "Walk", "find_regions"]

# Reasons of principle: translation could not help there, or the algebra does not hold.  All others are our limits.
PRINCIPLE = {
    "no_weight_consumer": "no Conv, ConvTranspose, Gemm or MatMul with a constant weight reads it",
    "never_clipped": "no value can leave the quantizer's range, so nothing is clipped",
    "folded_bound": "a ReLU6 was folded into the quantizer: values above its bound never existed",
    "no_outliers": "no channel has outliers on the calibration data, or by the estimate",
    "ratio": "the ratio leaves no copy for this tensor",
    "float8": "not a uniform grid",
    "blocked": "block-wise quantization has no single step along a channel",
    "dynamic_parameters": "scale or zero-point is computed at run time",
    "bad_scale": "the scale is not a positive number",
    "not_dequantized": "no DequantizeLinear with the same parameters reads it",
    "one_sided": "zero_point == qmax: the quantizer has no room above zero, so a copy would hold nothing",
    "mode": "the mode asked for is not exact here",
    "excluded": "left out by the plan",
    "already_translated": "an earlier run has been here: start from the original",
}
STEP_ONLY = ("never_clipped", "folded_bound", "no_weight_consumer")  # refused, but another step may help
MOST_CHANNELS = 1 << 20  # a longer axis is none of channels
RELU6 = 6.0
HALF_COPIES = 2  # most copies where the float type is not float32
COARSEST = 0.15  # steps by which a float type may miss X_clip (float16 holds that of an 8-bit quantizer to 0.06)
BARELY = 1.02  # values that leave the range by less than this factor are not worth a copy


@dataclass(frozen=True)
class Walk:
    """What reads a widened tensor, found with a probe of two copies a channel.

    Attributes:
        axis: channel axis.
        channels: number of channels.
        weights: layers that read it with a repeated weight.
        depthwise: whether one of them is depthwise.
        groups: number of equal groups that the copies must respect (1: none).
        folded: readers for which the copies are folded back, with the reason.
        carried: Q nodes on the same grid that carry the copies on.
        columns: for each of `weights`, which of its input channels the region's channels are, int64 (C * inner,).
        factors: for each of `weights`, what the region's values have been multiplied by on the way.
        dequantizers: DQ nodes that read the integers (of the region's Q nodes and the carried ones).
        integers_leave: whether somebody else reads the integers, so that their step must stay what it is.
        joined: whether a carried Q quantizes other values too (behind a Concat), so that its step must stay.
        unranked: whether the copies would be folded back in a tensor whose rank is not known.
    """

    axis: int
    channels: int
    weights: tuple[NodeProto, ...]
    depthwise: bool
    groups: int
    folded: tuple[tuple[NodeProto, str], ...]
    carried: tuple[NodeProto, ...]
    columns: tuple[Array, ...]
    factors: tuple[float, ...]
    dequantizers: tuple[NodeProto, ...]
    integers_leave: bool
    joined: bool
    unranked: bool


@dataclass(frozen=True)
class Region:
    """One quantized activation.

    Attributes:
        tensor: float input of the QuantizeLinear.
        nodes: the QuantizeLinear nodes on this tensor with the same grid.
        quantizer: their grid; None when it cannot be read.
        activation: what stands in front.
        walk: what reads it; None when nothing is known.
        early: how to repeat the producer's rows, or why that is not exact.
        refusal: why nothing can be done; None if it can be translated.
        bounds: interval that the float values cannot leave.
        outputs: what `nodes` write in the original model.
        folded: whether its saturation stands for a ReLU6, or for the Clip(x + 3, 0, 6) of a HardSwish.
    """

    tensor: str
    nodes: tuple[NodeProto, ...]
    quantizer: Quantizer | None
    activation: Activation
    walk: Walk | None = None
    early: Early | Refusal | None = None
    refusal: Refusal | None = None
    bounds: Interval = (-np.inf, np.inf)
    outputs: tuple[str, ...] = ()
    folded: bool = False

    @property
    def ceiling(self) -> float:
        """The bound of a Clip that was folded into the quantizer: the float model has no larger values."""
        return RELU6 if self.folded else np.inf

    @property
    def adjustable(self) -> bool:
        """Whether anything about it can be changed: copies for layers that repeat a weight, or its step alone."""
        if self.walk is None or self.quantizer is None:
            return False
        return bool(self.walk.weights) or (self.quantizer.scale.size == 1 and bool(self.walk.dequantizers))


def find_regions(graph: Graph, shapes: Mapping[str, Shape], refusal: str | None = None) -> list[Region]:
    """All quantized activations of the main graph, in topological order.

    Args:
        graph: the graph.
        shapes: its tensors' shapes, as far as known.
        refusal: a code of `PRINCIPLE` with which all are refused unseen.

    Returns:
        One region for each float tensor and each distinct grid on it; weights (constants) are left out.
    """
    grouped: dict[str, list[tuple[Quantizer | Refusal, list[NodeProto]]]] = defaultdict(list)
    for n in graph.nodes:
        if not is_op(n, "QuantizeLinear") or graph.is_constant(n.input[0]):
            continue
        q = read_quantizer(graph, n)
        for other, nodes in grouped[n.input[0]]:
            if isinstance(q, Quantizer) and isinstance(other, Quantizer) and q.same_grid(other):
                nodes.append(n)
                break
        else:
            grouped[n.input[0]].append((q, [n]))
    if refusal is not None:
        return [
            Region(
                tensor=t,
                nodes=tuple(nodes),
                quantizer=q if isinstance(q, Quantizer) else None,
                activation=recognise(graph, t),
                refusal=Refusal(refusal, PRINCIPLE[refusal], label(nodes[0])),
                outputs=tuple(n.output[0] for n in nodes),
            )
            for t, found in grouped.items()
            for q, nodes in found
        ]
    implicit = [
        float(q.x_clip.max())
        for t, found in grouped.items()
        for q, _ in found
        if isinstance(q, Quantizer) and _implicit(graph, t, q)
    ]
    bounds = value_bounds(graph, grouped)
    relu6 = bool(implicit) and RELU6 * (1 - 1e-3) <= max(implicit) <= RELU6 * (1 + 1e-6)
    return [
        _region(graph, t, q, tuple(nodes), shapes, bounds, relu6) for t, found in grouped.items() for q, nodes in found
    ]


def _implicit(graph: Graph, tensor: str, q: Quantizer) -> bool:
    """Whether a layer feeds the quantizer directly and zero_point == qmin: saturation acts as a ReLU."""
    return q.rectifies and is_op(graph.producer.get(tensor), "Conv", "ConvTranspose", "Gemm")


def _is_gate(graph: Graph, tensor: str, q: Quantizer) -> bool:
    """Whether the quantizer saturates x + 3 at 0 and 6, where a Clip was removed because it does (onnxruntime)."""
    n = graph.producer.get(tensor)
    if n is None or not is_op(n, "Add") or float(q.x_clip.max()) > RELU6 * (1 + 1e-6) or np.any(q.zero_point != q.qmin):
        return False
    constants = [v for v in (graph.constant(t) for t in n.input) if v is not None and v.size == 1]
    return len(constants) == 1 and abs(float(constants[0].reshape(())) - RELU6 / 2) < 1e-2


def _region(
    graph: Graph,
    tensor: str,
    q: Quantizer | Refusal,
    nodes: tuple[NodeProto, ...],
    shapes: Mapping[str, Shape],
    bounds: Mapping[str, Interval],
    relu6: bool,
) -> Region:
    activation, outputs = recognise(graph, tensor), tuple(n.output[0] for n in nodes)
    if isinstance(q, Refusal):
        return Region(tensor, nodes, None, activation, refusal=q, outputs=outputs)
    lo, hi = bounds.get(tensor, (-np.inf, np.inf))
    interval = (max(lo, LEAST.get(activation.kind, -np.inf)), hi)
    relu6 = relu6 and _implicit(graph, tensor, q)
    folded = relu6 or _is_gate(graph, tensor, q)
    known = Region(tensor, nodes, q, activation, bounds=interval, outputs=outputs, folded=folded)
    walk = _best_walk(graph, known, shapes)
    if isinstance(walk, Refusal):
        return replace(known, refusal=walk)
    shape = shapes.get(tensor)
    rank = None if shape is None else len(shape)
    early = find_early(graph, tensor, nodes, q, walk.axis, walk.channels, rank)
    refusal = _nothing_to_save(known, walk, relu6)
    return replace(known, walk=walk, early=early, refusal=refusal)


def _nothing_to_save(region: Region, walk: Walk, relu6: bool) -> Refusal | None:
    q, (lo, hi) = region.quantizer, region.bounds
    assert q is not None
    at, top, low = label(region.nodes[0]), float(q.x_clip.min()), float(q.x_low.min())
    if not walk.weights:
        code = "no_weight_consumer"
        readers = ", ".join(dict.fromkeys(f"{n.op_type} {label(n)}" for n, _ in walk.folded)) or "nobody"
        return Refusal(code, f"{PRINCIPLE[code]} (but {readers})", at)
    if hi <= top * BARELY and (lo >= -low * BARELY or q.rectifies):
        return Refusal(
            "never_clipped", f"values lie in [{lo:.6g}, {hi:.6g}], the quantizer expresses up to {top:.6g}", at
        )
    if relu6 and float(q.x_clip.max()) > RELU6 / 2:
        return Refusal(
            "folded_bound",
            f"a ReLU6 is folded into this quantizer (X_clip {top:.6g}): copies would let values up to "
            f"{2 * top:.6g} through, and those above {RELU6:g} never existed",
            at,
        )
    most = np.asarray(q.x_clip).astype(q.float_dtype).astype(np.float64)
    if np.max(np.abs(most - q.x_clip) / q.scale) > COARSEST:
        return Refusal("half_precision", f"{q.float_dtype} cannot hold X_clip {top:.6g} to within {COARSEST} steps", at)
    if np.all(q.zero_point == q.qmax) and hi > 0:
        return Refusal("one_sided", PRINCIPLE["one_sided"], at)
    return None


# ---- readers --------------------------------------------------------------------------------------------------------


def _channels(graph: Graph, tensor: str, axis: int, shapes: Mapping[str, Shape]) -> int | None:
    shape = shapes.get(tensor)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and 0 < size <= MOST_CHANNELS else None


def _best_walk(graph: Graph, region: Region, shapes: Mapping[str, Shape]) -> Walk | Refusal:
    """Follow the readers along every axis that may be the channel's; the one with most layers wins."""
    q = region.quantizer
    assert q is not None
    shape = shapes.get(region.tensor)
    rank = None if shape is None else len(shape)
    axes = [1, -1] if rank is None else [a for a in dict.fromkeys((1, rank - 1, *range(1, rank - 1))) if 0 < a < rank]
    if q.axis is not None:
        axes = [q.axis % rank if rank is not None else q.axis]
    best: Walk | None = None
    missing = False
    for axis in axes:
        channels = _channels(graph, region.tensor, axis, shapes) or _layer_channels(graph, region, axis)
        if not channels:
            missing = True
            continue
        if q.scale.size not in (1, channels):
            return Refusal("bad_scale", f"{q.scale.size} scales for {channels} channels", label(region.nodes[0]))
        walk = _walk(graph, region, axis, channels, shapes)
        if best is None or len(walk.weights) > len(best.weights):
            best = walk
        if all(why == NOT_LINEAR for _, why in walk.folded):  # no other axis leads further
            break
    at = label(region.nodes[0])
    if best is not None and best.weights and ((rank is None and best.axis >= 0) or best.unranked):
        return Refusal(
            "unknown_rank",
            "the rank of the tensor, or of one behind it, is not known, so the channel axis cannot be addressed",
            at,
        )
    if best is None:
        if rank is not None and rank < 2:
            return Refusal("no_weight_consumer", f"{PRINCIPLE['no_weight_consumer']} (rank {rank})", at)
        code = "unknown_channels" if missing else "no_weight_consumer"
        return Refusal(code, "the number of channels is not known" if missing else PRINCIPLE[code], at)
    dequantized = any(is_op(r, "DequantizeLinear", "Clip") for n in region.nodes for r in graph.readers(n.output[0]))
    if not dequantized and not best.weights:
        return Refusal("not_dequantized", PRINCIPLE["not_dequantized"], at)
    return best


def _layer_channels(graph: Graph, region: Region, axis: int) -> int | None:
    """Channel count from the first layer that reads the tensor directly, when shape inference does not know it."""
    tensors = [n.output[0] for n in region.nodes]
    for _ in range(8):
        following: list[str] = []
        for t in tensors:
            for r in graph.readers(t):
                if is_op(r, "Conv", "ConvTranspose", "Gemm", "MatMul") and r.input[0] == t:
                    weight = read_weight(graph, r, 1)
                    if weight is None:
                        continue
                    if r.op_type == "Conv" and axis == 1:
                        return weight.shape[1] * int(attribute(r, "group", 1))
                    if r.op_type == "ConvTranspose" and axis == 1:
                        return weight.shape[0]
                    if r.op_type == "Gemm" and axis in (1, -1):
                        return weight.shape[1 if attribute(r, "transB", 0) else 0]
                    if r.op_type == "MatMul" and axis == -1:
                        return weight.shape[-2]
                elif is_op(r, "Clip", "DequantizeLinear", "QuantizeLinear", "Relu", "MaxPool"):
                    following.append(r.output[0])
        tensors = following
    return None


@lru_cache
def _interleaved(channels: int) -> tuple[Array, Array]:
    """One copy of every channel, beside it: spread evenly over any grouping, so that grouped layers show themselves."""
    origin, level = np.repeat(np.arange(channels), 2), np.tile([0, 1], channels)
    origin.flags.writeable = level.flags.writeable = False
    return origin, level


def _walk(graph: Graph, region: Region, axis: int, channels: int, shapes: Mapping[str, Shape]) -> Walk:
    origin, level = _interleaved(channels)
    wide = Wide(axis, origin, level, channels, region.quantizer, integer=False)
    stack: list[tuple[NodeProto, int, Wide, bool]] = [(n, 0, wide, False) for n in region.nodes]
    joined = False
    weights: dict[int, tuple[NodeProto, Array, float]] = {}
    dequantizers: dict[int, NodeProto] = {}
    leave = False
    folded: dict[tuple[int, str], tuple[NodeProto, str]] = {}
    carried: list[NodeProto] = []
    groups, depthwise, unranked, seen = 1, False, False, set()
    while stack:
        node, index, at, mixed = stack.pop()
        if (id(node), index) in seen:
            continue
        seen.add((id(node), index))
        r: Route = route(graph, node, index, at, shapes)
        if r.kind in ("weight", "grouped", "depthwise"):
            weights[id(node)] = (node, at.origin[at.level == 1], at.factor)
        if r.kind in ("grouped", "depthwise"):
            g = int(attribute(node, "group", 1))
            if g == at.narrow:
                depthwise = True
            elif at.narrow == channels:  # behind a Concat the groups are those of the joined channels
                groups = int(np.lcm(groups, g))
        if is_op(node, "DequantizeLinear") and r.kind == "carry":
            dequantizers[id(node)] = node
        leave = leave or (at.integer and r.kind == "fold")
        if r.kind == "fold":
            unranked = unranked or (at.axis >= 0 and node.input[index] not in shapes)
            folded[id(node), r.why] = (node, r.why)
        elif r.output is not None and node.output:
            if is_op(node, "QuantizeLinear") and not any(node is n for n in region.nodes):
                carried.append(node)
                joined = joined or mixed
            t = node.output[0]
            mixed = mixed or is_op(node, "Concat")
            leave = leave or (r.output.integer and (t in graph.outputs or bool(graph.captured(t))))
            stack += [
                (reader, k, r.output, mixed)
                for reader in graph.readers(t)
                for k, i in enumerate(reader.input)
                if i == t
            ]
    return Walk(
        axis=axis,
        channels=channels,
        weights=tuple(n for n, _, _ in weights.values()),
        depthwise=depthwise,
        groups=groups,
        folded=tuple(folded.values()),
        carried=tuple(carried),
        columns=tuple(c for _, c, _ in weights.values()),
        factors=tuple(f for _, _, f in weights.values()),
        dequantizers=tuple(dequantizers.values()),
        integers_leave=leave,
        joined=joined,
        unranked=unranked,
    )
