"""What a tensor of a rewritten model is, in terms of one tensor of the original.

Along its channel axis a tensor of the rewritten model holds rows, and each is known as a formula over the original's
channels c:

    the same       row c is channel c
    Shifted        row j = side(factor[j] * a[origin[j]] - shift[j]): what goes into a quantizer of copies; its integers
    Wide           row j is the base or a copy of channel origin[j] behind that quantizer, or a sum of several

A `Wide` value whose rows are the full sums of their channels, in order, is the original's tensor again: that is how a
fold-back is proven, whatever nodes it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.qdq.quantizer import Quantizer

__all__ = ["Differs", "Layout", "Shifted", "Sums", "Value", "Wide", "concat"]

FLOAT = 1e-6  # rounding of float32 constants


class Differs(Exception):
    """The rewritten model is not what the original and the declarations say; the message is the finding."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The channels that a file declares behind one quantizer.

    Attributes:
        axis: channel axis.
        origin: the original's channel of every channel, int64 (W,).
        level: 0 for a base, i for its i-th copy on the upper side, -i on the lower side, int64 (W,).
        narrow: number of the original's channels.
        halved: whether a base and its copy hold half of the value each.
        full: whether every copy holds a whole range, and stands at an end of it while its channel needs it not.
    """

    axis: int
    origin: Array
    level: Array
    narrow: int
    halved: bool = False
    full: bool = False

    def check(self) -> None:
        """Every channel has one base, and copies 1, 2, ... of each side once.

        Raises:
            Differs: it is no layout.
        """
        if self.origin.shape != self.level.shape or self.narrow <= 0:
            raise Differs("its layout is damaged")
        if self.origin.min(initial=0) < 0 or self.origin.max(initial=0) >= self.narrow:
            raise Differs("its layout names channels that do not exist")
        order = np.lexsort((self.level, self.origin))
        o, lv = self.origin[order], self.level[order]
        inside = o[1:] == o[:-1]
        bases = np.bincount(self.origin[self.level == 0], minlength=self.narrow)
        ordered = np.all(lv[1:][inside] == lv[:-1][inside] + 1)
        if self.full and self.halved:
            raise Differs("its copies cannot hold half of the value and a whole range")
        if not (np.all(bases == 1) and ordered) or (self.halved and not np.all((self.level == 0) | (self.level == 1))):
            raise Differs("its layout does not have one base for every channel, and its copies in turn")

    def same(self, other: Layout) -> bool:
        """Whether two layouts hold the same channels in the same order."""
        return (
            (self.narrow, self.halved, self.full) == (other.narrow, other.halved, other.full)
            and np.array_equal(self.origin, other.origin)
            and np.array_equal(self.level, other.level)
        )


@dataclass(frozen=True, eq=False)
class Sums:
    """Rows that are sums of channels, less constants, float64, in the tensor's units.

    Row j adds up channels[starts[j]:starts[j + 1]], in ascending order, and is less[j] less.
    """

    starts: Array
    channels: Array
    less: Array

    @staticmethod
    def each(count: int) -> Sums:
        """Rows of one channel each."""
        return Sums(np.arange(count + 1), np.arange(count), np.zeros(count))

    def take(self, rows: Array) -> Sums:
        """Some of the rows."""
        sizes = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        where = np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], sizes)
        return Sums(starts, self.channels[where], self.less[rows])

    def join(self, other: Sums) -> Sums:
        """The other's rows behind these."""
        starts = np.concatenate([self.starts, other.starts[1:] + self.starts[-1]])
        less = np.concatenate([self.less, other.less])
        return Sums(starts, np.concatenate([self.channels, other.channels]), less)

    def add(self, other: Sums) -> Sums:
        """Row by row; both have as many."""
        count = self.starts.size - 1
        if other.starts.size - 1 != count:
            raise Differs("it adds up different numbers of channels")
        sizes = np.diff(self.starts), np.diff(other.starts)
        row = np.concatenate([np.repeat(np.arange(count), s) for s in sizes])
        channels = np.concatenate([self.channels, other.channels])
        order = np.lexsort((channels, row))
        return Sums(self.starts + other.starts, channels[order], self.less + other.less)

    def same(self, other: Sums) -> bool:
        """Whether they add up the same, row by row."""
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.channels, other.channels)


