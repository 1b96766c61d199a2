"""What a plan does with regions, and what it may spend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from onnx_ocs.model.nodes import Array

__all__ = ["Budget", "Choice", "Choices", "Spent", "makes_copies"]


class Spent(NamedTuple):
    """What copies cost: a share of extra MACs, mean copies a channel over all candidates, a share of extra time."""

    macs: float
    ratio: float
    time: float = 0.0


@dataclass(frozen=True)
class Budget:
    """How much may be spent: a share of the model's MACs, a mean number of copies a channel, a share of its time."""

    macs: float | None = None
    ratio: float | None = None
    time: float | None = None

    def allows(self, macs: float, ratio: float, time: float = 0.0) -> bool:
        """Whether so much may be spent: a share of MACs, mean copies a channel, a share of the time."""
        pairs = (macs, self.macs), (ratio, self.ratio), (time, self.time)
        return all(most is None or n <= most + 1e-9 for n, most in pairs)

    def without(self, spent: Spent) -> Budget:
        """What is left of it."""
        pairs = (self.macs, spent.macs), (self.ratio, spent.ratio), (self.time, spent.time)
        return Budget(*(None if most is None else max(most - n, 0.0) for most, n in pairs))

    def times(self, share: float) -> Budget:
        """A share of it."""
        return Budget(*(None if v is None else v * share for v in (self.macs, self.ratio, self.time)))


@dataclass(frozen=True, eq=False)
class Choice:
    """What a plan does with one region.

    Attributes:
        scale: the step, float64, shape () or (C,).
        copies: on the upper side, int64 (C,).
        copies_low: on the lower side, int64 (C,).
    """

    scale: Array
    copies: Array
    copies_low: Array

    @property
    def count(self) -> int:
        """All copies of all channels."""
        return int(self.copies.sum() + self.copies_low.sum())


Choices = dict[int, Choice]  # by index of the region; regions that are not named are left alone


def makes_copies(choices: Choices) -> bool:
    """Whether a plan makes any copies; else it changes steps at most."""
    return any(c.count for c in choices.values())
