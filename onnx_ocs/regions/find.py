"""Find the regions of a model: one for each quantized activation, readable or refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.activation import LEAST, recognise
from onnx_ocs.qdq.intervals import Interval, both_bounds
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.full import find_full
from onnx_ocs.regions.producer import find_early
from onnx_ocs.regions.region import COARSEST, Quantized, Region, Unreadable, Walk
from onnx_ocs.regions.relu6 import RELU6, Bounded, relu6_in
from onnx_ocs.regions.walk import best_walk

__all__ = ["find_regions", "folded_bounds", "guessed_bounds"]

GUESS = ", by a guess: no folded range of the model is larger than 6"
BARELY = 1.02  # values that leave the range by less than this factor are not worth a copy


def find_regions(
    graph: Graph, shapes: Mapping[str, Shape], refusal: str | None = None, bounded: Bounded | None = None
) -> list[Quantized]:
    """All quantized activations of the main graph, in topological order.

    Args:
        graph: the graph.
        shapes: its tensors' shapes, as far as known.
        refusal: a code of `CATALOGUE` with which all are refused unseen.
        bounded: which tensors the float model bounds at 6 (`folded_bounds`); for others that is guessed.

    Returns:
        One for each float tensor and each distinct grid on it; weights (constants) are left out.
    """
    grouped = _grouped(graph)
    if refusal is not None:
        return [
            _unreadable(graph, t, q, nodes, Refusal.of(refusal, label(nodes[0])))
            for t, found in grouped.items()
            for q, nodes in found
        ]
    bounds = both_bounds(graph, grouped)
    relu6 = dict.fromkeys(_suspects(graph, grouped)) | dict(bounded or {})
    return [
        _unreadable(graph, t, q, nodes, q)
        if isinstance(q, Refusal)
        else _region(graph, t, q, nodes, shapes, bounds[t], relu6)
        for t, found in grouped.items()
        for q, nodes in found
    ]


def folded_bounds(model: onnx.ModelProto, floats: onnx.ModelProto | None) -> Bounded:
    """Which tensors the float model bounds at 6, among those that may hold a folded ReLU6.

    Args:
        model: the QDQ model.
        floats: the float model; None where it is not at hand.
    """
    if floats is None:
        return {}
    graph = Graph(model)
    suspects = _suspects(graph, _grouped(graph))
    return relu6_in(graph, suspects, floats) if suspects else {}


def guessed_bounds(model: onnx.ModelProto, bounded: Bounded) -> list[str]:
    """Tensors that are taken for ReLU6s without the float model's word (see `folded_bounds`)."""
    graph = Graph(model)
    return [t for t in _suspects(graph, _grouped(graph)) if t not in bounded]


def _suspects(graph: Graph, grouped: Mapping[str, list[tuple[Quantizer | Refusal, list[NodeProto]]]]) -> list[str]:
    """Tensors whose quantizer may hold a ReLU6: its saturation is the activation, and the largest such range is 6."""
    implicit = {
        t: float(q.x_clip.max())
        for t, found in grouped.items()
        for q, _ in found
        if isinstance(q, Quantizer) and _implicit(graph, t, q)
    }
    top = max(implicit.values(), default=0.0)
    return list(implicit) if RELU6 * (1 - 1e-3) <= top <= RELU6 * (1 + 1e-6) else []


def _grouped(graph: Graph) -> dict[str, list[tuple[Quantizer | Refusal, list[NodeProto]]]]:
    """The QuantizeLinear nodes on activations, by tensor and by grid."""
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
    return grouped


