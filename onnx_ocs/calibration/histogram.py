"""Histograms of a tensor's channels: filled block by block, exact under merging."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["BINS", "FEW", "Histogram", "compact", "smoothed"]

BINS = 1024
BLOCK = 1 << 18  # values that are counted at a time
ROWS = 32  # channels that are smoothed at a time, so that they stay in the cache
WIDTHS: tuple[type[np.unsignedinteger[Any]], ...] = (np.uint16, np.uint32, np.uint64)
FEW = 32  # neighbouring values of one channel below which a tensor is transposed first


class Histogram:
    """Counts of one tensor's values per channel.

    Attributes:
        counts: (C, BINS), over [-range, range) for signed tensors, [0, range) for others; in the smallest unsigned type
            of 16 bits or more that has room for them: most of a model's memory would be its zeros.
        zeros: int64 (C,), values that are exactly 0 (not in `counts`).
        exponent: the range is 2 ** exponent.
        signed: whether negative values are counted.
        low: smallest value seen; it may lie outside the sampled ones.
        high: largest value seen.
    """

    def __init__(self, channels: int, signed: bool) -> None:
        """Start empty."""
        self.counts = np.zeros((channels, BINS), WIDTHS[0])
        self._most = 0  # no count is larger
        self.zeros = np.zeros(channels, np.int64)
        self.exponent: int | None = None
        self.signed = signed
        self.low, self.high = math.inf, -math.inf

    def _grow(self, size: float) -> None:
        """Double the range until `size` lies inside."""
        needed = math.frexp(max(size, 1e-30))[1]
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            self._most = int(self.counts.max(initial=0))
            self._make_room(self._most)
            merged = self.counts.reshape(len(self.counts), BINS // 2, 2).sum(2, dtype=self.counts.dtype)
            start = BINS // 4 if self.signed else 0
            self.counts[:] = 0
            self.counts[:, start : start + BINS // 2] = merged
            self.exponent += 1

    def _make_room(self, more: int) -> None:
        """Take a wider type, where counts that grow by up to so many do not fit."""
        room = int(np.iinfo(self.counts.dtype).max)
        if self._most + more > room:
            self._most = int(self.counts.max(initial=0))
        self._most += more
        if self._most > room:
            self.counts = self.counts.astype(next(t for t in WIDTHS if self._most <= np.iinfo(t).max))

    def add(self, a: Array) -> None:
        """Count float32 values, shape (C, n) or (B, C, n); values that are not finite are left out."""
        if not a.size:
            return
        a = a.reshape(-1, *a.shape[-2:])
        low, high = float(a.min()), float(a.max())
        lost: Array | int = 0
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = np.isfinite(a)
            if not finite.any():
                return
            low, high = float(a[finite].min()), float(a[finite].max())
            a, lost = np.where(finite, a, np.zeros((), a.dtype)), (~finite).sum((0, 2))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low) if self.signed else 0.0, abs(high)))
        _, channels, n = a.shape
        rows, width = max(1, BLOCK // (channels * n)), max(1, BLOCK // n)
        for r in range(0, len(a), rows):
            for c in range(0, channels, width):
                self._count(a[r : r + rows, c : c + width], slice(c, c + width))
        self.zeros -= lost

    def _count(self, a: Array, channels: slice) -> None:
        """Count finite values that lie in the range; few at a time, so that they stay in the cache."""
        assert self.exponent is not None
        self._make_room(a.shape[0] * a.shape[2])
        zeros = np.count_nonzero(a == 0 if self.signed else a <= 0, axis=(0, 2))
        position = a * np.float32(BINS / 2.0 ** (self.exponent + (1 if self.signed else 0)))
        if self.signed:
            np.floor(position, out=position)
            position += BINS // 2
        elif self.low < 0:
            np.maximum(position, 0, out=position)
        index = position.astype(np.intp)
        index += (np.arange(a.shape[1]) * BINS)[:, None]
        one = self.counts.dtype.type(1)  # a plain 1 would be cast, slowly
        np.add.at(self.counts[channels].reshape(-1), index.ravel(), one)
        self.counts[channels, BINS // 2 if self.signed else 0] -= zeros.astype(self.counts.dtype)
        self.zeros[channels] += zeros

    def merge(self, other: Histogram) -> None:
        """Add another histogram of the same tensor."""
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if other.exponent is None:
            return
        self._grow(2.0 ** (other.exponent - 1))
        assert self.exponent is not None
        if other.exponent < self.exponent:
            wider = Histogram(len(other.counts), other.signed)
            wider.put(other.counts)
            wider.exponent = other.exponent
            wider._grow(2.0 ** (self.exponent - 1))
            other = wider
        self._make_room(int(other.counts.max(initial=0)))
        self.counts += other.counts.astype(self.counts.dtype, copy=False)

    def put(self, counts: Array) -> None:
        """Take over counts, none below 0, of any type."""
        self._most = int(counts.max(initial=0))
        self.counts = counts.astype(next(t for t in WIDTHS if self._most <= np.iinfo(t).max))

    def together(self) -> Histogram:
        """The histogram of all channels as one."""
        new = Histogram(1, self.signed)
        new.put(self.counts.sum(0, np.int64, keepdims=True))
        new.zeros = self.zeros.sum(keepdims=True)
        new.exponent, new.low, new.high = self.exponent, self.low, self.high
        return new

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: counts are small numbers there."""
        return {**vars(self), "counts": compact(self.counts)}

    @property
    def edges(self) -> Array:
        """Lower edges of the bins, float64 (BINS,), and the width is the difference of two."""
        top = 2.0 ** (self.exponent if self.exponent is not None else 0)
        return np.linspace(-top, top, BINS + 1)[:-1] if self.signed else np.linspace(0, top, BINS + 1)[:-1]

    @property
    def total(self) -> Array:
        """Number of values of every channel, int64 (C,)."""
        return np.asarray(self.counts.sum(1, np.int64) + self.zeros)


