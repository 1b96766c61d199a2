"""The worst quantizers get 16 bits: found, chosen, stored, told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import prod
from typing import Any

import onnx

from onnx_ocs.calibration.feed import one_sample
from onnx_ocs.calibration.judging import Judging
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.measurement.cost import cost
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass
from onnx_ocs.records.grids import Edit, record_edits
from onnx_ocs.records.history import stamp
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Key, Quantized, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regridding.bits16 import BYTE, check_16, grid_16, to_16
from onnx_ocs.regridding.entries import sixteen_entry
from onnx_ocs.regridding.grids import Grid
from onnx_ocs.regridding.seen import extremes
from onnx_ocs.regridding.worst import Candidate, damages, judged, layers_around, priced, within

__all__ = ["MOST", "Lengthening", "Shorts", "stored_16"]

FEWEST, MOST = 16, 64  # feeds that choices are judged on
WORK = 4e10  # multiply-accumulates of one judgement
WEIGHED = 4  # feeds on which it is measured what a quantizer costs


def stored_16(
    model: onnx.ModelProto, grids: Mapping[Key, Grid], by: Pass, bounded: Bounded, original: Graph | None = None
) -> onnx.ModelProto:
    """A copy of a model in which quantizers have 16 bits.

    Args:
        model: the model; not changed.
        grids: by the regions' keys, which have been checked.
        by: the pass; its name and version are written on all that is edited.
        bounded: which tensors the float model bounds at 6.
        original: the graph before the run, where steps may have changed since.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    edits: list[Edit] = []
    followed: set[int] = set()  # quantizers that carry another one on
    for r in find_regions(graph, infer_shapes(new), bounded=bounded):
        if isinstance(r, Region) and r.key in grids and followed.isdisjoint(map(id, r.nodes)):
            edits += to_16(graph, r, grids[r.key], original)
            followed |= {id(n) for n in r.walk.carried}
    graph.commit(lambda node: stamp(node, by.name, by.version))
    record_edits(new, edits)
    return new


@dataclass(frozen=True)
class Shorts:
    """What quantizers of 16 bits may be like.

    Attributes:
        types: of activations that the target takes.
        limit: the most time, as a ratio to the original's; None: they cost none, or nobody counts it.
    """

    types: frozenset[str]
    limit: float | None


