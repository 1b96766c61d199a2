"""Samples for training: which are drawn, which are held out, and how they are put together."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.batches import Batches  # noqa: E402
from onnx_ocs.reconstruction.teacher import Teacher  # noqa: E402


class Doubling:
    """Answers with twice the input, and one hint."""

    def answer(self, feed: dict[str, np.ndarray]) -> Any:
        x = torch.from_numpy(feed["x"])
        return {"y": 2 * x}, [x + 1]


def feeds(count: int = 90, size: int = 3) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((1, size), k, np.float32)} for k in range(count)]


def batches(taken: list[int], held: list[int], together: bool = True, data: Any = None) -> Batches:
    return Batches(data or feeds(), taken, held, together, cast(Teacher, Doubling()))


def test_held_out_samples_come_in_order_and_few_batches() -> None:
    held = list(range(1, 90, 1))[:70]
    found = batches([0], held).held_out()
    assert [len(b.feed["x"]) for b in found] == [64, 6]
    assert torch.cat([b.feed["x"][:, 0] for b in found]).tolist() == held
    assert torch.equal(found[1].wanted["y"], 2 * found[1].feed["x"])
    assert torch.equal(found[1].hints[0], found[1].feed["x"] + 1)


def test_only_training_samples_are_drawn() -> None:
    taken, generator = list(range(0, 90, 3)), torch.Generator().manual_seed(0)
    (found,) = batches(taken, [1, 2]).draw(500, generator)
    drawn = found.feed["x"][:, 0].int().tolist()
    assert len(drawn) == 500 and set(drawn) == set(taken)
    (same,) = batches(taken, [1, 2]).draw(500, torch.Generator().manual_seed(0))
    assert torch.equal(same.feed["x"], found.feed["x"])


def test_samples_that_do_not_go_together_come_one_by_one() -> None:
    """A fixed batch in the model, or samples of different lengths."""
    mixed = [*feeds(4, 3), *feeds(4, 5)]
    for b in (batches([0, 1], [2, 3, 4], together=False), batches([0, 1], [2, 3, 4], data=mixed)):
        assert [x.feed["x"].shape[0] for x in b.held_out()] == [1, 1, 1]
        assert len(b.draw(7, torch.Generator().manual_seed(1))) == 7
