"""The paper's selection within a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zoo
from problems import problem_of

from onnx_ocs.planning.by_mass import by_mass
from onnx_ocs.planning.choices import Budget
from onnx_ocs.planning.problem import LEARNT, Problem


def masses(problem: Problem, index: int) -> np.ndarray:
    """Sum of the values in (X, 2 X], from the histogram's bins one by one."""
    c = next(c for c in problem.candidates if c.index == index)
    h, q = problem.statistics.histogram(index, problem.tables[index].half), c.region.quantizer
    assert q is not None
    width = h.edges[1] - h.edges[0]
    found = np.zeros(len(h.counts))
    for b, left in enumerate(h.edges):
        middle = left + width / 2
        if float(q.x_clip.max()) < middle <= 2 * float(q.x_clip.max()):
            found += middle * h.counts[:, b]
    return found


@pytest.mark.parametrize("budget", [Budget(0.2), Budget(0.4), Budget(None, 0.25), Budget(None, 1.0)])
@pytest.mark.parametrize("name", ["three_layers", "residual"])
def test_one_copy_for_those_with_most_mass(name: str, budget: Budget) -> None:
    problem = problem_of(name).on(LEARNT)
    choices = by_mass(problem, budget)
    assert choices and budget.allows(*problem.cost(choices))
    for k, choice in choices.items():
        c = next(c for c in problem.candidates if c.index == k)
        assert c.region.quantizer is not None and np.array_equal(choice.scale, c.region.quantizer.scale)
        assert set(np.unique(choice.copies)) <= {0, 1} and not choice.copies_low.any()
        mass, chosen = masses(problem, k), choice.copies == 1
        assert mass[chosen].min() > 0
        assert chosen.all() or mass[chosen].min() >= mass[~chosen].max()


def test_the_share_is_the_same_everywhere_and_the_largest() -> None:
    problem = problem_of("residual").on(LEARNT)
    one = by_mass(problem, Budget(None, 0.5))
    counts = {k: c.count for k, c in one.items()}
    channels = {c.index: len(c.readers.gain) for c in problem.candidates}
    for k, n in counts.items():
        assert n <= round(0.5 * channels[k] + 0.5)
    more = {k: replace(c, copies=np.ones_like(c.copies)) for k, c in one.items()}
    assert not Budget(None, 0.5).allows(*problem.cost(more))


def test_nothing_fits_no_budget() -> None:
    assert by_mass(problem_of("residual").on(LEARNT), Budget(0.0)) == {}


def test_channels_that_must_be_alike_all_get_one_or_none() -> None:
    problem = problem_of("grouped").on(LEARNT)
    uniform = {c.index for c in problem.candidates if c.uniform}
    assert uniform
    for share in (0.2, 5.0):
        for k, choice in by_mass(problem, Budget(None, share)).items():
            if k in uniform:
                assert len(set(choice.copies.tolist())) == 1


def test_numbers_that_hardware_likes() -> None:
    problem = replace(problem_of("residual"), align=4).on(LEARNT)
    choices = by_mass(problem, Budget(None, 0.6))
    assert choices
    for c in choices.values():
        assert (len(c.copies) + c.count) % 4 == 0


def test_a_dead_channel_gets_none() -> None:
    n, x = zoo.image(zoo.Style(weight="float"))
    r = n.op("Relu", n.conv(x))
    n.initializers["conv1_w"][3] = 0
    n.initializers["conv1_b"][3] = 0
    problem = problem_of((n.model(n.conv(n.qdq(r))), n.feed)).on(LEARNT)
    k = next(c.index for c in problem.candidates if c.region.tensor == r)
    choice = by_mass(problem, Budget(None, 5.0))[k]
    assert choice.copies[3] == 0 and choice.copies.sum() == np.count_nonzero(masses(problem, k)) > 3
