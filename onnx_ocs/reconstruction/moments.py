"""Second moments of a layer's inputs and targets, streamed in float64.

    H = sum (x - mean x)(x - mean x)^T        C = sum (t - mean t)(x - mean x)^T        T = sum (t - mean t)^2

for every group.  They are summed about a fixed point near the mean, so that nothing cancels; sums of some samples and
of others can be put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Moments", "Sums", "added"]

CAST = 1 << 20  # values that become float64 at a time, as far as groups allow
ROWS = 4096  # multiplied at a time in float32 (their sums are then added up in float64)


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred moments of some rows.

    Attributes:
        count: number of rows, or the sum of their weights.
        x: means of the inputs, (G, K).
        t: means of the targets, (G, m).
        h: H, (G, K, K).
        c: C, (G, m, K).
        tt: T, (G, m).
    """

    count: float
    x: Array
    t: Array
    h: Array
    c: Array
    tt: Array

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of rows."""
        n = self.count + other.count
        if not other.count or not self.count:
            return self if self.count else other
        share = self.count * other.count / n
        dx, dt = other.x - self.x, other.t - self.t
        return Moments(
            n,
            self.x + dx * (other.count / n),
            self.t + dt * (other.count / n),
            self.h + other.h + share * dx[:, :, None] * dx[:, None, :],
            self.c + other.c + share * dt[:, :, None] * dx[:, None, :],
            self.tt + other.tt + share * dt**2,
        )

    def uncentred(self) -> Moments:
        """The same about zero: for layers whose bias is fixed."""
        zero_x, zero_t = np.zeros_like(self.x), np.zeros_like(self.t)
        n = self.count
        return Moments(
            n,
            zero_x,
            zero_t,
            self.h + n * self.x[:, :, None] * self.x[:, None, :],
            self.c + n * self.t[:, :, None] * self.x[:, None, :],
            self.tt + n * self.t**2,
        )

    def error(self, w: Array, bias: Array) -> Array:
        """Sum of (t - w x - bias)^2 over the rows, (G, m)."""
        spread = self.tt - 2 * (w * self.c).sum(2) + ((w @ self.h) * w).sum(2)
        off = self.t - (w @ self.x[:, :, None])[:, :, 0] - bias
        return np.asarray(np.maximum(spread, 0) + self.count * off**2)

    def energy(self) -> Array:
        """Sum of t^2, (G, m)."""
        return np.asarray(self.tt + self.count * self.t**2)


def added(parts: Sequence[Moments]) -> Moments:
    """Moments of several layers with one weight, each about its own means: what they say of the weight.

    The means are those of the first: each layer has a bias of its own.
    """
    first, *others = parts
    if not others:
        return first
    return replace(
        first,
        count=sum(m.count for m in parts),
        h=np.sum([m.h for m in parts], axis=0),
        c=np.sum([m.c for m in parts], axis=0),
        tt=np.sum([m.tt for m in parts], axis=0),
    )


class Sums:
    """Running sums, in the order in which rows come."""

    def __init__(self, x: Array, t: Array) -> None:
        """Take the point near the mean from the first rows; (G, rows, K) and (G, rows, m)."""
        self.x0, self.t0 = ((_added_up(v) / v.shape[1]).astype(np.float32) for v in (x, t))
        groups, _, k = x.shape
        m = t.shape[2]
        self.count = 0.0
        self.sx, self.st = np.zeros((groups, k)), np.zeros((groups, m))
        self.h, self.c, self.tt = np.zeros((groups, k, k)), np.zeros((groups, m, k)), np.zeros((groups, m))

    def add(self, part: tuple[float, Array, Array, Array, Array, Array]) -> None:
        """Add what `products` has made of some rows."""
        n, sx, st, h, c, tt = part
        self.count += n
        for mine, more in zip((self.sx, self.st, self.h, self.c, self.tt), (sx, st, h, c, tt), strict=True):
            mine += more

    def products(
        self, x: Array, t: Array, weights: Array | None = None
    ) -> tuple[float, Array, Array, Array, Array, Array]:
        """The sums of some rows about the fixed point.

        Args:
            x: inputs, float32 (G, rows, K).
            t: targets, float32 (G, rows, m).
            weights: how much each row counts, (rows,); None: all alike.
        """
        x, t = x - self.x0[:, None], t - self.t0[:, None]
        count = float(x.shape[1])
        root: Array | None = None
        if weights is not None:
            count, root = float(weights.sum(dtype=np.float64)), np.sqrt(weights)
            x, t = x * root[:, None], t * root[:, None]
        sx, st = _added_up(x, root), _added_up(t, root)
        h, c = np.zeros_like(self.h), np.zeros_like(self.c)
        for k in range(0, x.shape[1], ROWS):
            a, b = x[:, k : k + ROWS], t[:, k : k + ROWS]
            h += a.transpose(0, 2, 1) @ a
            c += b.transpose(0, 2, 1) @ a
        return count, sx, st, h, c, np.square(t, dtype=np.float64).sum(1)

    def moments(self) -> Moments:
        """The centred moments."""
        n = self.count or 1.0
        dx, dt = self.sx / n, self.st / n
        return Moments(
            self.count,
            self.x0 + dx,
            self.t0 + dt,
            self.h - n * dx[:, :, None] * dx[:, None, :],
            self.c - n * dt[:, :, None] * dx[:, None, :],
            self.tt - n * dt**2,
        )


def _added_up(x: Array, weights: Array | None = None) -> Array:
    """Sum over the rows, float64 (G, K), as a product: many times faster than a sum along rows."""
    by = np.ones(x.shape[1]) if weights is None else weights.astype(np.float64)
    some = max(1, CAST // max(1, x[0].size))
    return np.concatenate([by @ x[g : g + some] for g in range(0, len(x), some)])