@dataclass(frozen=True, eq=False)
class Wide(Layout):
    """A tensor behind a quantizer with copies.

    Attributes:
        integer: whether it holds the integers in front of the DequantizeLinear.
        grid: the quantizer on whose grid every row lies, in this tensor's units; None once that is lost.
        sums: what its rows are; None while row j is channel j of the layout.
    """

    integer: bool = False
    grid: Quantizer | None = None
    sums: Sums | None = None

    def rows(self) -> Sums:
        """What its rows are."""
        return Sums.each(self.origin.size) if self.sums is None else self.sums

    def whole(self) -> bool:
        """Whether its rows are the original's channels: full sums (of integers: the bases alone)."""
        rows = self.rows()
        if rows.starts.size != self.narrow + 1:
            return False
        if self.integer:
            if self.halved or rows.channels.size != self.narrow:
                return False
            kept = self.origin[rows.channels], self.level[rows.channels]
            return np.array_equal(kept[0], np.arange(self.narrow)) and not kept[1].any()
        counts = np.bincount(self.origin, minlength=self.narrow)
        order, rests = np.argsort(self.origin, kind="stable"), self.rests()
        constants, size = (np.bincount(self.origin, v, self.narrow) for v in (rests, np.abs(rests)))
        if np.any(np.abs(rows.less - constants) > FLOAT * size):
            return False
        return rows.same(Sums(np.concatenate([[0], np.cumsum(counts)]), order, constants))

    def rests(self) -> Array:
        """Where each channel stands while its base can express the value, float64 (W,), in the tensor's units."""
        g = self.grid
        if not self.full or g is None:
            return np.zeros(self.origin.size)
        low, top = (np.broadcast_to(v, (self.narrow,))[self.origin] for v in (-g.x_low, g.x_clip))
        return np.where(self.level > 0, low, np.where(self.level < 0, top, 0.0))


@dataclass(frozen=True, eq=False)
class Shifted:
    """A tensor in front of a quantizer of copies: row j = side(factor[j] * a[origin[j]] - shift[j]).

    Attributes:
        axis: channel axis, as the node counts it that made the rows.
        behind: number of axes behind it.
        origin: the original's channels, int64 (W,).
        shift: what is subtracted, float64 (W,).
        factor: what it is multiplied by, float64 (W,).
        side: 1 where max(., 0) was taken, -1 where min(., 0) was, else 0; int64 (W,).
        ceiling: the bound of a Clip that the rows went through after they were shifted.
        rectify: whether rows are right from 0 upwards only, so that the quantizer must saturate there.
        grid: the quantizer that the rows went through, whose integers they are; None: they are float.
    """

    axis: int
    behind: int
    origin: Array
    shift: Array
    factor: Array
    side: Array
    ceiling: float = np.inf
    rectify: bool = False
    grid: Quantizer | None = None

    @staticmethod
    def of(axis: int, behind: int, origin: Array) -> Shifted:
        """Channels as they are."""
        count = origin.size
        return Shifted(axis, behind, origin, np.zeros(count), np.ones(count), np.zeros(count, np.int64))

    def take(self, rows: Array) -> Shifted:
        """Some of the rows."""
        origin, shift, factor, side = (v[rows] for v in self._rows())
        return replace(self, origin=origin, shift=shift, factor=factor, side=side)

    def join(self, other: Shifted) -> Shifted:
        """The other's rows behind these.

        Raises:
            Differs: these are integers and those are not, or on another grid.
        """
        if (self.grid is None) != (other.grid is None) or not (self.grid is None or self.grid.same_grid(other.grid)):
            raise Differs("it joins integers with something else than integers on their grid")
        pairs = zip(self._rows(), other._rows(), strict=True)
        origin, shift, factor, side = (np.concatenate(v) for v in pairs)
        return replace(self, origin=origin, shift=shift, factor=factor, side=side)

    def _rows(self) -> tuple[Array, Array, Array, Array]:
        return self.origin, self.shift, self.factor, self.side

    def plain(self) -> bool:
        """Whether its rows are channels as they are."""
        changed = self.shift.any() or self.side.any() or np.any(self.factor != 1) or self.grid is not None
        return not changed and np.isinf(self.ceiling)

    def per_row(self, constant: Array) -> Array:
        """A constant that broadcasts along the channel axis alone, float64 (W,).

        Raises:
            Differs: it lies otherwise.
        """
        count = self.origin.size
        if constant.size == 1 and constant.ndim <= self.behind + 1:
            return np.full(count, float(constant.reshape(())), np.float64)
        axis = constant.ndim - 1 - self.behind
        if axis < 0 or not constant.size == constant.shape[axis] == count:
            raise Differs("its constant does not lie along the channels")
        return constant.reshape(-1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the rewritten model.

    Attributes:
        of: the original's tensor.
        form: its rows; None: it is the same.
    """

    of: str
    form: Wide | Shifted | None = None

    def settled(self) -> Value:
        """The same, told so where its rows are the original's channels."""
        return Value(self.of) if isinstance(self.form, Wide) and self.form.whole() else self


def concat(parts: list[Wide]) -> Wide:
    """Rows of one wide tensor behind each other.

    Raises:
        Differs: they are not of one tensor.
    """
    first, rows = parts[0], parts[0].rows()
    for p in parts[1:]:
        if not (p.same(first) and p.integer == first.integer):
            raise Differs("it joins channels of different tensors")
        rows = rows.join(p.rows())
    return replace(first, sums=rows)