def _unreadable(
    graph: Graph, tensor: str, q: Quantizer | Refusal, nodes: Sequence[NodeProto], refusal: Refusal
) -> Unreadable:
    return Unreadable(
        tensor=tensor,
        nodes=tuple(nodes),
        outputs=tuple(n.output[0] for n in nodes),
        activation=recognise(graph, tensor),
        quantizer=q if isinstance(q, Quantizer) else None,
        refusal=refusal,
    )


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
    q: Quantizer,
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, Shape],
    bounds: tuple[Interval, Interval],
    suspected: Mapping[str, bool | None],
) -> Quantized:
    activation = recognise(graph, tensor)
    least = LEAST.get(activation.kind, -np.inf)
    interval, firm = ((max(lo, least), hi) for lo, hi in bounds)
    relu6 = _implicit(graph, tensor, q) and suspected.get(tensor, False) is not False
    guessed = relu6 and suspected[tensor] is None
    folded = relu6 or _is_gate(graph, tensor, q)
    walk = best_walk(graph, tensor, nodes, q, shapes)
    if isinstance(walk, Refusal):
        return replace(_unreadable(graph, tensor, q, nodes, walk), bounds=interval, folded=folded, guessed=guessed)
    shape = shapes.get(tensor)
    rank = None if shape is None else len(shape)
    early = find_early(graph, tensor, nodes, q, walk.axis, walk.channels, rank)
    if isinstance(early, Refusal) and early.code == "early_activation":
        early = find_full(graph, tensor, nodes, q, walk, rank) or early
    return Region(
        tensor=tensor,
        nodes=tuple(nodes),
        outputs=tuple(n.output[0] for n in nodes),
        activation=activation,
        quantizer=q,
        walk=walk,
        early=early,
        refusal=_nothing_to_save(nodes[0], q, interval, walk, relu6, guessed)
        if walk.weights
        else _unweighted(nodes[0], q, walk, rank),
        bounds=interval,
        firm=firm,
        folded=folded,
        guessed=guessed,
    )


def _unweighted(node: NodeProto, q: Quantizer, walk: Walk, rank: int | None) -> Refusal:
    """Why a tensor that no layer with a weight reads gets no copies, or only where it is planned."""
    readers = ", ".join(dict.fromkeys(f"{n.op_type} {label(n)}" for n, _ in walk.folded)) or "nobody"
    placed = rank is not None and walk.axis >= 0 and not walk.unranked and not walk.integers_leave
    several = walk.channels > 1 and q.scale.size == 1 and bool(walk.dequantizers) and bool(walk.folded)
    foldable = placed and several and not _imprecise(q) and not np.all(q.zero_point == q.qmax)
    return Refusal.of("fold_only" if foldable else "no_weight_consumer", label(node), f" (but {readers})")


def _imprecise(q: Quantizer) -> bool:
    """Whether the float type misses X_clip by too much for copies to begin there."""
    with np.errstate(over="ignore"):  # behind a mask with the smallest float
        most = np.asarray(q.x_clip).astype(q.float_dtype).astype(np.float64)
    return bool(np.max(np.abs(most - q.x_clip) / q.scale) > COARSEST)


def _nothing_to_save(
    node: NodeProto, q: Quantizer, bounds: Interval, walk: Walk, relu6: bool, guessed: bool
) -> Refusal | None:
    """Why copies would hold nothing, or what they hold never existed."""
    lo, hi = bounds
    at, top, low = label(node), float(q.x_clip.min()), float(q.x_low.min())
    if hi <= top * BARELY and (lo >= -low * BARELY or q.rectifies):
        return Refusal(
            "never_clipped", f"values lie in [{lo:.6g}, {hi:.6g}], the quantizer expresses up to {top:.6g}", at
        )
    if relu6 and float(q.x_clip.max()) > RELU6 / 2:
        return Refusal(
            "folded_bound",
            "a ReLU6 is folded into this quantizer: values above 6 never existed" + GUESS * guessed,
            at,
        )
    if _imprecise(q):
        return Refusal("half_precision", f"{q.float_dtype} cannot hold X_clip {top:.6g} to within {COARSEST} steps", at)
    if np.all(q.zero_point == q.qmax) and hi > 0:
        return Refusal.of("one_sided", at)
    return None
