"""What a quantizer's error costs its readers, as a function of step and copies, from histograms.

A reader with weight W answers an input error e with E||W e||^2.  With errors of different channels uncorrelated but for
their means m (clipping errors have one sign and add up coherently):

    J = sum_c g_c * (E[e_c^2] - m_c^2) + m' G m,        g_c = sum of W[:, c]^2,   G = S' S,  S = W summed over its taps

g and G add up over all readers of the tensor.  Where one function f alone reads a tensor, as SiLU does what a Conv
writes, the error is f(x) - f(Q(x)): negative values that f makes nothing of may be clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.calibration.histogram import BINS, Histogram
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute
from onnx_ocs.planning.coherent import Coherent, Summing
from onnx_ocs.qdq.layers import Layer, read_layer
from onnx_ocs.regions.function import Function
from onnx_ocs.regions.region import Region

__all__ = ["Readers", "Table", "readers", "tabulate"]

POINTS = 8  # sub-positions inside a bin


@dataclass(frozen=True, eq=False)
class Readers:
    """How the readers weigh a tensor's error.

    Attributes:
        gain: g, float64 (C,).
        coherent: G, or for many channels a narrow F with F F' near G; None when only its diagonal matters.
        gain_mean: diagonal of G, float64 (C,).
    """

    gain: Array
    coherent: Coherent | None
    gain_mean: Array

    @staticmethod
    def equal(channels: int = 1) -> Readers:
        """For a tensor that no layer with a weight reads: all errors count alike (1: channels are not told apart)."""
        return Readers(np.ones(channels), None, np.ones(channels))

    def error(self, table: Table, up: Array, low: Array) -> float:
        """J of so many copies a channel on the upper and on the lower side, int64 (C,), at a table's step."""
        rows = len(self.gain)  # where the step alone is chosen, all channels are one
        up, low = up[:rows], low[:rows]
        (upper, above), (lower, below) = table.at(0, up), table.at(1, low)
        square, m = upper + lower, above + below
        own = (
            self.gain_mean * m * m
            if self.coherent is None
            else m * self.coherent.times(m) + (self.gain_mean - self.coherent.diagonal) * m * m
        )
        return float((self.gain * (square - m * m)).sum() + own.sum())


def _phases(layer: Layer, rows: Array) -> list[Array]:
    """Taps that meet in one output: all of them, but those of one phase of a ConvTranspose's stride."""
    strides, kernel = list(attribute(layer.node, "strides") or ()), layer.weight.shape[2:]
    if layer.kind != "ConvTranspose" or not strides or max(strides) == 1 or len(kernel) != len(strides):
        return [rows]
    dilations = list(attribute(layer.node, "dilations") or [1] * len(kernel))
    index = np.indices(kernel).reshape(len(kernel), -1)
    phase = np.ravel_multi_index(tuple(i * d % s for i, d, s in zip(index, dilations, strides, strict=True)), strides)
    return [rows[:, :, phase == p] for p in np.unique(phase)]


def readers(graph: Graph, region: Region) -> Readers:
    """Weights of all layers that read a region, folded into channel gains."""
    walk = region.walk
    c = walk.channels
    gain, diagonal, coherent = np.zeros(c), np.zeros(c), Summing(c)
    for node, columns, factor in zip(walk.weights, walk.columns, walk.factors, strict=True):
        layer = read_layer(graph, node)
        if layer is None or columns.size % c:
            continue
        inner, groups = columns.size // c, layer.groups
        for part in layer.parts(graph):
            flat = part[columns] * factor
            gain += (flat**2).sum((1, 2)).reshape(c, inner).sum(1)
            for taps in _phases(layer, flat):
                summed = taps.sum(2).reshape(c, inner, -1).sum(1)
                if groups == 1:
                    coherent.add(summed)
                elif inner == 1 and c % groups == 0 and groups < c:
                    coherent.add(summed, groups)
                else:
                    diagonal += (summed**2).sum(1)
    if walk.folded:  # who reads the value itself sees every channel alike
        level = float(gain.mean()) if gain.any() else 1.0
        gain, diagonal = gain + level, diagonal + level
    found = coherent.found()
    return Readers(gain, found, diagonal if found is None else found.diagonal + diagonal)


@dataclass(frozen=True, eq=False)
class Table:
    """Errors of one tensor per element, for one step: for each channel and number of copies on each side.

    Only so many numbers of copies are held as differ: what there is no room for, or nothing left for, is as good as
    what comes before.

    Attributes:
        sides: upper and lower side: sums of squared errors over the number of values, and the same of signed errors,
            float64 (2, C, n) for 0..n - 1 copies.
        most: copies up to which the table goes.
    """

    sides: tuple[Array, Array]
    most: int

    def at(self, side: int, copies: Array) -> tuple[Array, Array]:
        """Squared and signed errors of so many copies a channel, int64 (C,)."""
        squares, means = self.sides[side]
        rows, n = np.arange(len(squares)), np.minimum(copies, squares.shape[1] - 1)
        return squares[rows, n], means[rows, n]

    def up_to(self, most: int) -> tuple[Array, Array]:
        """Squared and signed errors of 0..most copies, each float64 (C, 2, most + 1)."""
        found = (np.take(s, np.minimum(np.arange(most + 1), s.shape[2] - 1), axis=2) for s in self.sides)
        squares, means = np.stack(list(found), axis=2)
        return squares, means

    @property
    def square(self) -> Array:
        """Squared errors of all numbers of copies, float64 (C, 2, most + 1); side 0 is the upper one."""
        return self.up_to(self.most)[0]

    @property
    def mean(self) -> Array:
        """The same of signed errors."""
        return self.up_to(self.most)[1]


