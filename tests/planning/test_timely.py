"""Plans within a limit of time: cut back while they take too long, and what that leaves over is spent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnx_ocs.measurement.latency import Compared
from onnx_ocs.planning.allocate import Recipe
from onnx_ocs.planning.choices import Choice
from onnx_ocs.planning.search import Trial
from onnx_ocs.planning.timely import RAISES, SLOWER, Look, Timely

NONE = Trial("none", Recipe(0), {})
DOUBT = 0.01


def copies(n: int) -> Trial:
    """A plan of so many copies."""
    return replace(NONE, name=str(n), choices={0: Choice(np.float64(1), np.asarray([n]), np.asarray([0]))} if n else {})


def count(trial: Trial) -> int:
    return sum(c.count for c in trial.choices.values())


class World:
    """A copy is priced at a hundredth of the time, and takes what a curve says."""

    def __init__(self, extra: Callable[[int], float], limit: float, better: bool = True) -> None:
        self.extra, self.limit, self.better = extra, limit, better

    def look(self, trial: Trial, allowed: float) -> Look | None:
        return Look(trial, allowed, Compared(1.0, 1.0, 1 + self.extra(count(trial)), DOUBT), self.limit)

    def plan(self, start: int) -> tuple[Trial, list[Look]]:
        search = Timely(
            self.look, lambda _, allowed: copies(int(100 * allowed)),
            lambda trial: (-1 if self.better else 1) * float(count(trial)),
        )  # fmt: skip
        return search.plan(copies(start), start / 100)


@pytest.mark.parametrize(
    "extra",
    [
        lambda n: 0.01 * n, lambda n: 0.02 * n, lambda n: 1e-4 * n * n, lambda n: 0.2 + 0.005 * n if n else 0.0,
        lambda n: 0.35 + 0.002 * n if n else 0.0,  # what one copy costs besides is nearly all
    ],
)
def test_the_limit_holds_and_little_is_left(extra: Callable[[int], float]) -> None:
    world = World(extra, limit=1.4)
    trial, log = world.plan(100)
    assert log[-1].trial is trial and log[-1].holds and not log[0].holds
    assert len(log) <= SLOWER + RAISES + 2
    most = max(n for n in range(101) if extra(n) + DOUBT <= 0.4)
    assert 0.7 * most <= count(trial) <= most


def test_what_holds_at_once_stays() -> None:
    trial, log = World(lambda n: 0.001 * n, limit=1.4).plan(100)
    assert count(trial) == 100 and len(log) == 1


def test_no_copies_where_none_hold() -> None:
    trial, log = World(lambda n: 0.5 if n else 0.0, limit=1.4).plan(100)
    assert not count(trial) and not any(n.holds for n in log) and len(log) <= SLOWER + RAISES


def test_few_copies_are_found_where_all_that_were_tried_are_too_slow() -> None:
    trial, log = World(lambda n: 0.5 if n > 30 else 0.01 * n, limit=1.4).plan(100)
    assert 10 <= count(trial) <= 30 and log[-1].trial is trial and log[-1].holds


def test_more_copies_must_be_better() -> None:
    """A larger plan that leaves more wrong on unseen samples is not taken."""
    extra = lambda n: 1e-4 * n * n  # noqa: E731
    most, _ = World(extra, limit=1.4).plan(100)
    least, log = World(extra, limit=1.4, better=False).plan(100)
    assert 0 < count(least) < count(most) and log[-1].trial is least


def test_without_a_measurement_a_plan_stays() -> None:
    plan = copies(5)
    assert Timely(lambda *_: None, lambda *_: NONE, lambda _: 0.0).plan(plan, 0.05) == (plan, [])
    assert Timely(lambda *_: pytest.fail("timed"), lambda *_: NONE, lambda _: 0.0).plan(NONE, 0.0) == (NONE, [])
