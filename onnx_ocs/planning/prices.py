"""What copies cost in time: a model of cost for every region, in the form that its copies would have there.

    time(n copies) = start + n * each

A region is cut out with what makes and what reads it, from quantizer to quantizer, as it is, with a copy of some
channels and with one of all.  The three take turns in the target's runtime for some milliseconds, and the shortest
runs count: float nodes, lost kernels and Transposes are in them, whatever they are.  Prices are shares of the whole
model's time, so they are those of the machine that plans.  What is too short to be told from noise costs half of what
its multiply-accumulates would at the model's pace, never nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.calibration.context import Progress
from onnx_ocs.measurement.latency import shortest
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.model.shapes import Shape
from onnx_ocs.planning.candidates import Candidate
from onnx_ocs.regions.region import Key, Region
from onnx_ocs.runtime.instrument import piece
from onnx_ocs.targets.timing import Timing
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.widen import widened

__all__ = ["Price", "find_prices"]

SHARE = 4  # every fourth channel gets a copy in the first measurement
ROUNDS = 9  # of runs of each model, at most
FEWEST = 3  # and at least
LEAST = 0.5  # of the pace of the whole model, at least
SECONDS = 0.2  # of one region's runs


@dataclass(frozen=True)
class Price:
    """What the copies of one region cost, as shares of the model's time.

    Attributes:
        start: of the first copy: nodes that stand there, however many copies there are.
        each: of every copy.
    """

    start: float
    each: float

    def of(self, copies: int) -> float:
        """What so many copies cost."""
        return self.start + copies * self.each if copies else 0.0


def find_prices(
    model: onnx.ModelProto,
    graph: Graph,
    shapes: Mapping[str, Shape],
    candidates: Iterable[Candidate],
    total: int,
    feed: Mapping[str, Array],
    on: Timing,
    progress: Progress,
) -> dict[int, Price]:
    """Measure the price of every candidate that may get copies, by index of its region.

    Args:
        model: the model.
        graph: its graph, not edited.
        shapes: shapes for one sample.
        candidates: the candidates.
        total: multiply-accumulates of the model.
        feed: one sample.
        on: the runtime.
        progress: called during the work.

    Returns:
        Prices; a region that cannot be cut out costs by its multiply-accumulates, at the pace of the whole model.
    """
    wanted = [c for c in candidates if c.shares]
    whole = shortest([model], feed, ROUNDS, SECONDS, FEWEST, on) if wanted else None
    found = {}
    for done, c in enumerate(wanted):
        progress("timing tensors", done, len(wanted))
        price, pace = None if whole is None else _price(graph, shapes, c, on), c.macs / max(total, 1)
        if whole is None or price is None:
            found[c.index] = Price(0.0, pace)
        else:
            found[c.index] = Price(price.start / whole[0], max(price.each / whole[0], LEAST * pace))
    progress("timing tensors", len(wanted), len(wanted))
    return found


def _price(graph: Graph, shapes: Mapping[str, Shape], c: Candidate, on: Timing) -> Price | None:
    """The price in seconds; None where the region cannot be cut out."""
    region, channels = c.region, c.region.walk.channels
    cutout = _neighbourhood(graph, shapes, region)
    if cutout is None:
        return None
    model, feed = cutout
    some = np.zeros(channels, np.int64)
    some[:: 1 if c.uniform else SHARE] = 1
    models = [model]
    for copies in (some, np.ones_like(some)):
        new = _copied(model, c, copies)
        if new is None:
            return None
        models.append(new)
    took = shortest(models, feed, ROUNDS, SECONDS, FEWEST, on)
    if took is None:
        return None
    few, many = max(took[1] - took[0], 0.0), max(took[2] - took[0], 0.0)
    if c.uniform:
        return Price(0.0, min(few, many) / channels)
    n = int(some.sum())
    each = max(many - few, 0.0) / max(channels - n, 1)
    return Price(max(few - n * each, 0.0), each)


def _copied(model: onnx.ModelProto, c: Candidate, copies: Array) -> onnx.ModelProto | None:
    """The cut-out with copies; None where the region is another one there."""
    there = False

    def decide(_graph: Graph, of: Mapping[Key, Region]) -> list[Decision]:
        nonlocal there
        region = of.get(c.region.key)
        there = region is not None and region.walk.channels == copies.size
        return [Decision(region, c.mode, copies, 0 * copies)] if region is not None and there else []

    new = widened(model, decide)
    return new if there else None


def _neighbourhood(
    graph: Graph, shapes: Mapping[str, Shape], region: Region
) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """What makes and what reads a region, from quantizers to quantizers, and what to feed it; None without shapes."""
    kept: dict[int, NodeProto] = {}
    cut: set[str] = set()

    def back(tensor: str) -> None:
        node = graph.producer.get(tensor)
        if node is None:
            if tensor in graph.inputs:
                cut.add(tensor)
        elif id(node) not in kept:
            kept[id(node)] = node
            for t in node.input:
                if is_op(node, "QuantizeLinear") and not graph.is_constant(t):
                    cut.add(t)  # another quantized activation: fed from outside
                elif t:
                    back(t)

    ends: list[str] = []
    waiting = [o for n in region.nodes for o in n.output]
    back(region.tensor)
    kept |= {id(n): n for n in region.nodes}
    while waiting:
        tensor = waiting.pop()
        readers = graph.readers(tensor)
        if not readers or tensor in graph.outputs:
            ends.append(tensor)
        for n in readers:
            stops = is_op(n, "QuantizeLinear") and id(n) not in {id(q) for q in region.walk.carried}
            if id(n) not in kept:
                kept[id(n)] = n
                for t in n.input:
                    if t and not graph.is_constant(t):
                        back(t)
                waiting += [] if stops else [o for o in n.output if o]
                ends += [str(n.output[0])] if stops else []
    inside = {o for n in kept.values() for o in n.output}
    fed = {t: _example(shapes.get(t), region) for t in cut - inside}
    if any(v is None for v in fed.values()) or not ends:
        return None
    examples = {t: v for t, v in fed.items() if v is not None}
    nodes = [n for n in graph.nodes if id(n) in kept]
    constants = _constants(graph, nodes, inside | examples.keys())
    model = piece(graph, [*constants, *nodes], examples, [*dict.fromkeys(ends)])
    for i in model.graph.input:
        for d, size in zip(i.type.tensor_type.shape.dim, examples[i.name].shape, strict=True):
            d.dim_value = size
    return model, {i.name: examples[i.name] for i in model.graph.input}


def _constants(graph: Graph, nodes: Sequence[NodeProto], known: Iterable[str]) -> list[NodeProto]:
    """The nodes that make the constants that these read, in order."""
    seen, found = set(known), dict[int, NodeProto]()
    waiting = [t for n in nodes for t in n.input if t and t not in seen]
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is not None and id(node) not in found:
            found[id(node)] = node
            waiting += [t for t in node.input if t]
    return [n for n in graph.nodes if id(n) in found]


def _example(shape: Shape | None, region: Region) -> Array | None:
    sizes = [d for d in shape or () if isinstance(d, int) and d > 0]
    if shape is None or len(sizes) != len(shape):
        return None
    return np.asarray(np.random.default_rng(0).normal(size=sizes), region.quantizer.float_dtype)
