"""What a plan does with regions, and what it may spend."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_ocs.model.nodes import Array

__all__ = ["Budget", "Choice", "Choices"]


@dataclass(frozen=True)
class Budget:
    """How much may be spent: a share of the model's MACs, or a mean number of copies a channel."""

    macs: float | None = None
    ratio: float | None = None

    def allows(self, macs: float, ratio: float) -> bool:
        """Whether so much may be spent: a share of MACs, and mean copies a channel."""
        return (self.macs is None or macs <= self.macs + 1e-9) and (self.ratio is None or ratio <= self.ratio + 1e-9)

    def times(self, share: float) -> Budget:
        """A share of it."""
        return Budget(*(None if v is None else v * share for v in (self.macs, self.ratio)))


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
