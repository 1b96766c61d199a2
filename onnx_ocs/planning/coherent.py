"""How errors of different channels add up at the readers of a tensor: G = S S', S the weights summed over their taps.

G has a row and a column for each channel, many times the weights where there are thousands.  Then it is known by its
diagonal and a narrow factor: F = S R, where R are random signs, has rows whose products are those of S but for a few
percent (Johnson and Lindenstrauss).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Coherent", "Summing"]

WIDE = 2048  # channels beyond which G is not held
NARROW = 256  # columns of F: m' G m is right to sqrt(2 / 256), 9 %


@dataclass(frozen=True, eq=False)
class Coherent:
    """G.

    Attributes:
        matrix: G, float64 (C, C); with `narrow` F, float32 (C, NARROW), whose rows have the lengths of those of S.
        diagonal: of G, float64 (C,).
        narrow: whether the matrix is F.
    """

    matrix: Array
    diagonal: Array
    narrow: bool = False

    def times(self, m: Array) -> Array:
        """G m."""
        return np.asarray(self.matrix @ (self.matrix.T @ m) if self.narrow else self.matrix @ m)


class Summing:
    """G, summed over the outputs of all readers."""

    def __init__(self, channels: int) -> None:
        self.channels, self.narrow, self.seen = channels, channels > WIDE, False
        self._random = np.random.default_rng(0)
        self._sum = np.zeros((channels, NARROW if self.narrow else channels))
        self._diagonal = np.zeros(channels)

    def add(self, summed: Array, groups: int = 1) -> None:
        """Count weights, float64 (C, outputs); of several groups that do not see each other, each its outputs."""
        self.seen = True
        each = self.channels // groups
        if not self.narrow:
            product = summed @ summed.T
            block = np.arange(self.channels) // each
            self._sum += product if groups == 1 else np.where(block[:, None] == block, product, 0.0)
            return
        self._diagonal += (summed**2).sum(1)
        for k in range(groups):
            rows = slice(k * each, (k + 1) * each)
            signs = self._random.integers(0, 2, (summed.shape[1], NARROW)) * 2.0 - 1.0
            self._sum[rows] += summed[rows] @ signs

    def found(self) -> Coherent | None:
        """G; None where nothing was counted."""
        if not self.seen:
            return None
        if not self.narrow:
            return Coherent(self._sum, np.diag(self._sum))
        length = np.sqrt((self._sum**2).sum(1))
        gain = np.sqrt(self._diagonal) / np.where(length > 0, length, 1.0)
        return Coherent((self._sum * gain[:, None]).astype(np.float32), self._diagonal, True)
