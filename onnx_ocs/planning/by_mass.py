"""The paper's selection at a budget: the same share of channels everywhere, by mass in [X, 2 X] (OCS+, section 3)."""

from __future__ import annotations

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.candidates import Candidate
from onnx_ocs.planning.choices import Budget, Choice, Choices
from onnx_ocs.planning.problem import Problem
from onnx_ocs.translation.selection import aligned

__all__ = ["by_mass"]

HALVINGS = 20  # of the share of channels


def by_mass(problem: Problem, budget: Budget) -> Choices:
    """One copy for the largest share of channels that the budget allows, those with most mass in every tensor."""
    best: Choices = {}
    masses = [_mass(problem, c) for c in problem.candidates]
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        choices: Choices = {}
        for c, mass in zip(problem.candidates, masses, strict=True):
            chosen = _copied(problem, c, mass, share)
            if chosen.any():
                choices[c.index] = Choice(c.region.quantizer.scale, chosen, np.zeros_like(chosen))
        if budget.allows(*problem.cost(choices)):
            best, low = choices, share
        else:
            high = share
    return best


def _copied(problem: Problem, c: Candidate, mass: Array, share: float) -> Array:
    """Copies a channel for a share of the channels, int64 (C,)."""
    channels, most = c.region.walk.channels, problem.tables[c.index].rooms[c.own][0]
    chosen = np.zeros(channels, np.int64)
    if c.uniform:
        chosen[:] = int(share >= 0.5 and most > 0 and mass.any())
    elif most > 0:
        chosen[np.argsort(-mass, kind="stable")[: int(share * channels + 0.5)]] = 1
        chosen[mass <= 0] = 0
        if problem.align > 1 and chosen.any():
            n = aligned(int(chosen.sum()), len(chosen), problem.align, len(chosen))
            chosen[:] = 0
            chosen[np.argsort(-mass, kind="stable")[:n]] = 1
    return chosen


def _mass(problem: Problem, c: Candidate) -> Array:
    """Sum of the values in (X, 2 X] of every channel, or what a copy of a whole range holds."""
    h, q = problem.statistics.histogram(c.index, problem.tables[c.index].half), c.region.quantizer
    middle = h.edges + (h.edges[1] - h.edges[0]) / 2
    top = np.broadcast_to(q.x_clip, (len(h.counts),))[:, None]
    each = np.broadcast_to(q.x_clip + q.x_low, (len(h.counts),))[:, None] if c.full else top
    inside = (middle > top) & (middle <= top + each)
    return np.asarray((h.counts * np.where(inside, middle, 0.0)).sum(1))
