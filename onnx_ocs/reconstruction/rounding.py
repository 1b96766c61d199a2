"""Round a matrix to integers so that its error, weighed by the inputs' moments, stays small.

    minimise   (q - u) H (q - u)^T for every row,       low <= q <= high

First successive rounding with error feedback (GPTQ, arXiv 2210.17323, in the form of Babai's nearest plane: the
factor of H itself, from the input with the largest diagonal down), then sweeps of coordinate descent.  All arrays are
in units of the grid: u is the wanted weight divided by its scale, plus the zero-point.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Weights", "descend", "feed_back"]

BLOCK = 64  # inputs that are rounded before the others hear of it


class Weights:
    """What errors of the inputs' integers count, and its factor, made once for all that are rounded by the same one.

    Attributes:
        h: positive definite, (G, K, K).
    """

    def __init__(self, h: Array) -> None:
        """Take H."""
        self.h = h

    @cached_property
    def order(self) -> Array:
        """The inputs from the smallest diagonal up, (G, K): the last is rounded first."""
        return np.argsort(np.diagonal(self.h, axis1=1, axis2=2), axis=1, kind="stable")

    @cached_property
    def factor(self) -> tuple[Array, Array]:
        """The Cholesky factor of H in that order, every column divided by its diagonal, (G, K, K); and that, (G, K)."""
        moved = np.stack([h[np.ix_(o, o)] for h, o in zip(self.h, self.order, strict=True)])
        found = np.linalg.cholesky(moved)
        del moved
        diagonal = np.diagonal(found, axis1=1, axis2=2).copy()
        found /= diagonal[:, None, :]
        return found, diagonal


def feed_back(u: Array, weights: Weights, low: int, high: int) -> tuple[Array, Array]:
    """Round row by row, each rounding error made good by the inputs that are not yet rounded.

    With H = L L^T, what is lost is the sum of squares of L^T (q - u), whose k-th element is the diagonal's times what
    the k-th input was rounded by.

    Args:
        u: what is wanted, (G, m, K).
        weights: what errors count.
        low: smallest integer.
        high: largest.

    Returns:
        The integers, float64 (G, m, K), and (q - u) H (q - u)^T of every row, (G, m).
    """
    order, (lower, diagonal) = weights.order, weights.factor
    w = np.take_along_axis(u.transpose(0, 2, 1), order[:, :, None], 1)  # (G, K, m): what is rounded lies together
    q, left = np.empty_like(w), np.zeros_like(w)  # left: what was wanted minus what it was rounded to
    lost, size = np.zeros((len(w), w.shape[2])), w.shape[1]
    for stop in range(size, 0, -BLOCK):
        start = max(0, stop - BLOCK)
        hint = w[:, start:stop].copy()
        if stop < size:
            hint += lower[:, stop:, start:stop].transpose(0, 2, 1) @ left[:, stop:]
        for k in range(stop - 1, start - 1, -1):
            now = q[:, k]
            np.rint(hint[:, k - start], out=now)
            np.maximum(now, low, out=now)
            np.minimum(now, high, out=now)
            np.subtract(w[:, k], now, out=left[:, k])
            lost += ((hint[:, k - start] - now) * diagonal[:, k, None]) ** 2
            if k > start:
                hint[:, : k - start] += lower[:, k, start:k, None] * left[:, k, None]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(q, back[:, :, None], 1).transpose(0, 2, 1), lost


def descend(q: Array, u: Array, h: Array, low: int, high: int, sweeps: int) -> Array:
    """Coordinate descent: every integer in turn becomes the best one, all others as they are.

    Args:
        q: integers to start from, (G, m, K).
        u: what is wanted, (G, m, K).
        h: positive definite, (G, K, K).
        low: smallest integer.
        high: largest.
        sweeps: most rounds; it stops where none changes.

    Returns:
        The integers.
    """
    q = np.ascontiguousarray(q.transpose(0, 2, 1))
    gradient = h @ (q - u.transpose(0, 2, 1))
    inverse = 1 / np.diagonal(h, axis1=1, axis2=2)
    size = q.shape[1]
    for _ in range(sweeps):
        changed = False
        for start in range(0, size, BLOCK):
            stop = min(size, start + BLOCK)
            near, moves = gradient[:, start:stop], np.zeros_like(q[:, start:stop])
            for k in range(start, stop):
                better = np.rint(q[:, k] - near[:, k - start] * inverse[:, k, None])
                np.maximum(better, low, out=better)
                np.minimum(better, high, out=better)
                change = better - q[:, k]
                if not change.any():
                    continue
                q[:, k] = better
                moves[:, k - start] = change
                near += h[:, start:stop, k, None] * change[:, None]
            if moves.any():
                changed = True
                gradient[:, :start] += h[:, :start, start:stop] @ moves
                gradient[:, stop:] += h[:, stop:, start:stop] @ moves
        if not changed:
            break
    return q.transpose(0, 2, 1)
