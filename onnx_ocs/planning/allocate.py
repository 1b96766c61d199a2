"""The planner: win the bit where it pays, within a budget.

For every region a step and copies per channel, for the whole model a budget:

    minimise  sum over regions of lambda_r * J_r(step, copies)     subject to   cost(copies) <= budget

J is the error at the readers' outputs (`onnx_ocs.planning.distortion`).  lambda makes regions comparable: it is measured, as the
error at the *model's* output when that tensor alone is quantized, divided by its J.  The minimum is found by a
Lagrangian (rate-distortion allocation, Shoham and Gersho 1988): for a price per MAC every region chooses for itself;
the price is bisected until the budget is met.  Several plans are made (the paper's selection, same step, re-chosen
step) and the final word is measured: the objective on samples that the plan was not made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from onnx_ocs.calibration.histogram import Histogram, smoothed
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.measurement.cost import layer_macs
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import Shape
from onnx_ocs.planning.candidates import COARSER, Candidate, factors, find_candidates, room
from onnx_ocs.planning.curve import Curve
from onnx_ocs.planning.distortion import tabulate
from onnx_ocs.planning.plan import PlannedRegion
from onnx_ocs.probes.switchboard import Setting, narrow
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import Region
from onnx_ocs.runtime.threads import side_by_side
from onnx_ocs.translation.decision import Mode
from onnx_ocs.translation.selection import aligned

__all__ = ["Budget", "Choice", "Planner"]

HIGHEST = 1e38  # price at which nothing is bought (float32 holds it)
CLOSE = 1 + 1e-6  # losses that differ by less may both be the least


@dataclass(frozen=True)
class Budget:
    """How much may be spent: a share of the model's MACs, or a mean number of copies a channel."""

    macs: float | None = None
    ratio: float | None = None

    def allows(self, macs: float, ratio: float) -> bool:
        """Whether so much may be spent: a share of MACs, and mean copies a channel."""
        return (self.macs is None or macs <= self.macs + 1e-9) and (self.ratio is None or ratio <= self.ratio + 1e-9)

    def times(self, share: float) -> Budget:
        """A share of it."""
        return Budget(*(None if v is None else v * share for v in (self.macs, self.ratio)))


@dataclass(frozen=True, eq=False)
class Choice:
    """What a plan does with one region."""

    scale: Array
    copies: Array
    copies_low: Array