def tabulate(
    h: Histogram,
    counts: Array,
    scales: Sequence[float],
    low: int,
    high: int,
    rooms: Sequence[tuple[int, int]],
    most: int,
    full: bool = False,
    behind: Function | None = None,
) -> list[Table]:
    """Errors of quantizing with each of several steps, for 0..most copies on each side.

    Copies that there is no room for, or that nothing is left for, are as good as those before.

    Args:
        h: the tensor's histogram.
        counts: its counts, as they are or `onnx_ocs.calibration.histogram.smoothed`.
        scales: the steps.
        low: integers that the quantizer can express below zero (zero_point - qmin).
        high: integers above zero (qmax - zero_point).
        rooms: most copies on the upper and the lower side, for every step.
        most: copies up to which the tables go.
        full: whether each copy holds all integers of the quantizer, not those of its side.
        behind: the one function that reads the tensor: errors are those behind it.
    """
    edges = h.edges
    width = edges[1] - edges[0]
    # the golden ratio shifts the positions from bin to bin, so that they do not fall in step with the grid
    turn = np.arange(BINS) * 0.6180339887498949 % 1.0
    v = edges + width * ((np.arange(POINTS)[:, None] + turn) % POINTS) / POINTS
    total = np.maximum(h.zeros + counts.sum(1), 1)
    sides: list[Sequence[Array]] = []
    positive = int(np.searchsorted(edges, 0.0))
    for side, (levels, mine) in enumerate(((high, slice(positive, BINS)), (low, slice(positive)))):
        if mine.stop == 0:
            sides.append([np.zeros((2, len(counts), 1))] * len(scales))
            continue
        x = np.abs(v[:, mine])
        errors = []
        for scale, room in zip(scales, rooms, strict=True):
            each = low + high if full else levels
            enough = 1 + np.ceil((np.rint(x.max() / scale) - levels) / each) if each else 1
            most_of = levels + each * np.arange(max(1, min(room[side] + 1, int(enough))))
            if behind is None:
                errors.append(_bins(x, scale, width, most_of))
            else:
                errors.append(_bins_behind(x, scale, width, most_of, behind, -1 if side else 1))
        # one product for all steps: the counts are read once
        ends = np.cumsum([e.shape[2] for e in errors])[:-1]
        found = counts[:, mine] @ np.concatenate(errors, 2) / total[:, None]
        if side == 1:
            found[1] *= -1
        sides.append(np.split(found, ends, 2))
    return [Table(both, most) for both in zip(*sides, strict=True)]


def _bins(x: Array, scale: float, width: float, most: Array) -> Array:
    """Mean squared and mean signed error of every bin, for each number of copies.

    Args:
        x: magnitudes, (points, bins).
        scale: the step.
        width: of a bin.
        most: largest integer with 0..N copies, (N + 1,).

    Returns:
        float64 (2, bins, N + 1).
    """
    k = np.rint(x / scale)
    if 2 * scale < width:  # finer than a bin resolves: rounding errors are uniform in [-s/2, s/2]
        rounded, inside = 0.0 * x, np.full(x.shape, scale * scale / 12)
    else:
        rounded = x - k * scale
        inside = rounded**2
    out = np.empty((2, x.shape[1], len(most)))
    out[0], out[1] = inside.mean(0)[:, None], rounded.mean(0)[:, None]
    whole, some = (v[:, None] > most for v in (k.min(0), k.max(0)))  # clipped: most bins are not, by most copies
    middle = x.mean(0)
    beyond = middle[:, None] - most * scale
    np.copyto(out[0], beyond**2 + ((x - middle) ** 2).mean(0)[:, None], where=whole)
    np.copyto(out[1], beyond, where=whole)
    at = np.nonzero(some & ~whole)  # a bin in which clipping begins
    x, k, top = x[:, at[0]], k[:, at[0]], most[at[1]]
    error = np.where(k > top, x - top * scale, rounded[:, at[0]])
    out[0][at] = np.where(k > top, error**2, inside[:, at[0]]).mean(0)
    out[1][at] = error.mean(0)
    return out


def _bins_behind(x: Array, scale: float, width: float, most: Array, f: Function, sign: int) -> Array:
    """The same behind a function of the values `sign * x`; signed errors are those of magnitudes, too."""
    k, exact = np.rint(x / scale), f(sign * x)
    out = np.empty((2, x.shape[1], len(most)))
    for n, top in enumerate(most):
        error = exact - f(sign * np.minimum(k, top) * scale)
        if 2 * scale < width:  # finer than a bin resolves: rounding errors are uniform, times the slope
            slope = (f(sign * x + width / 2) - f(sign * x - width / 2)) / width
            error = np.where(k > top, error, slope * scale / np.sqrt(12))
        out[0, :, n], out[1, :, n] = np.square(error).mean(0), sign * error.mean(0)
    return out
