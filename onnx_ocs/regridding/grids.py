"""Grids for values: from what is known of them, or from what was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.qdq.intervals import Interval
from onnx_ocs.qdq.quantizer import Quantizer

__all__ = ["Extremes", "Grid", "current", "grid_over", "killed", "living_grid"]

MARGIN = 2.0  # by what a range that was seen on samples is exceeded


@dataclass(frozen=True)
class Grid:
    """A step, and the integer that stands for 0.

    Attributes:
        scale: a number that the quantizer's float type holds.
        zero_point: within the quantizer's range.
    """

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class Extremes:
    """The smallest and largest value of every channel of a tensor, (C,)."""

    low: Array
    high: Array

    def joined(self, low: Array, high: Array) -> Extremes:
        """These and others; all channels as one where their number changes."""
        if low.shape != self.low.shape:
            ends = min(self.low.min(), low.min()), max(self.high.max(), high.max())
            return Extremes(np.full(1, ends[0]), np.full(1, ends[1]))
        return Extremes(np.minimum(self.low, low), np.maximum(self.high, high))

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return float(max(np.abs(self.low).max(initial=0.0), np.abs(self.high).max(initial=0.0)))


def current(q: Quantizer) -> Grid:
    """The grid of a quantizer with one step."""
    return Grid(float(q.scale.reshape(-1)[0]), int(q.zero_point.reshape(-1)[0]))


def grid_over(q: Quantizer, interval: Interval) -> Grid:
    """The grid of a quantizer's type over an interval and 0.

    A signed quantizer whose zero-point is 0 stays symmetric: runtimes ask for that.

    Args:
        q: the quantizer, whose integers and float type stay.
        interval: finite, and not only 0.
    """
    low, high = min(interval[0], 0.0), max(interval[1], 0.0)
    if q.symmetric:
        zero, scale = 0, max(-low / -q.qmin if q.qmin else 0.0, high / q.qmax)
    else:
        scale = (high - low) / (q.qmax - q.qmin)
        zero = int(np.clip(np.rint(q.qmin - low / scale), q.qmin, q.qmax))
    held = np.asarray(scale, q.float_dtype).astype(np.float64)
    return Grid(float(held), zero)


def killed(q: Quantizer, grid: Grid, seen: Extremes) -> Array:
    """Which channels are constant behind a grid and not in front of it, (C,)."""
    low, high = (
        np.clip(np.rint(v / grid.scale) + grid.zero_point, q.qmin, q.qmax) for v in (seen.low, seen.high)
    )
    return np.asarray((low == high) & (seen.low < seen.high))


def living_grid(q: Quantizer, bounds: Interval, seen: Extremes) -> Grid | None:
    """A grid within a quantizer's old range that kills no channel.

    Over what the values cannot leave, if that will do; else over what was seen, with a margin.

    Args:
        q: the quantizer, with one step.
        bounds: what the values cannot leave.
        seen: on samples.

    Returns:
        The grid; None where there is none.
    """
    low, high = max(bounds[0], -float(q.x_low.max())), min(bounds[1], float(q.x_clip.max()))
    top, bottom = float(seen.high.max(initial=0.0)), float(seen.low.min(initial=0.0))
    for interval in ((low, high), (max(low, MARGIN * bottom), min(high, MARGIN * top))):
        if interval[0] < interval[1] and np.all(np.isfinite(interval)):
            grid = grid_over(q, interval)
            if grid.scale > 0 and not killed(q, grid, seen).any():
                return grid
    return None