class Planner:
    """Regions, prices and distortions of one model; makes plans."""

    def __init__(
        self,
        graph: Graph,
        regions: Sequence[Region],
        shapes: Mapping[str, Shape],
        statistics: Statistics,
        mode: Mode,
        copies: int,
        allowed: Sequence[bool],
        align: int = 1,
    ) -> None:
        """Collect the candidates.

        Args:
            graph: the graph, not edited.
            regions: its regions.
            shapes: shapes for one sample.
            statistics: histograms.
            mode: where the copies are made (`onnx_ocs.planning.options`).
            copies: most copies a channel.
            allowed: for each region whether the user lets it be changed.
            align: what the number of a tensor's channels, copies included, is to be a multiple of.
        """
        self.graph, self.regions, self.copies, self.align, self.mode = graph, regions, copies, align, mode
        self.coarsest = COARSER  # largest factor by which a step may grow
        self.base = {id(n): layer_macs(n, shapes) for n in graph.nodes}
        self.total = sum(self.base.values())
        self.statistics = statistics
        self.most = copies  # of those that `prepare` has made ready
        self.histograms: dict[int, Histogram] = {}  # those that the tables were made from, by index of the region
        self.candidates = find_candidates(graph, regions, self.base, statistics, mode, allowed)
        self.channels = sum(len(c.readers.gain) for c in self.candidates if c.shares)

    def tabulate(self, rescale: bool, half: int | None = None, copies: bool = True) -> None:
        """Compute every candidate's errors, for its own step or for all that may be chosen.

        Args:
            rescale: whether other steps may be chosen.
            half: which half of the samples to take them from; None for all.
            copies: whether there may be copies.
        """
        most = self.copies if copies else 0
        for c in self.candidates:
            c.steps = np.unique(np.append(factors(self.graph, c.region, self.copies) if rescale else (), 1.0))
            c.rooms = [room(c, step, most) for step in range(len(c.steps))]
            c.savings, c.curves = {}, {}  # nothing is prepared for these tables
        part = self.statistics.part(half)
        samples = self.statistics.samples if part is None else self.statistics.counted[part]
        self._each(lambda c: self._tabulate(c, part, samples, most))

    def _tabulate(self, c: Candidate, half: int | None, samples: int, most: int) -> None:
        h, q = self.statistics.histogram(c.index, half), c.region.quantizer
        assert q is not None
        self.histograms[c.index] = h
        low, high = int((q.zero_point - q.qmin).max()), int((q.qmax - q.zero_point).max())
        scales = (float(q.scale.mean()) * c.steps).tolist()
        c.tables = tabulate(h, smoothed(h, samples), scales, low, high, c.rooms, most)

    def _each(self, work: Callable[[Candidate], None]) -> None:
        """Do something for every candidate, side by side."""
        with threadpool_limits(1, "blas"):  # matrix products with threads of their own would wait for each other
            side_by_side(work, self.candidates)

    # ---- allocation -------------------------------------------------------------------------------------------------

    def distortion(self, c: Candidate, step: int, up: Array, low: Array) -> float:
        """J of one choice."""
        t, r = c.tables[step], c.readers
        rows = np.arange(len(r.gain))
        up, low = up[rows], low[rows]  # where the step alone is chosen, all channels are one row
        square = t.square[rows, 0, up] + t.square[rows, 1, low]
        m = t.mean[rows, 0, up] + t.mean[rows, 1, low]
        own = (
            r.gain_mean * m * m
            if r.coherent is None
            else m * (r.coherent @ m) + (r.gain_mean - np.diag(r.coherent)) * m * m
        )
        return float((r.gain * (square - m * m)).sum() + own.sum())

    def weigh(self, exponent: float) -> None:
        """Set lambda to damage ** exponent / J.

        With exponent 1 it is the measured error at the output per unit of J.  Errors of many tensors together do not
        add up, and the largest count for less than they do alone: smaller exponents flatten the differences.
        """
        for c in self.candidates:
            j = self.at(c, None)
            c.weight = c.damage**exponent / j if j > 0 and c.damage > 0 else 0.0

    def at(self, c: Candidate, choice: Choice | None) -> float:
        """J of what a plan does with a candidate."""
        q = c.region.quantizer
        assert q is not None
        if choice is None:
            zero = np.zeros(len(c.readers.gain), np.int64)
            return self.distortion(c, c.own, zero, zero)
        factor = float(np.mean(choice.scale)) / float(np.mean(q.scale))
        return self.distortion(c, int(np.argmin(np.abs(c.steps - factor))), choice.copies, choice.copies_low)

    def prepare(self, most: int) -> None:
        """Get ready to allocate with at most so many copies a channel."""
        self.most = most
        if not all(most in c.curves for c in self.candidates):
            self._each(lambda c: self._prepare(c, most))

    def _prepare(self, c: Candidate, most: int) -> None:
        """Sort, for every step, what each further copy saves: any price is then answered by a search.

        `saving[c, side, n]` is what copy n + 1 saves, made non-increasing in n (a later copy is worth nothing without
        the earlier ones); at a price t a channel takes the copies that save more than t.  The coherent part enters by
        its diagonal.
        """
        gain = c.readers.gain[:, None, None]
        extra = np.maximum(c.readers.gain_mean - c.readers.gain, 0)[:, None, None]
        savings, curves = [], []
        for t, rooms in zip(c.tables, c.rooms, strict=True):
            square, mean = (errors[:, :, : most + 1] for errors in (t.square, t.mean))
            e = gain * square + extra * mean**2
            if c.uniform:
                e = np.broadcast_to(e.mean(0), e.shape)
            saving = np.minimum.accumulate(np.maximum(e[:, :, :-1] - e[:, :, 1:], 0), axis=2)
            for side, free in enumerate(rooms):
                saving[:, side, max(free, 0) :] = 0
            ordered = np.sort(saving[saving > 0])
            savings.append(saving.astype(np.float32))
            curves.append(Curve(float(e[:, :, 0].sum()), ordered, np.concatenate([[0.0], np.cumsum(ordered)])))
        c.savings[most], c.curves[most] = savings, curves

    def _open(self, c: Candidate, rescale: bool) -> list[int]:
        """The steps that may be chosen now."""
        free = rescale & (np.asarray(c.rooms)[:, 0] >= 0) & (c.steps <= self.coarsest)
        return np.flatnonzero(free | (c.steps == 1)).tolist()

    def _price(self, c: Candidate, price: float) -> float:
        """What a copy must save, at a price per MAC."""
        return float(min(price * c.macs / c.weight, HIGHEST)) if c.weight > 0 else HIGHEST

    def _taken(self, c: Candidate, step: int, price: float) -> Array:
        """The copies (C, 2, N) that save more than they cost."""
        return self._aligned(c, step, c.savings[self.most][step] > self._price(c, price))

    def _aligned(self, c: Candidate, step: int, taken: Array) -> Array:
        """Copies (C, 2, N) filled up with the next best to a multiple; `allocate` makes them fit the budget."""
        if self.align == 1 or c.uniform or not taken.any():
            return taken
        free = np.zeros(taken.shape, bool)
        for side, most in enumerate(c.rooms[step]):
            free[:, side, : max(most, 0)] = True
        score = np.where(free, c.savings[self.most][step], -1.0)
        count = aligned(int(taken.sum()), len(taken), self.align, int(free.sum()))
        filled = np.zeros(taken.size, bool)
        filled[np.argsort(-score, axis=None, kind="stable")[:count]] = True
        return filled.reshape(taken.shape)

    def spend(self, choices: Mapping[int, Choice]) -> tuple[float, float]:
        """What choices cost: share of extra MACs, and mean copies a channel over all candidates."""
        return self._spend({k: int(c.copies.sum() + c.copies_low.sum()) for k, c in choices.items()})

    def _spend(self, made: Mapping[int, int]) -> tuple[float, float]:
        """What so many copies cost, by region."""
        into: dict[int, float] = {}
        out: dict[int, float] = {}
        for c in self.candidates:
            assert c.region.walk is not None
            if c.index not in made:
                continue
            n = made[c.index]
            share = n / c.region.walk.channels
            for node, part in c.shares.items():
                into[node] = into.get(node, 0.0) + n * part
            if c.mode == "early" and isinstance(c.region.early, Early):
                out[id(c.region.early.layer)] = share
        macs = sum(b * (1 + into.get(k, 0.0)) * (1 + out.get(k, 0.0)) for k, b in self.base.items() if b)
        return (macs / self.total - 1 if self.total else 0.0), sum(made.values()) / max(self.channels, 1)

    def allocate(self, budget: Budget, rescale: bool) -> dict[int, Choice]:
        """The plan that minimises the predicted distortion within the budget, with or without other steps."""
        if budget.ratio is not None:  # copies cost the same everywhere
            saved = [c.macs for c in self.candidates]
            for c in self.candidates:
                c.macs = 1.0
        low, high = -40.0, 40.0  # exponents of the price
        below: list[dict[int, float]] | None = None  # losses of all steps there
        above: list[dict[int, float]] | None = None
        best: tuple[float, list[int]] | None = None
        steps = [self._open(c, rescale) for c in self.candidates]
        for _ in range(36):
            middle = (low + high) / 2
            price = 10.0**middle
            losses = [self._losses(c, s, price) for c, s in zip(self.candidates, steps, strict=True)]
            chosen = [_first_best(found, c.own) for c, found in zip(self.candidates, losses, strict=True)]
            made = {
                c.index: n
                for c, s in zip(self.candidates, chosen, strict=True)
                if (n := int(np.count_nonzero(self._taken(c, s, price)))) or s != c.own
            }
            if budget.allows(*self._spend(made)):
                best, high, above = (price, chosen), middle, losses
            else:
                low, below = middle, losses
            if below is not None and above is not None:
                # a loss grows with the price: what loses more at the lower end than another at the upper one is out
                for k, (lower, upper) in enumerate(zip(below, above, strict=True)):
                    limit = min(upper.values()) * CLOSE
                    steps[k] = [s for s in steps[k] if not lower[s] > limit]
        choices = {} if best is None else self._choices(*best)
        if budget.ratio is not None:
            for c, m in zip(self.candidates, saved, strict=True):
                c.macs = m
        return choices

    def _losses(self, c: Candidate, steps: Sequence[int], price: float) -> dict[int, float]:
        """Error and cost of one region at a price per MAC, by step."""
        t = self._price(c, price)
        return {s: c.curves[self.most][s].at(t) for s in steps}

    def _choices(self, price: float, steps: Sequence[int]) -> dict[int, Choice]:
        """The plan at a price, with one step for every candidate."""
        choices = {}
        for c, step in zip(self.candidates, steps, strict=True):
            up, low = np.moveaxis(self._taken(c, step, price).sum(2), 1, 0)
            q = c.region.quantizer
            assert q is not None
            scale = q.scale if step == c.own else (q.scale * c.steps[step]).astype(q.float_dtype).astype(np.float64)
            if up.any() or low.any() or step != c.own:
                assert c.region.walk is not None
                n = c.region.walk.channels  # where the step alone is chosen, all channels are one row
                choices[c.index] = Choice(scale, *(np.broadcast_to(v, (n,)).astype(np.int64) for v in (up, low)))
        return choices

    def by_mass(self, budget: Budget) -> dict[int, Choice]:
        """The paper's selection at the same cost: the same share of channels everywhere, by mass in [X, 2 X]."""
        best: dict[int, Choice] = {}
        masses = {c.index: self._mass(c) for c in self.candidates}
        low, high = 0.0, 1.0
        for _ in range(20):
            k = (low + high) / 2
            choices = {}
            for c in self.candidates:
                assert c.region.walk is not None
                mass = masses[c.index]
                most = c.rooms[c.own][0]
                n = int(k * c.region.walk.channels + 0.5)
                chosen = np.zeros(c.region.walk.channels, np.int64)
                if c.uniform:
                    chosen[:] = int(k >= 0.5 and most > 0 and mass.any())
                elif most > 0:
                    chosen[np.argsort(-mass, kind="stable")[:n]] = 1
                    chosen[mass <= 0] = 0
                    if self.align > 1 and chosen.any():
                        n = aligned(int(chosen.sum()), len(chosen), self.align, len(chosen))
                        chosen[:] = 0
                        chosen[np.argsort(-mass, kind="stable")[:n]] = 1
                if chosen.any() and c.region.quantizer is not None:
                    choices[c.index] = Choice(c.region.quantizer.scale, chosen, np.zeros_like(chosen))
            if budget.allows(*self.spend(choices)):
                best, low = choices, k
            else:
                high = k
        return best

    def _mass(self, c: Candidate) -> Array:
        h, q = self.histograms[c.index], c.region.quantizer
        assert q is not None
        middle = h.edges + (h.edges[1] - h.edges[0]) / 2
        top = np.broadcast_to(q.x_clip, (len(h.counts),))[:, None]
        inside = (middle > top) & (middle <= 2 * top)
        return np.asarray((h.counts * np.where(inside, middle, 0.0)).sum(1))

    # ---- results ----------------------------------------------------------------------------------------------------

    def settings(self, choices: Mapping[int, Choice]) -> dict[int, Setting]:
        """Switchboard settings of a plan: all quantizers on."""
        out = {}
        for k, r in enumerate(self.regions):
            if r.quantizer is None:
                continue
            out[k] = narrow(r.quantizer)
            if k in choices:
                q, c = r.quantizer, choices[k]
                low, high = q.zero_point - q.qmin, q.qmax - q.zero_point
                out[k] = Setting(c.scale, -(c.copies_low + 1.0) * low, (c.copies + 1.0) * high)
        return out

    def planned(self, choices: Mapping[int, Choice]) -> tuple[PlannedRegion, ...]:
        """The plan's entries; early copies that turn out to be impossible become late ones where the mode lets them."""
        early = "early only" if self.mode in ("early", "integer") else "early"
        modes = {c.index: early if c.mode == "early" else c.mode for c in self.candidates}
        entries = []
        for k, c in sorted(choices.items()):
            r = self.regions[k]
            entries.append(PlannedRegion(r.tensor, r.outputs, c.scale, c.copies, c.copies_low, modes[k]))
        return tuple(entries)

    def describe(self, choices: Mapping[int, Choice]) -> dict[str, Any]:
        """Cost of a plan, for the report."""
        macs, ratio = self.spend(choices)
        return {"extra_macs": macs, "mean_copies": ratio, "regions": len(choices)}


def _first_best(losses: Mapping[int, float], chosen: int) -> int:
    """The step with the least loss, the first of those that hardly differ; a given one where none has any."""
    best = np.inf
    for s, loss in losses.items():
        if loss < best * (1 - 1e-9):
            best, chosen = loss, s
    return chosen
