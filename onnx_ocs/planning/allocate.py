"""Solve a problem by a recipe: win the bit where it pays, within a budget.

For every region a step and copies per channel, for the whole model a budget:

    minimise  sum over regions of lambda_r * J_r(step, copies)     subject to   cost(copies) <= budget

J is the error at the readers' outputs (`onnx_ocs.planning.distortion`).  lambda makes regions comparable: it is
measured, as the error at the *model's* output when that tensor alone is quantized, divided by its J.  The minimum is
found by a Lagrangian (rate-distortion allocation, Shoham and Gersho 1988): for a price per MAC every region chooses
for itself; the price is bisected until the budget is met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.by_mass import by_mass
from onnx_ocs.planning.candidates import COARSER, Candidate
from onnx_ocs.planning.choices import Budget, Choice, Choices
from onnx_ocs.planning.curve import Savings
from onnx_ocs.planning.problem import Problem
from onnx_ocs.translation.selection import aligned

__all__ = ["Recipe", "at_price", "solve", "weights"]

HIGHEST = 1e38  # price at which nothing is bought (float32 holds it)
CLOSE = 1 + 1e-6  # losses that differ by less may both be the least
HALVINGS = 36  # of the price's exponent, which starts in [-40, 40]


@dataclass(frozen=True)
class Recipe:
    """How a plan is made.

    Attributes:
        most: copies a channel; 0 for the paper's selection by mass (`onnx_ocs.planning.by_mass`).
        exponent: how far the measured damage counts (see `weights`).
        rescale: whether steps are re-chosen.
        share: of the budget that is spent.
        coarsest: the largest factor by which a step may grow.
        lambdas: weights by index of the region, where they are measured otherwise.
    """

    most: int
    exponent: float = 1.0
    rescale: bool = False
    share: float = 1.0
    coarsest: float = COARSER
    lambdas: Mapping[int, float] | None = None

    @property
    def name(self) -> str:
        """What the report calls a plan that is made so."""
        if self.most == 0:
            return "mass, same step"
        step = "step re-chosen" if self.rescale else "same step"
        name = f"error^{self.exponent:g}, up to {self.most} copies, {step}"
        name += "" if self.share == 1 else f", {self.share:.0%} of the budget"
        return name + ("" if self.coarsest == COARSER else f", up to {self.coarsest:g} times coarser")


def solve(problem: Problem, recipe: Recipe, budget: Budget) -> Choices:
    """The plan that minimises the predicted distortion within the budget.

    Args:
        problem: candidates with tables.
        recipe: how.
        budget: of which the recipe's share may be spent.
    """
    budget = budget.times(recipe.share)
    if recipe.most == 0:
        return by_mass(problem, budget)
    items = _items(problem, recipe, budget)
    found = _choices(*_cheapest(problem, items, budget))
    if not any(i.start for i in items):
        return found
    # a start makes a region's copies all or nothing, which no price divides: few copies everywhere may be better
    thin = _choices(*_cheapest(problem, [replace(i, start=0.0) for i in items], budget))
    lambdas = weights(problem, recipe)

    def left(choices: Choices) -> float:
        return sum(lambdas[c.index] * problem.error(c, choices.get(c.index)) for c in problem.candidates)

    return min(found, thin, key=left)


def at_price(problem: Problem, price: float) -> Choices:
    """What every candidate is best given at a price, whatever all together cost.

    Args:
        problem: candidates with tables.
        price: of a multiply-accumulate, in error at the output.
    """
    items = [
        replace(i, start=i.candidate.start) for i in _items(problem, Recipe(problem.copies, rescale=True), Budget())
    ]
    steps = [_first_best(i.losses(i.steps, price), i.candidate.own) for i in items]
    return _choices(items, price, steps)


def weights(problem: Problem, recipe: Recipe) -> dict[int, float]:
    """Lambda of every candidate, by index of the region: damage ** exponent / J.

    With exponent 1 it is the measured error at the output per unit of J.  Errors of many tensors together do not
    add up, and the largest count for less than they do alone: smaller exponents flatten the differences.
    """
    if recipe.lambdas is not None:
        return dict(recipe.lambdas)
    found = {}
    for c in problem.candidates:
        j = problem.error(c, None)
        found[c.index] = c.damage**recipe.exponent / j if j > 0 and c.damage > 0 else 0.0
    return found


@dataclass(frozen=True, eq=False)
class _Item:
    """A candidate in an allocation: its weight, what copies cost, what they save, and the steps that are open."""

    candidate: Candidate
    weight: float
    each: float  # what a copy costs, in the budget's unit
    start: float  # what the first one costs besides
    savings: Savings
    rooms: Sequence[tuple[int, int]]
    steps: list[int]
    align: int

    def price(self, price: float) -> float:
        """What a copy must save, at a price per MAC."""
        return float(min(price * self.each / self.weight, HIGHEST)) if self.weight > 0 else HIGHEST

    def losses(self, steps: Sequence[int], price: float) -> dict[int, float]:
        """Error and cost at a price per MAC, by step."""
        t, start = self.price(price), self.first(price)
        found = {s: self.savings.curves[s].at(t) for s in steps}
        if start > 0:
            found = {s: min(loss + start, self.savings.curves[s].base) for s, loss in found.items()}
        return found

    def first(self, price: float) -> float:
        """What all copies must save together, besides what each of them must."""
        return float(min(price * self.start / self.weight, HIGHEST)) if self.weight > 0 and self.start > 0 else 0.0

    def taken(self, step: int, price: float) -> Array:
        """The copies (C, 2, N) that save more than they cost, filled up with the next best to a multiple."""
        savings = self.savings.copies[step]
        taken = savings > self.price(price)
        curve = self.savings.curves[step]
        if self.start > 0 and curve.at(self.price(price)) + self.first(price) >= curve.base:
            taken = np.zeros_like(taken)
        if self.align == 1 or self.candidate.uniform or not taken.any():
            return np.asarray(taken)
        free = np.zeros(taken.shape, bool)
        for side, most in enumerate(self.rooms[step]):
            free[:, side, : max(most, 0)] = True
        score = np.where(free, savings, -1.0)
        count = aligned(int(taken.sum()), len(taken), self.align, int(free.sum()))
        filled = np.zeros(taken.size, bool)
        filled[np.argsort(-score, axis=None, kind="stable")[:count]] = True
        return filled.reshape(taken.shape)


def _items(problem: Problem, recipe: Recipe, budget: Budget) -> list[_Item]:
    lambdas = weights(problem, recipe)
    items = []
    for c, saved in zip(problem.candidates, problem.savings(recipe.most), strict=True):
        rooms = problem.tables[c.index].rooms
        free = recipe.rescale & (np.asarray(rooms)[:, 0] >= 0) & (c.steps <= recipe.coarsest)
        steps = np.flatnonzero(free | (c.steps == 1)).tolist()
        start, each = 0.0, c.macs if budget.ratio is None else 1.0  # copies cost the same everywhere
        if budget.time is not None and c.index in problem.prices:
            start, each = problem.prices[c.index].start, problem.prices[c.index].each
        items.append(_Item(c, lambdas[c.index], each, start, saved, rooms, steps, problem.align))
    return items


def _cheapest(problem: Problem, items: Sequence[_Item], budget: Budget) -> tuple[Sequence[_Item], float, list[int]]:
    """The lowest price at which the budget is met, and the step of every item there; no items where there is none."""
    low, high = -40.0, 40.0  # exponents of the price
    below: list[dict[int, float]] | None = None  # losses of all steps there
    above: list[dict[int, float]] | None = None
    best: tuple[Sequence[_Item], float, list[int]] = (), 0.0, []
    steps = [i.steps for i in items]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        price = 10.0**middle
        losses = [i.losses(s, price) for i, s in zip(items, steps, strict=True)]
        chosen = [_first_best(found, i.candidate.own) for i, found in zip(items, losses, strict=True)]
        copies = {
            i.candidate.index: n
            for i, s in zip(items, chosen, strict=True)
            if (n := int(np.count_nonzero(i.taken(s, price)))) or s != i.candidate.own
        }
        if budget.allows(*problem.spend(copies)):
            best, high, above = (items, price, chosen), middle, losses
        else:
            low, below = middle, losses
        if below is not None and above is not None:
            # a loss grows with the price: what loses more at the lower end than another at the upper one is out
            for k, (lower, upper) in enumerate(zip(below, above, strict=True)):
                limit = min(upper.values()) * CLOSE
                steps[k] = [s for s in steps[k] if not lower[s] > limit]
    return best


def _first_best(losses: Mapping[int, float], chosen: int) -> int:
    """The step with the least loss, the first of those that hardly differ; a given one where none has any."""
    best = np.inf
    for s, loss in losses.items():
        if loss < best * (1 - 1e-9):
            best, chosen = loss, s
    return chosen


def _choices(items: Sequence[_Item], price: float, steps: Sequence[int]) -> Choices:
    """The plan at a price, with one step for every candidate."""
    choices: Choices = {}
    for item, step in zip(items, steps, strict=True):
        c, q, walk = item.candidate, item.candidate.region.quantizer, item.candidate.region.walk
        up, low = np.moveaxis(item.taken(step, price).sum(2), 1, 0)
        scale = q.scale if step == c.own else (q.scale * c.steps[step]).astype(q.float_dtype).astype(np.float64)
        if up.any() or low.any() or step != c.own:
            n = walk.channels  # where the step alone is chosen, all channels are one row
            choices[c.index] = Choice(scale, *(np.broadcast_to(v, (n,)).astype(np.int64) for v in (up, low)))
    return choices
