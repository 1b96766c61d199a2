"""Many tensors are asked about together: few questions, and weights that are close to those of one question each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import zoo
from problems import problem_of
from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning import search, together
from onnx_ocs.planning.objective import Judge
from onnx_ocs.planning.problem import LEARNT
from onnx_ocs.planning.sensitivity import Alone, weigh, weigh_in_place
from onnx_ocs.planning.together import alike, halved, halves, most, shared_out
from onnx_ocs.probes.switchboard import Switchboard
from onnx_ocs.regions.find import find_regions

Array = np.ndarray[Any, Any]
BLOCKS = 12


def quiet(*_: Any) -> None:
    pass


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """No more than eight questions of one kind."""
    monkeypatch.setattr(together, "ASKED", 8)
    yield 8


def chain() -> zoo.Built:
    """Residual blocks, of which every tensor is read by a layer."""
    n = Net(Style(batch=1), x=(6, 5, 5))
    x = "x"
    for _ in range(BLOCKS):
        a = n.qdq(x, "mid")
        hidden = n.qdq(n.op("Relu", n.conv(a, 6)))
        x = n.op("Add", a, n.conv(hidden, 6))
    return n.model(x), {"x": np.zeros((1, 6, 5, 5), np.float32)}


def asking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many quantizers are on in every run of the model."""
    asked: list[int] = []
    run = Switchboard.run
    monkeypatch.setattr(Switchboard, "run", lambda *a: (asked.append(len(a[2])), run(*a))[1])
    return asked


def board_of(model: Any) -> Switchboard:
    shapes = infer_shapes(model)
    return Switchboard(model, find_regions(Graph(model), shapes), shapes)


def feeds(count: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 6, 5, 5)).astype(np.float32)} for _ in range(count)]


def test_like_tensors_are_one_question(few: int) -> None:
    problem = problem_of(chain())
    regions = {c.index: c.region for c in problem.candidates}
    groups = alike(regions)
    assert len(groups) <= few and sorted(k for g in groups for k in g) == sorted(regions)
    for g in groups:
        assert len({regions[k].quantizer.rectifies for k in g}) == 1, "behind a ReLU, or a sum"
        assert list(g) == sorted(g)


def test_few_tensors_are_asked_about_alone() -> None:
    problem = problem_of(chain())
    assert alike({c.index: c.region for c in problem.candidates}) == [(c.index,) for c in problem.candidates]


def test_what_costs_more_than_its_share_is_halved(few: int) -> None:
    asked: list[Sequence[tuple[int, ...]]] = []

    def damages(groups: Sequence[tuple[int, ...]]) -> Array:
        asked.append(groups)
        return np.asarray([sum(100.0 if k == 5 else 1.0 for k in g) for g in groups])

    found, damage = halved([(0, 1, 2, 3), (4, 5, 6, 7)], damages)
    assert found == [(0, 1, 2, 3), (4,), (5,), (6, 7)] and damage.tolist() == [4, 1, 100, 2]
    assert len(asked) == 3, "two splits are all that eight questions allow"


def test_one_question_each_is_not_halved() -> None:
    found, damage = halved([(3,), (4,)], lambda groups: np.arange(len(groups), dtype=float))
    assert found == [(3,), (4,)] and damage.tolist() == [0, 1]
    assert halves((1, 2, 3)) == ((1, 2), (3,))


def test_a_group_is_shared_out_by_its_tensors_own_errors() -> None:
    found = shared_out([(1, 2), (3,), (4, 5)], [8.0, 5.0, 2.0], {1: 3.0, 2: 1.0, 4: 0.0, 5: 0.0})
    assert found == {1: 6.0, 2: 2.0, 3: 5.0, 4: 1.0, 5: 1.0}


def test_the_largest_are_asked_about_in_their_order(few: int) -> None:
    some = list(range(20))
    assert most(some, lambda k: (k * 7) % 20) == [k for k in some if (k * 7) % 20 >= 12]
    assert most(some[:8], lambda k: 0) == some[:8]


def test_weights_are_close_to_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one question each: a third of the runs, the same order, and no tensor far off."""
    built = chain()
    problem, some = problem_of(built), feeds(2)
    asked = asking(monkeypatch)
    measured = weigh(problem, Alone(board_of(built[0]), some), quiet)
    each = len(asked)
    monkeypatch.setattr(together, "ASKED", 8)
    asked.clear()
    found = weigh(problem, Alone(board_of(built[0]), some), quiet)
    assert found.keys() == measured.keys()
    assert each == 2 * (1 + 2 * BLOCKS) and len(asked) == 2 * (1 + 4 + 2 * 2), "four groups, of which two are halved"
    a, b = (np.log([f[k] for k in measured]) for f in (measured, found))
    off = a - b - np.mean(a - b)  # errors do not add up: together they are less, and only ratios count
    assert np.corrcoef(a, b)[0, 1] > 0.8 and np.abs(off).max() < np.log(3)
    assert sum(measured.values()) / 4 < sum(found.values()) < sum(measured.values())


def test_in_place_the_heaviest_are_asked_about(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built = chain()
    problem = problem_of(built).on(LEARNT)
    judge = Judge(board_of(built[0]), feeds(3), None, "sqnr")
    cost = {c.index: problem.error(c, None) for c in problem.candidates}
    old = {c.index: 1.0 for c in problem.candidates}
    asked = asking(monkeypatch)
    new = weigh_in_place(problem, judge, {}, old, quiet)
    assert new.keys() == old.keys()
    heaviest = sorted(cost, key=lambda k: -cost[k])[:few]
    assert {k for k in new if new[k] != old[k]} <= set(heaviest)
    assert len(asked) <= few + 3


def test_what_should_bring_least_is_rolled_back_first(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(chain()).on(LEARNT)
    choices = search.solve(problem, search.Recipe(2, rescale=True), search.Budget(0.5))
    assert len(choices) > few
    seen: list[frozenset[int]] = []

    class Deaf:
        """A judge to whom all plans are the same."""

        parts = (slice(None),)

        def stand_on(self, *_: Any) -> None:
            pass

        def ahead(self, *_: Any) -> None:
            pass

        def halves(self, settings: Any) -> Any:
            seen.append(frozenset(k for k, s in settings.items() if choices.get(k) and s.scale is choices[k].scale))
            return iter([1.0])

    lambdas = dict.fromkeys(choices, 1.0)
    kept, dropped = search._roll_back(problem, Deaf(), choices, lambdas, quiet)  # type: ignore[arg-type]
    assert kept == choices and dropped == () and len(seen) == 1 + few
