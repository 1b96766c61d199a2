"""What the planner solves: regions that may change, what copies cost, and tables of what errors are left.

All parts are frozen.  A problem on other samples, without some regions, or with measured damage, is another problem.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from onnx_ocs.calibration.histogram import smoothed
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.measurement.cost import layer_macs
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import Shape
from onnx_ocs.planning.candidates import Candidate, find_candidates, room
from onnx_ocs.planning.choices import Choice, Choices, Spent
from onnx_ocs.planning.curve import Savings, savings
from onnx_ocs.planning.distortion import Table, tabulate
from onnx_ocs.planning.foldable import find_foldable
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.peaks import Ladder, find_ladders
from onnx_ocs.planning.plan import PlannedRegion
from onnx_ocs.planning.prices import Price
from onnx_ocs.probes.switchboard import Setting, narrow
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import Quantized
from onnx_ocs.runtime.threads import side_by_side
from onnx_ocs.translation.decision import Mode

__all__ = ["LEARNT", "Problem", "Tables", "copies_of", "pose"]

CELLS = 1 << 21  # channels times numbers of copies: with some 20 steps each takes 1.2 KB of tables and savings
LEARNT = 0  # the half of the samples that plans are made from; they are judged on the other
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Tables:
    """Errors of one candidate on some samples, by its steps.

    Attributes:
        errors: for each step a table.
        rooms: for each step the most copies on the upper and the lower side.
        half: the samples that they were made from (`Statistics.histogram`).
        prepared: what copies save, by most copies a channel; filled when it is first asked for.
    """

    errors: tuple[Table, ...]
    rooms: tuple[tuple[int, int], ...]
    half: int | None
    prepared: dict[int, Savings] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Problem:
    """Candidates, prices and tables.

    Attributes:
        regions: of the model.
        candidates: those that may be changed.
        statistics: histograms.
        base: MACs of every node, by id.
        channels: of all candidates that may get copies.
        mode: where the copies are made (`onnx_ocs.planning.options`).
        copies: most copies a channel.
        align: what the number of a tensor's channels, copies included, is to be a multiple of.
        tables: errors of every candidate, by index of its region (see `on`).
        prices: of the copies of every candidate in time, by index of its region; empty where nobody asks.
        foldable: the candidates with copies that are folded back for all readers, where they may have these.
        ladders: what may be done with tensors in which a few channels are far beyond the rest.
    """

    regions: Sequence[Quantized]
    candidates: tuple[Candidate, ...]
    statistics: Statistics
    base: Mapping[int, int]
    channels: int
    mode: Mode
    copies: int
    align: int
    tables: Mapping[int, Tables] = field(default_factory=dict)
    prices: Mapping[int, Price] = field(default_factory=dict)
    foldable: tuple[Candidate, ...] = ()
    ladders: tuple[Ladder, ...] = ()

    @cached_property
    def total(self) -> int:
        """MACs of the model."""
        return sum(self.base.values())

    # ---- other problems ---------------------------------------------------------------------------------------------

    def on(self, half: int | None, copies: bool = True) -> Problem:
        """The same with tables of the errors on some samples.

        Args:
            half: which half of the samples; None for all.
            copies: whether there may be copies.
        """
        part = self.statistics.part(half)
        samples = self.statistics.samples if part is None else self.statistics.counted[part]
        most = self.copies if copies else 0
        found = _each(lambda c: self._table(c, part, samples, most), self.candidates)
        return replace(self, tables={c.index: t for c, t in zip(self.candidates, found, strict=True)})

    def _table(self, c: Candidate, half: int | None, samples: int, most: int) -> Tables:
        h, q = self.statistics.histogram(c.index, half), c.region.quantizer
        rooms = tuple(room(c, step, most) for step in range(len(c.steps)))
        low, high = int((q.zero_point - q.qmin).max()), int((q.qmax - q.zero_point).max())
        scales = (float(q.scale.mean()) * c.steps).tolist()
        made = tabulate(h, smoothed(h, samples), scales, low, high, rooms, most, c.full, c.function)
        return Tables(tuple(made), rooms, half)

    def without(self, dropped: Collection[int]) -> Problem:
        """The same where some regions stay as they are."""
        return replace(self, candidates=tuple(c for c in self.candidates if c.index not in dropped))

    def damaged(self, damage: Mapping[int, float]) -> Problem:
        """The same with measured errors at the model's output, by index of the region."""
        one, other = (tuple(replace(c, damage=damage[c.index]) for c in of) for of in (self.candidates, self.foldable))
        known = {c.index: c for c in one}
        ladders = tuple(replace(p, candidate=known[p.candidate.index]) for p in self.ladders)
        return replace(self, candidates=one, foldable=other, ladders=ladders)

    def folding(self) -> Problem:
        """The problem of the copies that are folded back, with tables."""
        return replace(self, candidates=self.foldable, foldable=()).on(LEARNT)

    # ---- errors -----------------------------------------------------------------------------------------------------

    def savings(self, most: int) -> list[Savings]:
        """What copies save, at most so many a channel, for every candidate."""

        def prepare(c: Candidate) -> Savings:
            t = self.tables[c.index]
            if most not in t.prepared:
                t.prepared[most] = savings(c.readers, t.errors, t.rooms, most, c.uniform)
            return t.prepared[most]

        if all(most in self.tables[c.index].prepared for c in self.candidates):
            return [prepare(c) for c in self.candidates]
        return _each(prepare, self.candidates)

    def error(self, c: Candidate, choice: Choice | None) -> float:
        """J of what a plan does with a candidate."""
        tables, q = self.tables[c.index].errors, c.region.quantizer
        if choice is None:
            zero = np.zeros(len(c.readers.gain), np.int64)
            return c.readers.error(tables[c.own], zero, zero)
        factor = float(np.mean(choice.scale)) / float(np.mean(q.scale))
        return c.readers.error(tables[int(np.argmin(np.abs(c.steps - factor)))], choice.copies, choice.copies_low)

    # ---- plans ------------------------------------------------------------------------------------------------------

    def spend(self, copies: Mapping[int, int]) -> Spent:
        """What so many copies of regions cost."""
        into: dict[int, float] = {}
        out: dict[int, float] = {}
        for c in self.candidates:
            if c.index not in copies:
                continue
            n = copies[c.index]
            share = n / c.region.walk.channels
            for node, part in c.shares.items():
                into[node] = into.get(node, 0.0) + n * part
            if c.mode == "early" and isinstance(c.region.early, Early):
                out[id(c.region.early.layer)] = share
        macs = sum(b * (1 + into.get(k, 0.0)) * (1 + out.get(k, 0.0)) for k, b in self.base.items() if b)
        time = sum(self.prices[k].of(n) for k, n in copies.items() if k in self.prices)
        ratio = sum(copies.values()) / max(self.channels, 1)
        return Spent(macs / self.total - 1 if self.total else 0.0, ratio, time)

    def cost(self, choices: Choices) -> Spent:
        """What choices cost."""
        return self.spend({k: c.count for k, c in choices.items()})

    def settings(self, choices: Choices) -> dict[int, Setting]:
        """Switchboard settings of a plan: all quantizers on."""
        out = {}
        full = {c.index for c in self.candidates if c.full}
        for k, r in enumerate(self.regions):
            if r.quantizer is None:
                continue
            out[k] = narrow(r.quantizer)
            if k in choices:
                q, c = r.quantizer, choices[k]
                low, high = q.zero_point - q.qmin, q.qmax - q.zero_point
                each = (low + high, low + high) if k in full else (low, high)
                out[k] = Setting(c.scale, -(low + 1.0 * c.copies_low * each[0]), high + 1.0 * c.copies * each[1])
        return out

    def planned(self, choices: Choices) -> tuple[PlannedRegion, ...]:
        """The plan's entries; early copies that turn out to be impossible become late ones where the mode lets them."""
        early = "early only" if self.mode in ("early", "integer") else "early"
        modes = {c.index: early if c.mode == "early" else c.mode for c in self.candidates}
        entries = []
        for k, c in sorted(choices.items()):
            r = self.regions[k]
            entries.append(PlannedRegion(r.tensor, r.outputs, c.scale, c.copies, c.copies_low, modes[k]))
        return tuple(entries)

    def describe(self, choices: Choices) -> dict[str, Any]:
        """Cost of a plan, for the report."""
        macs, ratio, _time = self.cost(choices)
        return {"extra_macs": macs, "mean_copies": ratio, "regions": len(choices)}


