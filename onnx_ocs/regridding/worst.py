"""Which quantizers get 16 bits: those that cost the outputs most for the time that 16 bits cost.

A quantizer costs what it does to the outputs alone, all others off.  16 bits cost the integer kernels of the layers
around it: onnxruntime has none for them, so these layers run in float.  Their multiply-accumulates are the price, and
a multiply-accumulate takes what was measured for all tensors together.  A runtime that computes with 16 bits as fast,
or no limit of time: the price is nothing.

Tensors are taken in the order of cost per price as long as the time holds.  Of this list the first n get 16 bits: the
fewest than which no more are surely better, on samples that nothing was chosen on, at every output
(`onnx_ocs.measurement.gate`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.calibration.judging import Judging
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.cost import layer_macs
from onnx_ocs.measurement.gate import Judge, Rule
from onnx_ocs.measurement.latency import compared, decided
from onnx_ocs.measurement.yardstick import Yardstick, outputs_of
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.model.shapes import Shape, infer_shapes
from onnx_ocs.probes.switchboard import Switchboard, narrow
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.regions.region import Key, Quantized, Region
from onnx_ocs.regridding.grids import Grid

__all__ = ["Candidate", "damages", "fewest", "judged", "layers_around", "priced", "within"]

_LOG = logging.getLogger("onnx_ocs.regridding")
Feed = Mapping[str, Array]
Losses = tuple[Array, float]
HARMLESS = 1e-3  # share of all damage below which a quantizer is not worth 16 bits
BOLD = 4.0  # by what more is tried at first than prices allow
LESS = 0.8  # by what it is less each time that the time does not hold
LEAST_TIME = 1e-3  # of the time, or of all prices: nothing
ELEMENT = 16  # multiply-accumulates that an element of a tensor counts for: what is no layer runs in float, too


@dataclass(frozen=True, eq=False)
class Candidate:
    """A quantizer that may get 16 bits.

    Attributes:
        key: of its region.
        grid: of 16 bits.
        damage: what it costs the outputs.
        layers: multiply-accumulates of the layers that lose their integer kernels, by what they write.
        size: elements of the tensor.
    """

    key: Key
    grid: Grid
    damage: float
    layers: Mapping[str, int] = field(default_factory=dict)
    size: int = 1

    def price(self, paid: Collection[str] = ()) -> int:
        """Multiply-accumulates that run in float for it, without those of layers that do so already."""
        return ELEMENT * self.size + sum(n for t, n in self.layers.items() if t not in paid)


def damages(
    model: onnx.ModelProto, regions: Sequence[Quantized], asked: Sequence[int], feeds: Sequence[Feed],
    truth: onnx.ModelProto, judging: Judging,
) -> Array | None:
    """What quantizers do to the outputs, each alone: squared errors, one number each.

    Args:
        model: the QDQ model; not changed.
        regions: all its regions.
        asked: which of them.
        feeds: what to run on.
        truth: the reference, which says what outputs count.
        judging: how much each output counts.

    Returns:
        (asked,); None where onnxruntime does not run the model switch by switch.
    """
    outputs = [o for o in outputs_of(truth, model, judging) if o.weight > 0]
    try:
        board = Switchboard(model, regions, infer_shapes(model), outputs=[o.name for o in outputs], only=asked)
    except UserError as e:
        _LOG.warning("what quantizers cost cannot be told: %s", e)
        return None
    yardstick = Yardstick(outputs, [board.run(f, {}) for f in feeds])
    found = []
    for k in asked:
        q = regions[k].quantizer
        assert q is not None
        on = {k: narrow(q)}
        found.append(sum((yardstick.noise(i, board.run(f, on)) for i, f in enumerate(feeds)), np.zeros(1)))
    return yardstick.together(np.asarray(found))


def layers_around(graph: Graph, region: Region, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The layers that write a tensor, and those that read it, up to the next quantizers.

    Args:
        graph: the graph.
        region: the tensor's.
        shapes: of all tensors, for one sample.

    Returns:
        Multiply-accumulates, by what each layer writes.
    """
    back = _until_layers(region.tensor, lambda t: _maker(graph.producer.get(t)), lambda n: n.input)
    on = [
        n for d in region.walk.dequantizers
        for n in _until_layers(str(d.output[0]), lambda t: _takers(graph.readers(t)), lambda n: n.output)
    ]  # fmt: skip
    return {str(n.output[0]): layer_macs(n, shapes) for n in (*back, *on)}


def _maker(node: NodeProto | None) -> list[NodeProto]:
    """Who writes a tensor, up to a quantizer."""
    return [] if node is None or is_op(node, "DequantizeLinear") else [node]


