"""Samples for training: batches drawn at random, and those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.interpreter import tensor
from onnx_ocs.reconstruction.teacher import Teacher

__all__ = ["Batch", "Batches"]

TOGETHER = 64  # held-out samples of a run


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples, the outputs that are wanted, by name, and what is wanted of each of the teacher's hints."""

    feed: dict[str, Tensor]
    wanted: dict[str, Tensor]
    hints: list[Tensor]


class Batches:
    """Samples by number, put together where the model allows it.

    Args:
        feeds: one for each sample (or for as many as a fixed batch holds).
        taken: numbers of those to train on.
        held: numbers of those that are held out.
        together: whether several can be put into one batch.
        teacher: the float model.
    """

    def __init__(
        self,
        feeds: Sequence[dict[str, Array]],
        taken: Sequence[int],
        held: Sequence[int],
        together: bool,
        teacher: Teacher,
    ) -> None:
        self._feeds, self._taken, self._held, self.teacher = feeds, taken, held, teacher
        shapes = {tuple((k, v.shape[1:]) for k, v in f.items()) for f in feeds}
        self._together = together and len(shapes) == 1 and all(v.ndim for v in feeds[0].values())

    def _cut(self, numbers: Sequence[int], size: int) -> list[Batch]:
        size = size if self._together else 1
        return [self._batch(numbers[k : k + size]) for k in range(0, len(numbers), size)]

    def _batch(self, numbers: Sequence[int]) -> Batch:
        first = self._feeds[numbers[0]]
        feed = first if len(numbers) == 1 else {n: np.concatenate([self._feeds[k][n] for k in numbers]) for n in first}
        return Batch({n: tensor(v) for n, v in feed.items()}, *self.teacher.answer(feed))

    def draw(self, size: int, generator: torch.Generator) -> list[Batch]:
        """Training samples of one step: one batch, or several whose gradients are added up."""
        picked = torch.randint(len(self._taken), (size,), generator=generator).tolist()
        return self._cut([self._taken[k] for k in picked], size)

    def held_out(self) -> list[Batch]:
        """The samples that are not trained on."""
        return self._cut(self._held, TOGETHER)