def compact(counts: Array) -> Array:
    """The same numbers, none below 0, in the smallest unsigned type that holds them."""
    largest = int(counts.max(initial=0))
    return counts.astype(next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max))


def smoothed(h: Histogram, samples: int) -> Array:
    """Counts as more samples would show them: no channel's largest value so far is the largest there is.

    To every channel one sample's share of the distribution that all channels have in common is added, each in units
    of its own root mean square: the others tell how far a channel may go beyond what it has shown.  The fewer the
    samples, the more that counts.

    Args:
        h: the histogram.
        samples: from how many samples it is.

    Returns:
        float64 (C, BINS).
    """
    counts, total = h.counts.astype(np.float64), np.maximum(h.total, 1).astype(np.float64)
    edges = h.edges
    width = edges[1] - edges[0]
    middle = edges + width / 2
    rms = np.sqrt((counts @ (middle * middle)) / total)
    alive = rms > 0
    if not alive.any() or samples < 1:
        return counts
    # units of the root mean square, finer near zero: u = sinh(t), in even steps of t
    top = float(np.arcsinh(np.abs(middle).max() / rms[alive].min()))

    def place(v: Array, r: Array) -> Array:
        u = v / r
        np.arcsinh(u, out=u)
        u += top
        u *= BINS / top
        return np.asarray(u)

    of = np.flatnonzero(alive)
    blocks = [of[k : k + ROWS] for k in range(0, len(of), ROWS)]
    pooled = np.zeros(2 * BINS + 1)
    for rows in blocks:
        which, bins = np.nonzero(counts[rows])
        which = rows[which]
        share = counts[which, bins] / (total * len(of))[which]
        np.add.at(pooled, place(middle[bins], rms[which]).astype(np.intp), share)
    below = np.concatenate([[0.0], np.cumsum(pooled)[:-1]])
    slope = np.diff(below)
    outer = np.append(edges, edges[-1] + width)
    for rows in blocks:
        ends = place(outer, rms[rows, None])
        np.clip(ends, 0, 2 * BINS, out=ends)
        first = np.minimum(ends.astype(np.intp), 2 * BINS - 1)
        ends -= first
        ends *= slope[first]
        ends += below[first]
        # what lies outside, at the ends
        ends[:, -1], ends[:, 0] = below[-1] + pooled[-1], 0.0 if h.signed else ends[:, 0]
        more = np.diff(ends, axis=1)
        more *= total[rows, None] / samples
        counts[rows] += more
    return counts