def _takers(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Who reads a tensor, up to a quantizer."""
    return [n for n in nodes if not is_op(n, "QuantizeLinear")]


def _until_layers(
    start: str, around: Callable[[str], Sequence[NodeProto]], onward: Callable[[NodeProto], Sequence[str]]
) -> list[NodeProto]:
    """The first layers that are met from a tensor on."""
    waiting, seen, found = [start], {start}, list[NodeProto]()
    while waiting:
        for n in around(waiting.pop()):
            if is_layer(n):
                found.append(n)
                continue
            more = [t for t in onward(n) if t and t not in seen]
            seen.update(more)
            waiting += more
    return found


def priced(candidates: Sequence[Candidate], room: float | None) -> list[Candidate]:
    """Candidates in the order in which they are taken; without those that cost nothing, or find no room.

    Args:
        candidates: the candidates.
        room: the share of all their price together that may be paid; None: it is nothing.
    """
    least = HARMLESS * sum(c.damage for c in candidates)
    left, taken, paid, spent = [c for c in candidates if c.damage > least], list[Candidate](), set[str](), 0
    if room is None:
        return sorted(left, key=lambda c: -c.damage)
    everything = {t: n for c in candidates for t, n in c.layers.items()}
    most = room * (sum(everything.values()) + ELEMENT * sum(c.size for c in candidates))
    while left:
        best = max(left, key=lambda c: c.damage / c.price(paid))
        left.remove(best)
        if spent + best.price(paid) <= most:
            spent += best.price(paid)
            paid.update(best.layers)
            taken.append(best)
    return taken


def within(
    original: onnx.ModelProto, candidates: Sequence[Candidate], made: Callable[[Sequence[Candidate]], onnx.ModelProto],
    limit: float, feed: Feed,
) -> list[Candidate]:
    """Candidates in order, as many as the time allows: measured for all, chosen by price, measured until it holds.

    Prices are rough, so more is tried first than they allow.

    Args:
        original: what is timed against.
        candidates: all of them.
        made: the model with 16 bits for some.
        limit: the most time, as a ratio to the original's.
        feed: one sample.
    """
    whole = compared(original, made(candidates), feed)
    everything = priced(candidates, 1.0)
    if whole is None or whole.holds(limit):  # what cannot be timed now will not be timed in the end
        return everything
    room, tried = BOLD * max(limit - 1, 0.0) / max(whole.ratio - 1, LEAST_TIME), everything
    while order := priced(candidates, min(room, 1.0)):
        if len(order) < len(tried):
            tried = order
            if _holds(original, made(order), limit, feed):
                return order
        room *= LESS
        if room < LEAST_TIME:
            return []
    return []


def _holds(original: onnx.ModelProto, model: onnx.ModelProto, limit: float, feed: Feed) -> bool:
    """Whether a model holds a limit of time; measured again, and longer, where one measurement cannot tell."""
    took = decided(lambda seconds: compared(original, model, feed, seconds), limit)
    return took is None or took.holds(limit)


def fewest(
    count: int, losses: Callable[[int], Losses], weights: Array | None = None, slack: Array | float = 0.0
) -> int:
    """How many of a list, from the first: the fewest than which no more are surely better.

    Args:
        count: how many there are.
        losses: errors (parts, feeds) and the user's metric with the first n.
        weights: how much each part counts; default: all alike.
        slack: what a part's error may rise by.
    """
    known = cache(losses)

    def better(more: int, fewer: int) -> bool:
        return Rule(known(fewer), weights, slack).stands(known(more))

    if not known(0)[0].size:
        return 0
    low = high = 0
    n = 1
    while n <= count:
        if better(n, high):
            low, high = high, n
        n = 2 * n if n == count or 2 * n < count else count
    while high - low > 1:
        middle = (low + high) // 2
        if better(high, middle) or not better(middle, 0):
            low = middle
        else:
            high = middle
    return high


def judged(
    truth: onnx.ModelProto, model: onnx.ModelProto, feeds: Sequence[Feed], judging: Judging, count: int,
    made: Callable[[int], onnx.ModelProto],
) -> int:
    """`fewest`, on samples.

    Args:
        truth: the reference.
        model: the model without 16 bits.
        feeds: what nothing was chosen on.
        judging: which outputs count, and the user's metric.
        count: how many candidates there are.
        made: the model with the first n.
    """
    judge = Judge(truth, model, lambda: feeds, lambda _: None, judging)
    scale = judge.yardstick
    return fewest(count, lambda n: judge.losses(made(n) if n else model), scale.weights, scale.slack())
