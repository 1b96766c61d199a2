"""Error against price of one tensor: what every further copy saves, and the points that can be best at some price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.distortion import Readers, Table

__all__ = ["Curve", "Savings", "savings"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Error and cost of one step, as a function of what a saving must be worth.

    Attributes:
        base: error without copies.
        savings: what all copies save, in ascending order.
        sums: their running sums, starting at 0.
    """

    base: float
    savings: Array
    sums: Array

    def at(self, price: float) -> float:
        """Error and cost with the copies that save more than the price."""
        first = int(self.savings.searchsorted(price, side="right"))
        taken = len(self.savings) - first
        gained = float(self.sums.item(-1)) - float(self.sums.item(first))
        return self.base - (gained - (price * taken if taken else 0.0))


@dataclass(frozen=True, eq=False)
class Savings:
    """What copies of one tensor save, by step.

    Attributes:
        copies: what every further copy saves, float32 (C, 2, N) for as many as there is room for.
        curves: error and cost at every price.
    """

    copies: tuple[Array, ...]
    curves: tuple[Curve, ...]


def savings(
    readers: Readers, tables: Sequence[Table], rooms: Sequence[tuple[int, int]], most: int, uniform: bool
) -> Savings:
    """Sort, for every step, what each further copy saves: any price is then answered by a search.

    `copies[step][c, side, n]` is what copy n + 1 saves, made non-increasing in n (a later copy is worth nothing without
    the earlier ones); at a price t a channel takes the copies that save more than t.  The coherent part enters by
    its diagonal.

    Args:
        readers: how the readers weigh errors.
        tables: errors by step.
        rooms: most copies on the upper and the lower side, by step.
        most: copies a channel.
        uniform: whether all channels must get the same number of copies.
    """
    gain = readers.gain[:, None, None]
    extra = np.maximum(readers.gain_mean - readers.gain, 0)[:, None, None]
    copies, curves = [], []
    for t, room in zip(tables, rooms, strict=True):
        square, mean = t.up_to(most)
        e = gain * square + extra * mean**2
        if uniform:
            e = np.broadcast_to(e.mean(0), e.shape)
        saving = np.minimum.accumulate(np.maximum(e[:, :, :-1] - e[:, :, 1:], 0), axis=2)
        for side, free in enumerate(room):
            saving[:, side, max(free, 0) :] = 0
        ordered = np.sort(saving[saving > 0])
        copies.append(saving[:, :, : max(*room, 0)].astype(np.float32))
        curves.append(Curve(float(e[:, :, 0].sum()), ordered, np.concatenate([[0.0], np.cumsum(ordered)])))
    return Savings(tuple(copies), tuple(curves))
