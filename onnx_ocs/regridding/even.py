"""Channels get gains where that pays: what is free first, then products of their own, where time and kernels allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import onnx

from onnx_ocs.calibration.feed import one_sample
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.measurement.latency import compared, decided
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass
from onnx_ocs.regions.region import Quantized
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regridding.absorb import Absorbing, absorbing, inserting
from onnx_ocs.regridding.entries import gains_entry
from onnx_ocs.regridding.gains import gained
from onnx_ocs.regridding.octaves import Chosen, Seen, choose, look
from onnx_ocs.regridding.seen import tensors_of
from onnx_ocs.targets.ort import operators
from onnx_ocs.targets.timing import ONNXRUNTIME, Timing

__all__ = ["Evening", "Products"]

TRIED = 16  # sets of tensors
ROOM = 1 << 29  # bytes of tensors of one sample that are looked at together
FREE, PAID = 0.1, 0.5  # decibels that gains must bring at the outputs


@dataclass(frozen=True)
class Products:
    """What products in front of quantizers may cost.

    Attributes:
        limit: the most time, as a ratio to the original's; None: nobody counts it.
        on: the runtime that is timed.
    """

    limit: float | None
    on: Timing = ONNXRUNTIME


@dataclass(frozen=True, eq=False)
class Evening:
    """What gains are chosen with.

    Attributes:
        original: the model that is timed against.
        learn: samples to choose from.
        compared: models beside the reference, on samples that nothing is chosen on.
        gain: decibels that the second wins over the first, at all outputs; None where one is worse.
        by: the pass.
        bounded: which tensors the float model bounds at 6.
    """

    original: onnx.ModelProto
    learn: Samples
    compared: Callable[[onnx.ModelProto], Quality]
    gain: Callable[[Quality, Quality], float | None]
    by: Pass
    bounded: Bounded

    @cached_property
    def _before(self) -> Graph:
        return Graph(self.original)

    def run(
        self, model: onnx.ModelProto, graph: Graph, regions: Sequence[Quantized], plain: onnx.ModelProto,
        products: Products | None,
    ) -> list[dict[str, Any]]:
        """Give channels gains, in place.

        Args:
            model: the model.
            graph: its graph.
            regions: its regions.
            plain: it without activation quantizers.
            products: what products of their own may cost; None: there may be none.

        Returns:
            The report's entries, one for each tensor whose channels have gains now.

        Raises:
            UserError: the model does not run on the samples.
        """
        free = {r.tensor: a for r in regions if (a := absorbing(graph, r)) is not None}
        rest = [] if products is None else [r for r in regions if r.tensor not in free]
        paid = {r.tensor: a for r in rest if (a := inserting(graph, r)) is not None}
        seen = self._seen(plain, {**free, **paid})
        before: Quality | None = None
        entries: list[dict[str, Any]] = []
        for able, least, cost in ((free, FREE, None), (paid, PAID, products)):
            chosen = _chosen(graph, able, seen)
            if cost is not None:
                chosen = self._affordable(model, chosen, cost)
            if chosen:
                before = before or self.compared(model)
                before, new = self._kept(model, chosen, before, least)
                entries += new
        return entries

    def _seen(self, plain: onnx.ModelProto, able: Mapping[str, Absorbing]) -> dict[str, Seen]:
        """What is seen of tensors, of as many at a time as there is room for."""
        found: dict[str, Seen] = {}
        if not able:
            return found
        feed = next(iter(self.learn.batches(1)))
        shapes = infer_shapes(plain, {k: v.shape for k, v in feed.items()})
        sizes = {t: 4 * prod(d for d in shapes.get(t, ()) if isinstance(d, int)) for t in able}
        some: list[str] = []
        for t in (*able, ""):
            if some and (not t or sum(sizes[s] for s in some) + sizes[t] > ROOM):
                found |= look(tensors_of(plain, some, self.learn), able)
                some = []
            some.append(t)
        return found

    def _kept(
        self, model: onnx.ModelProto, chosen: list[Chosen], before: Quality, least: float
    ) -> tuple[Quality, list[dict[str, Any]]]:
        """Keep what the outputs gain by, in place: all together, else halves of them."""
        entries: list[dict[str, Any]] = []
        parts, tried = [chosen], 0
        while parts and tried < TRIED:
            some, tried = parts.pop(), tried + 1
            new, done = gained(model, some, self.by, self.bounded, self._before)
            after = self.compared(new) if done else before
            won = self.gain(before, after) if done else None
            if won is not None and won > least:
                entries += [gains_entry(self.by.name, c) for c in some if c.absorbing.region.key in done]
                before = after
                model.CopyFrom(new)
            elif len(some) > 1:
                parts += [some[len(some) // 2 :], some[: len(some) // 2]]
        return before, entries

    def _affordable(self, model: onnx.ModelProto, chosen: list[Chosen], products: Products) -> list[Chosen]:
        """Products that cost no integer operator, and hold the limit of time; the best of them where not all do."""
        order = sorted(chosen, key=lambda c: -c.smaller)
        if not order:
            return []
        was = operators(model)
        feed = one_sample(model, next(iter(self.learn.batches(1))))
        while order:
            new, _ = gained(model, order, self.by, self.bounded, self._before)
            now = operators(new)
            fast = was is None or now is None or not was.lost(now)
            if fast and self._holds(new, feed, products):
                return order
            order = order[: len(order) // 2]
        return []

    def _holds(self, model: onnx.ModelProto, feed: Mapping[str, Any], products: Products) -> bool:
        """Whether a model is not surely beyond the limit of time: a product costs little, noise of a machine more."""
        limit = products.limit
        if limit is None:
            return True
        took = decided(lambda seconds: compared(self.original, model, feed, seconds, products.on), limit)
        return took is None or not took.exceeds(limit)


def _chosen(graph: Graph, able: Mapping[str, Absorbing], seen: Mapping[str, Seen]) -> list[Chosen]:
    """The gains that are worth it."""
    found = (choose(graph, a, seen[t]) for t, a in able.items() if t in seen)
    return [c for c in found if c is not None]