@dataclass(frozen=True, eq=False)
class Lengthening:
    """What quantizers of 16 bits are chosen with.

    Attributes:
        original: the model that is timed against.
        truth: the reference.
        learn: samples to choose from.
        judge: samples that nothing is chosen on.
        judging: which outputs count, and the user's metric.
        shorts: what may be.
        by: the pass.
        bounded: which tensors the float model bounds at 6.
    """

    original: onnx.ModelProto
    truth: onnx.ModelProto
    learn: Samples
    judge: Samples
    judging: Judging
    shorts: Shorts
    by: Pass
    bounded: Bounded

    @cached_property
    def _before(self) -> Graph:
        """The original's graph."""
        return Graph(self.original)

    def run(
        self, model: onnx.ModelProto, graph: Graph, regions: Sequence[Quantized], plain: onnx.ModelProto
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Give quantizers 16 bits where that surely pays, in place.

        Args:
            model: the model.
            graph: its graph.
            regions: its regions.
            plain: it without activation quantizers.

        Returns:
            The report's entries, one for each quantizer that has 16 bits now or cannot have; and what is to be told.

        Raises:
            UserError: the model does not run on the samples.
        """
        grids, refused = self._possible(graph, regions, plain)
        feeds = list(self.learn.batches(1))
        found = self._candidates(model, graph, regions, grids, feeds)
        if found is None:
            return refused, ["16 bits: what each quantizer costs cannot be told, so none was chosen"]
        order = self._affordable(model, found, feeds[0])
        held_out = list(islice(self.judge.batches(1), self._judged(model, feeds[0])))
        count = 0
        if order:
            count = judged(
                self.truth, model, held_out, self.judging, len(order), lambda n: self._made(model, order[:n])
            )
        told = [_told(count, len(order), len(found), self.shorts.limit)]
        if not count:
            return refused, told
        chosen = {c.key: c.grid for c in order[:count]}
        model.CopyFrom(self._made(model, order[:count]))
        entries = [sixteen_entry(self.by.name, r, chosen[r.key]) for r in regions if r.key in chosen]
        return [*entries, *refused], told

    def _judged(self, model: onnx.ModelProto, feed: Mapping[str, Array]) -> int:
        """On how many feeds choices are judged: the larger the model, the fewer, on any machine."""
        macs = cost(model, {k: v.shape for k, v in feed.items()}, kernels=False).macs
        return max(FEWEST, min(MOST, int(WORK / max(macs, 1))))

    def _made(self, model: onnx.ModelProto, chosen: Sequence[Candidate]) -> onnx.ModelProto:
        return stored_16(model, {c.key: c.grid for c in chosen}, self.by, self.bounded, self._before)

    def _possible(
        self, graph: Graph, regions: Sequence[Quantized], plain: onnx.ModelProto
    ) -> tuple[dict[int, Grid], list[dict[str, Any]]]:
        """The grids of those that can have 16 bits, by index; and entries of those that cannot."""
        grids: dict[int, Grid] = {}
        refused: list[dict[str, Any]] = []
        followed: set[int] = set()  # quantizers that carry another one on
        narrow = {k: r for k, r in enumerate(regions) if r.quantizer is not None and _is_narrow(r)}
        seen = extremes(plain, [r.tensor for r in narrow.values()], self.learn)
        for k, r in narrow.items():
            one = isinstance(r, Region) and r.quantizer.scale.size == 1
            grid = grid_16(r, seen.get(r.tensor)) if isinstance(r, Region) and one else None
            why = check_16(graph, r, grid, self.shorts.types)
            if isinstance(why, Refusal):
                refused.append(sixteen_entry(self.by.name, r, None, why))
            elif isinstance(r, Region) and grid is not None and followed.isdisjoint(map(id, r.nodes)):
                grids[k] = grid
                followed |= {id(n) for n in r.walk.carried}
        return grids, refused

    def _candidates(
        self, model: onnx.ModelProto, graph: Graph, regions: Sequence[Quantized], grids: Mapping[int, Grid],
        feeds: Sequence[Mapping[str, Array]],
    ) -> list[Candidate] | None:
        """What each costs the outputs, and in time; None where that cannot be told."""
        asked = [*grids]
        if not asked:
            return []
        cost = damages(model, regions, asked, [*islice(feeds, WEIGHED)], self.truth, self.judging)
        if cost is None:
            return None
        one = one_sample(model, feeds[0])
        shapes = infer_shapes(model, {k: v.shape for k, v in one.items()})
        found = []
        for k, damage in zip(asked, cost.tolist(), strict=True):
            r = regions[k]
            assert isinstance(r, Region)
            size = prod(d for d in shapes.get(r.tensor, ()) if isinstance(d, int))
            found.append(Candidate(r.key, grids[k], damage, layers_around(graph, r, shapes), size))
        return found

    def _affordable(
        self, model: onnx.ModelProto, found: Sequence[Candidate], feed: Mapping[str, Array]
    ) -> list[Candidate]:
        """The candidates in order, as far as the time allows."""
        if self.shorts.limit is None or not found:
            return priced(found, None)
        one = one_sample(model, feed)
        return within(self.original, found, lambda chosen: self._made(model, chosen), self.shorts.limit, one)


def _is_narrow(region: Quantized) -> bool:
    """Whether a quantizer has 8 bits or fewer, so that 16 would be more."""
    q = region.quantizer
    return q is not None and q.qmax - q.qmin <= BYTE


def _told(count: int, affordable: int, found: int, limit: float | None) -> str:
    """What was chosen, and why no more."""
    if not found:
        return "16 bits: no quantizer can have them"
    left = f"16 bits: {count} of {found} quantizers that can have them"
    if count < affordable:
        return f"{left}; more are not surely better on unseen samples"
    if count < found:
        time = "" if limit is None else f", or would take over x {limit:g} of the time"
        return f"{left}; the others cost next to nothing{time}"
    return left