def copies_of(options: PlanOptions, channels: int) -> int:
    """Most copies a channel in tables of so many channels, so that these fit memory; none where none may be bought."""
    most = CELLS // max(1, channels) - 1
    if options.copies <= most:
        return options.copies
    return 0 if options.budget == 0 else max(1, most)


def pose(
    graph: Graph,
    regions: Sequence[Quantized],
    shapes: Mapping[str, Shape],
    statistics: Statistics,
    options: PlanOptions,
) -> Problem:
    """Collect the candidates; without tables yet.

    Args:
        graph: the graph, not edited.
        regions: its regions.
        shapes: shapes for one sample.
        statistics: histograms.
        options: mode, limits, and what the user lets be changed.
    """
    base = {id(n): layer_macs(n, shapes) for n in graph.nodes}
    found = find_candidates(graph, regions, base, statistics, options)
    channels = sum(len(c.readers.gain) for c in found if c.shares)
    folds = find_foldable(graph, regions, found, shapes, statistics, options)
    ladders = find_ladders(graph, found, statistics, options)
    return Problem(
        regions, tuple(found), statistics, base, channels, options.mode, copies_of(options, channels), options.align,
        foldable=folds, ladders=ladders,
    )  # fmt: skip


@cache
def _libraries() -> ThreadpoolController:
    """What numpy multiplies with: to look for it takes longer than a small model's tables."""
    return ThreadpoolController()


def _each(work: Callable[[Candidate], T], candidates: Sequence[Candidate]) -> list[T]:
    """Do something for every candidate, side by side."""
    with _libraries().limit(limits=1, user_api="blas"):  # products with threads of their own would wait
        return side_by_side(work, candidates)
