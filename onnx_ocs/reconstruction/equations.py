"""The equations of a large layer, from the rows themselves.

Inputs are centred once; targets come some outputs at a time.  Where there are far fewer rows than inputs,

    W* = W_0 + (T - W_0 X) (X' X + lambda I)^-1 X'

is solved, a system of rows by rows: it is what the moments say (`onnx_ocs.reconstruction.solve`), and takes a tenth of
the time.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.moments import ROWS, Moments
from onnx_ocs.reconstruction.solve import best, gained, stretched

__all__ = ["Inputs", "Rows"]

FEW = 2  # so many times fewer rows than inputs are few


class Inputs:
    """Inputs of some rows, centred where the bias is free.

    Attributes:
        weights: how much each row counts; empty: all alike.
        centred: whether the bias is free.
        root: roots of the weights, (rows, 1).
        count: number of rows, or the sum of their weights.
        mean: of the inputs, (K,).
        x: the inputs less their mean, multiplied by the roots, float32 (rows, K).
        few: whether there are far fewer rows than inputs.
    """

    def __init__(self, x: Array, weights: Array, centred: bool) -> None:
        """Centre them.

        Args:
            x: inputs, float32 (rows, K).
            weights: how much each row counts, (rows,); empty: all alike.
            centred: whether the bias is free.
        """
        self.weights, self.centred = weights, centred
        self.root = np.sqrt(weights)[:, None] if weights.size else None
        self.count = float(weights.sum(dtype=np.float64)) if weights.size else float(len(x))
        self.mean = _mean(x, weights, self.count) if centred else np.zeros(x.shape[1])
        self.x = _less(x, self.mean, self.root)
        self.few = FEW * len(x) < x.shape[1]

    @cached_property
    def h(self) -> Array:
        """H."""
        return _product(self.x, self.x)

    @cached_property
    def level(self) -> float:
        """Mean of the diagonal of H, where it is not 0."""
        diagonal = np.square(self.x, dtype=np.float64).sum(0)
        mean = float(diagonal.sum()) / max(int((diagonal > 0).sum()), 1)
        return mean if mean > 0 else 1.0

    def regular(self, ridge: float) -> Array:
        """H + lambda I, (1, K, K)."""
        found = _product(self.x, self.x) if self.few else self.h.copy()
        found[np.diag_indices_from(found)] += ridge * self.level
        return found[None]

    def aiming(self, t: Array) -> Rows:
        """With targets (rows, outputs)."""
        return (_Few if self.few else _Many)(self, t)


class Rows:
    """Inputs and targets: what the equations ask of them.  Weights are float64 (1, outputs, K)."""

    def __init__(self, inputs: Inputs, t: Array) -> None:
        """Take targets, float32 (rows, outputs)."""
        self.inputs = inputs
        self.mean = _mean(t, inputs.weights, inputs.count) if inputs.centred else np.zeros(t.shape[1])
        self.t = _less(t, self.mean, inputs.root)
        self.squares = np.square(self.t, dtype=np.float64).sum(0)

    def energy(self) -> float:
        """Sum of squares of the targets."""
        return float((self.squares + self.inputs.count * self.mean**2).sum())

    def bias(self, w: Array) -> Array:
        """The bias that makes means right, (1, outputs)."""
        return np.asarray((self.mean - w[0] @ self.inputs.mean)[None])

    def error(self, w: Array, bias: Array) -> float:
        """Squared error."""
        off = self.mean - w[0] @ self.inputs.mean - bias[0]
        return float((np.maximum(self.spread(w), 0) + self.inputs.count * off**2).sum())

    def spread(self, w: Array) -> Array:
        """Squared error about the means, (outputs,)."""
        raise NotImplementedError

    def start(self, prior: Array) -> Array:
        """W_0 with every row multiplied by what brings it nearest to the targets."""
        raise NotImplementedError

    def best(self, start: Array, ridge: float) -> Array:
        """W*."""
        raise NotImplementedError


class _Many(Rows):
    """By the moments, as layers that are not large."""

    @cached_property
    def moments(self) -> Moments:
        i = self.inputs
        c = _product(self.t, i.x)[None]
        return Moments(i.count, i.mean[None], self.mean[None], i.h[None], c, self.squares[None])

    def spread(self, w: Array) -> Array:
        m = self.moments
        return np.asarray((m.tt - 2 * (w * m.c).sum(2) + ((w @ m.h) * w).sum(2))[0])

    def start(self, prior: Array) -> Array:
        return gained(self.moments, prior)

    def best(self, start: Array, ridge: float) -> Array:
        return best(self.moments, start, ridge, start)[0]


class _Few(Rows):
    """By the rows."""

    @cached_property
    def x(self) -> Array:
        return self.inputs.x.astype(np.float64)

    def spread(self, w: Array) -> Array:
        return np.asarray(np.square(self.t - self.x @ w[0].T).sum(0))

    def start(self, prior: Array) -> Array:
        y = self.x @ prior[0].T
        return stretched(prior, (self.t * y).sum(0)[None], np.square(y).sum(0)[None])

    def best(self, start: Array, ridge: float) -> Array:
        kernel = self.x @ self.x.T
        kernel[np.diag_indices_from(kernel)] += ridge * self.inputs.level
        alike = np.linalg.solve(kernel, self.t - self.x @ start[0].T)
        return np.asarray(start + (alike.T @ self.x)[None])


def _mean(x: Array, weights: Array, count: float) -> Array:
    by = weights.astype(np.float64) if weights.size else np.ones(len(x))
    return np.asarray(by @ x / max(count, 1e-30))


def _less(x: Array, mean: Array, root: Array | None) -> Array:
    x = x - mean.astype(np.float32)
    return x if root is None else x * root.astype(np.float32)


def _product(a: Array, b: Array) -> Array:
    """The product of a, turned, and b; summed in float64."""
    found = np.zeros((a.shape[1], b.shape[1]))
    for k in range(0, len(a), ROWS):
        found += a[k : k + ROWS].T @ b[k : k + ROWS]
    return found
