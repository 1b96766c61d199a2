"""The channels of one output: which belong together by their scale, how far each group is off, and which are dead.

A detector writes boxes in pixels and scores between 0 and 1 into one output.  There only what is large counts in a sum
of squares.  So channels whose energies are orders of magnitude apart form groups, and each has an error of its own.
The reference alone decides which groups there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Channels", "Group", "by_scale", "channel_axes", "decibels", "noise_along", "sums_along"]

APART = 30.0  # ratio of neighbouring energies, sorted, between two groups
FLOOR = 1e-14  # of the strongest channel's energy: what is weaker is dead, and in no group
RARE = 1 / 16  # of the channels: a smaller group does not count by itself
ALIKE = 4  # ratio of two sides of a map
SEEN = 16  # values of a channel without which it is not called constant


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) of two sums of squares; None where there is no noise, or no signal."""
    if noise == np.inf:
        return -np.inf
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else None


@dataclass(frozen=True)
class Group:
    """Channels of about the same scale.

    Attributes:
        channels: their numbers.
        sqnr_db: 10 log10(sum ref^2 / sum (ref - out)^2) over them; None where nothing differs.
    """

    channels: tuple[int, ...]
    sqnr_db: float | None


def noise_along(truth: Array, value: Array, axis: int) -> Array:
    """Sum of squared differences of every channel, (C,); infinite where only one of two values is finite."""
    with np.errstate(invalid="ignore"):
        squares = np.square(truth - value)
    if not np.all(np.isfinite(squares)):
        same = (truth == value) | (np.isnan(truth) & np.isnan(value))
        squares = np.where(same, 0.0, np.where(np.isfinite(squares), squares, np.inf))
    return sums_along(squares, axis)


def sums_along(values: Array, axis: int) -> Array:
    """Sum of every channel, (C,)."""
    return np.asarray(values.sum(tuple(k for k in range(values.ndim) if k != axis)))


def channel_axes(shape: Sequence[int]) -> list[int]:
    """Where an output's channels may lie: on the second or the last axis, the shorter one first.

    A map's pixels are no channels, whatever its margins hold: of a map's two axes, one that is about as long as the one
    between them is a row or a column of pixels, unless both are.
    """
    axes = sorted({1, len(shape) - 1} if len(shape) > 1 else (), key=lambda a: shape[a])
    if len(shape) < 4:
        return axes
    others = [a for a in axes if max(shape[a], shape[2]) > ALIKE * min(shape[a], shape[2])]
    return others or axes


def by_scale(energy: Array) -> list[Array]:
    """Numbers of channels whose energies are about the same, the strongest group first; none where all are.

    Neither a dead channel nor a rare one makes a group of its own.

    Args:
        energy: of every channel of the reference, (C,).
    """
    if not energy.max(initial=0.0) > 0:
        return []
    order = np.argsort(-energy, kind="stable")
    order = order[energy[order] > FLOOR * energy.max()]
    steps = np.flatnonzero(energy[order][:-1] > APART * energy[order][1:]) + 1
    parts = [np.sort(p) for p in np.split(order, steps)]
    return [p for p in parts if p.size >= RARE * energy.size] if len(parts) > 1 else []


class Channels:
    """Sums and ranges along one axis: of the reference, and of several models."""

    def __init__(self, axis: int, models: int) -> None:
        """Begin to count.

        Args:
            axis: of the channels.
            models: number of models.
        """
        self.axis, self.count = axis, 0
        self.size: int | None = None
        self.usable = True  # until their number changes
        self.noise: list[Array] = [np.zeros(())] * models
        self.energy: Array = np.zeros(())
        self.low: list[Array] = [np.asarray(np.inf)] * (models + 1)  # of the models, and of the reference
        self.high: list[Array] = [np.asarray(-np.inf)] * (models + 1)

    def add(self, truth: Array, values: Sequence[Array | None]) -> None:
        """Count one feed; None stands for a model whose output does not fit: all of it is wrong."""
        if self.size is not None and truth.shape[self.axis] != self.size:
            self.usable = False
        if not self.usable or not truth.size:
            return
        self.size = truth.shape[self.axis]
        self.count += truth.size // self.size
        energy = sums_along(np.square(np.where(np.isfinite(truth), truth, 0.0)), self.axis)
        self.energy = self.energy + energy
        others = tuple(k for k in range(truth.ndim) if k != self.axis)
        for k, value in enumerate((*values, truth)):
            if k < len(values):
                self.noise[k] = self.noise[k] + (energy if value is None else noise_along(truth, value, self.axis))
            if value is not None:
                self.low[k] = np.minimum(self.low[k], value.min(others))
                self.high[k] = np.maximum(self.high[k], value.max(others))

    def groups(self, model: int) -> tuple[Group, ...]:
        """Groups of channels whose energies are far apart, the strongest first; empty where there is but one."""
        if not self.usable or self.size is None:
            return ()
        noise = self.noise[model]
        return tuple(
            Group(tuple(p.tolist()), decibels(float(self.energy[p].sum()), float(noise[p].sum())))
            for p in by_scale(self.energy)
        )

    def still(self, model: int, channels: Sequence[int]) -> bool:
        """Whether one of these channels has never changed so far, whatever the reference's do."""
        if not self.usable or self.size is None:
            return False
        there = [c for c in channels if c < self.size]
        return bool(np.any(self.low[model][there] == self.high[model][there]))

    def constant(self, model: int, least: float = 0.0) -> tuple[int, ...]:
        """Channels that never change while the reference's do, by more than so much."""
        if not self.usable or self.count < SEEN:
            return ()
        still = self.low[model] == self.high[model]
        return tuple(np.flatnonzero(still & (self.high[-1] - self.low[-1] > least)).tolist())
