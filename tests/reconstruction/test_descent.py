"""Gradient descent on problems whose answer is known."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.batches import Batches  # noqa: E402
from onnx_ocs.reconstruction.descent import Course, Settings, descend, reproducible  # noqa: E402
from onnx_ocs.reconstruction.interpreter import Network  # noqa: E402
from onnx_ocs.reconstruction.parameters import Parameters  # noqa: E402
from onnx_ocs.reconstruction.teacher import Teacher  # noqa: E402


class Scaling:
    """y = w * x, with one weight for every column."""

    def run(self, feed: Any, values: Any, *_: Any) -> Any:
        return {"y": feed["x"] * values["w"]}


class Weights:
    def __init__(self, *w: float) -> None:
        self.w = torch.tensor(w)

    def groups(self) -> dict[str, list[Any]]:
        return {"weights": [self.w], "biases": [], "scales": [], "steps": []}

    def all(self) -> list[Any]:
        return [self.w]

    def values(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"w": self.w}, {}


class Wanted:
    """Answers as these weights would; no hints."""

    hints: ClassVar[list[Any]] = []

    def __init__(self, *w: float, bad: float = 0.0) -> None:
        self.w, self.bad = torch.tensor(w), bad

    def answer(self, feed: dict[str, np.ndarray]) -> Any:
        x = torch.from_numpy(feed["x"])
        spoiled = (x[:, :1] > 0).float() * self.bad  # samples that are held out have positive first values
        return {"y": x * (self.w + spoiled)}, []


def trained(p: Weights, teacher: Wanted, steps: int | None, seconds: float | None = None) -> Course:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3)).astype(np.float32)} for _ in range(40)]
    for k, f in enumerate(feeds):
        f["x"][:, 0] = np.abs(f["x"][:, 0]) * (1 if k >= 30 else -1)
    batches = Batches(feeds, range(30), range(30, 40), True, cast(Teacher, teacher))
    return descend(
        cast(Network, Scaling()), cast(Parameters, p), batches, steps, seconds, 0, lambda *_: None, Settings(scores=0)
    )


def test_it_goes_where_the_teacher_is() -> None:
    p = Weights(1.0, 1.0, 1.0)
    course = trained(p, Wanted(1.5, 1.0, 0.5), 60)
    assert torch.allclose(p.w, torch.tensor([1.5, 1.0, 0.5]), atol=0.05)
    (before, after) = course.errors["y"]
    assert course.steps == 60 and course.best and after < 0.01 * before
    rng = np.random.default_rng(0)
    x = np.stack([rng.standard_normal(3) for _ in range(40)])[30:]  # the held-out ones
    x[:, 0] = np.abs(x[:, 0])
    wanted = (x**2 * [0.25, 0, 0.25]).sum() / (x**2 * [2.25, 1, 0.25]).sum()
    assert before == pytest.approx(wanted, rel=1e-4)


def test_what_held_out_samples_do_not_want_is_not_kept() -> None:
    """They want the weights as they are; what is trained pulls away."""
    p = Weights(1.0, 1.0, 1.0)
    course = trained(p, Wanted(2.0, 2.0, 2.0, bad=-1.0), 40)
    assert course.best == 0 and torch.equal(p.w.detach(), torch.ones(3))
    assert course.errors["y"] == (course.errors["y"][0],) * 2 and course.checked


def test_the_best_state_is_kept_not_the_last() -> None:
    """On the way from 1 to 2 the held-out samples want 1.5."""
    p = Weights(1.0, 1.0, 1.0)
    course = trained(p, Wanted(2.0, 2.0, 2.0, bad=-0.5), 80)
    assert 0 < course.best < 80 and torch.allclose(p.w, torch.full((3,), 1.5), atol=0.1)
    best = min(course.checked, key=lambda c: c[1])
    assert best[0] == course.best


def test_a_time_becomes_steps() -> None:
    ticks = trained(Weights(1.0, 1.0, 1.0), Wanted(1.5, 1.0, 0.5), None, 0.2)
    assert ticks.steps >= 10


def test_global_settings_are_put_back() -> None:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError), reproducible(3) as generator:
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
        assert generator.initial_seed() == 3
        raise ZeroDivisionError
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, strict)
