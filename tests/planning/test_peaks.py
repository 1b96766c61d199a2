"""Few channels far beyond the rest: which tensors have them, what each step takes, and when nobody climbs further."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from massive import LARGE, nets, values
from problems import problem_of

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning import peaks
from onnx_ocs.planning.choices import Choice, Choices
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.peaks import Ladder, peaked
from onnx_ocs.planning.problem import pose
from onnx_ocs.regions.find import find_regions

SPENT = PlanOptions(budget=0.1)


def posed(x: np.ndarray, options: PlanOptions = SPENT) -> tuple[Ladder, ...]:
    """The ladders of one int8 tensor with a step of 200 / 127, on these samples."""
    model = nets(np.random.default_rng(0))[1]
    graph, shapes = Graph(model), infer_shapes(model, {"x": [1, *x.shape[1:]]})
    regions = find_regions(Graph(model), infer_shapes(model))
    statistics = calibrate(model, regions, Context(open_samples({"x": x}, model)), "the model")
    return pose(graph, regions, shapes, statistics, options).ladders


def test_one_channel_gets_the_copies_that_its_value_needs() -> None:
    (found,) = posed(values(np.random.default_rng(1), 16))
    divisors = [LARGE / 127 / float(r.scale) for r in found.rungs]
    assert divisors == pytest.approx([2, 4, 8, 16, 32])
    for divisor, rung in zip(divisors, found.rungs, strict=True):
        assert rung.copies[7] == round(divisor) - 1 == rung.count, "the others stay within the range"
        assert not rung.copies_low.any()
    assert LARGE / 64 < 3.2, "at 1/64 the others need copies, too: more than there are channels"


def test_both_sides_get_copies() -> None:
    x = values(np.random.default_rng(1), 16)
    (found,) = posed(np.where(x == LARGE, -LARGE, x))
    assert found.rungs[2].copies_low[7] == 7 and not found.rungs[2].copies.any()


def test_many_large_channels_are_no_peaks_and_neither_are_none() -> None:
    x = values(np.random.default_rng(1), 16)
    x[:, 1, :32] = LARGE
    assert posed(x) == ()
    assert posed(np.random.default_rng(1).normal(size=x.shape).astype(np.float32) * 100) == ()
    assert posed(0 * x) == ()


@pytest.mark.parametrize(
    "options",
    [PlanOptions(), PlanOptions(budget=0.1, rescale=False), PlanOptions(budget=0.1, copies=4),
     PlanOptions(budget=0.1, target=Target("sqnr", 20.0))],
)  # fmt: skip
def test_where_nothing_may_be_spent_or_steps_stay_there_are_none(options: PlanOptions) -> None:
    assert posed(values(np.random.default_rng(1), 4), options) == ()


def test_a_bias_that_cannot_follow_ends_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "check_rescale", lambda _g, _r, s: None if float(s) > 0.1 else "it overflows")
    (found,) = posed(values(np.random.default_rng(1), 4))
    assert min(float(r.scale) for r in found.rungs) > 0.1


class Judge:
    """Errors by number of copies of each tensor, the same on both halves."""

    def __init__(self, errors: dict[int, dict[int, float]]) -> None:
        self.errors, self.asked = errors, list[dict[int, int]]()

    def stand_on(self, _settings: Any) -> None:
        """Nothing to prepare."""

    def halves(self, settings: dict[int, int]) -> list[float]:
        self.asked.append(settings)
        return [float(np.prod([e[settings.get(k, 0)] for k, e in self.errors.items()]))] * 2


def climbed(errors: dict[int, dict[int, float]], most: int = 100) -> tuple[dict[int, int], Judge]:
    """What is found for tensors with rungs of 1, 2, 4, 8 and 16 copies."""
    rungs = tuple(Choice(np.asarray(1 / n), np.asarray([n]), np.asarray([0])) for n in (1, 2, 4, 8, 16))
    judge = Judge(errors)

    def settings(choices: Choices) -> Any:
        return {k: c.count for k, c in choices.items()}

    steps = [Ladder(SimpleNamespace(index=k, damage=-k), rungs) for k in errors]  # type: ignore[arg-type]
    found = peaked(steps, judge, settings, lambda c: sum(x.count for x in c.values()) <= most)  # type: ignore[arg-type]
    return settings(found), judge


def test_a_step_is_halved_as_long_as_that_pays() -> None:
    found, _ = climbed({0: {0: 1.0, 1: 0.8, 2: 0.6, 4: 0.599, 8: 0.4, 16: 0.399}})
    assert found == {0: 8}, "one rung that brings nothing is passed, and less than a hundredth does not pay"
    found, judge = climbed({0: {0: 1.0, 1: 1.0, 2: 1.0, 4: 0.1, 8: 0.1, 16: 0.1}})
    assert found == {} and len(judge.asked) == 3


def test_tensors_take_turns_within_the_budget() -> None:
    gains = {0: 1.0, 1: 0.8, 2: 0.6, 4: 0.5, 8: 0.4, 16: 0.3}
    assert climbed({0: gains, 1: gains})[0] == {0: 16, 1: 16}
    assert climbed({0: gains, 1: gains}, most=10)[0] == {0: 8, 1: 2}, "the most harmful first"


def test_what_is_beyond_one_half_is_luck() -> None:
    judge = Judge({0: {0: 1.0, 1: 0.5}})
    judge.halves = lambda s: [0.5 if s else 1.0, 1.0]  # type: ignore[method-assign]
    rung = Choice(np.asarray(1.0), np.asarray([1]), np.asarray([0]))
    step = Ladder(SimpleNamespace(index=0, damage=1.0), (rung,))  # type: ignore[arg-type]
    assert peaked([step], judge, lambda c: dict.fromkeys(c, 1), lambda _: True) == {}  # type: ignore[arg-type,return-value]


def test_measured_damage_reaches_the_ladders() -> None:
    problem = problem_of("matmul_gelu")
    c = problem.candidates[0]
    (found,) = replace(problem, ladders=(Ladder(c, ()),)).damaged({x.index: 7.0 for x in problem.candidates}).ladders
    assert found.candidate.damage == 7.0
