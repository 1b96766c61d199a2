"""The closed form: from moments to integers, scales and biases of one layer.

    W* = (C + lambda W_0) (H + lambda I)^-1,      lambda = ridge * mean diag H

minimises |T - W X|^2 + lambda |W - W_0|^2 over rows X of what the quantized network delivers and T of what the float
one has behind the layer (asymmetric calibration, as in GPTAQ, arXiv 2504.02692).  The ridge is chosen on samples that
are held out, then W* is computed from all and rounded (`onnx_ocs.reconstruction.rounding`).  Few bits get new scales:
several are tried, and the best is refined in turn with the integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.moments import Moments, added
from onnx_ocs.reconstruction.rounding import Weights, descend, feed_back

__all__ = [
    "RIDGES", "Problem", "Solution", "best", "choose_ridge", "gained", "mean_bias", "problem", "rounded", "solve",
    "stretched",
]  # fmt: skip

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
FEW_LEVELS = 16  # levels up to which new scales are tried
FACTORS = tuple(np.linspace(0.5, 1.4, 13))
MOST_GAIN = 2.0  # of a row, before it is fitted
SWEEPS = 3
REFINED = 2  # times that scale and integers are refined in turn


@dataclass(frozen=True, eq=False)
class Problem:
    """What is known of a layer besides its moments.

    A weight is scale * stretch * (q - zero): one scale a row, and where scales lie along the inputs a stretch of these.

    Attributes:
        prior: W_0, (G, m, K), in units of the output.
        scale: of every row, in units of the output, (G, m, 1).
        stretch: of every input, (G, 1, K).
        zero: zero-points, (G, m, K) or broadcast.
        low: smallest integer.
        high: largest.
        now: the integers now, (G, m, K).
        owner: which of the scales each row has, (G, m); None where scales must stay.
        scales: how many scales there are.
        dyadic: whether scales must be powers of two.
        precision: dtype of the scales.
        centred: whether the bias is free.
        used: which inputs there are, bool (G, 1, K); False where a group has fewer than others.
    """

    prior: Array
    scale: Array
    stretch: Array
    zero: Array
    low: int
    high: int
    now: Array
    owner: Array | None
    scales: int
    dyadic: bool
    precision: np.dtype[np.generic]
    centred: bool
    used: Array

    @property
    def few(self) -> bool:
        """Whether there are so few levels that new scales pay."""
        return self.high - self.low < FEW_LEVELS

    def weight(self, q: Array, factor: Array | None = None) -> Array:
        """The weights of integers, with scales multiplied by a factor."""
        return np.asarray((q - self.zero) * self.scaled(factor) * self.stretch * self.used)

    def scaled(self, factor: Array | None) -> Array:
        """Every row's scale, multiplied by its factor, (G, m, 1)."""
        return self.scale if factor is None or self.owner is None else self.scale * factor[self.owner][:, :, None]


@dataclass(frozen=True, eq=False)
class Solution:
    """New values for one layer.

    Attributes:
        q: integers, float64 (G, m, K).
        factor: by what every scale is multiplied, (scales,).
        weight: the weights in units of the output, (G, m, K).
        bias: what is to be added, (G, m).
        ridge: the chosen ridge.
    """

    q: Array
    factor: Array
    weight: Array
    bias: Array
    ridge: float


def problem(layer: LinearMap, prior: Array | None, scale_free: bool) -> Problem | None:
    """A layer's grid in matrix form; None where its scales are neither of rows nor of inputs.

    Args:
        layer: the layer.
        prior: W_0 in units of the output, (G, m, K); None for the weights as they are.
        scale_free: whether new scales may be chosen.
    """
    stored = layer.weight
    shape = stored.chain.shape
    assert stored.held is not None
    used = layer.used
    scales = layer.matrix(np.broadcast_to(stored.spread(stored.scale), shape)) * layer.factor
    zero = layer.matrix(np.broadcast_to(stored.spread(stored.zero), shape))
    row = scales[:, :, :1]
    stretch = np.where(used, scales / row, 1.0)[:, :1]
    if not np.allclose(np.where(used, row * stretch, scales), scales, rtol=1e-12, atol=0):
        return None
    numbers = layer.matrix(np.broadcast_to(stored.spread(np.arange(stored.scale.size, dtype=np.float64)), shape))
    apart = bool(np.all(~used | (numbers == numbers[:, :, :1])))
    owner = numbers[:, :, 0].astype(np.int64) if scale_free and apart else None
    now = np.where(used, layer.matrix(stored.held), zero)
    dyadic = bool(np.all(np.frexp(stored.scale)[0] == 0.5))
    precision = np.dtype(stored.dtype) if stored.kind == "floats" else np.dtype(np.float32)
    if prior is not None and layer.only is not None:
        prior = prior[:, layer.only]
    before = ((now - zero) * scales) if prior is None else prior.astype(np.float64)
    return Problem(
        before, row, stretch, zero, stored.low, stored.high, now, owner, stored.scale.size, dyadic, precision,
        layer.free, np.asarray(used.any(1, keepdims=True)),
    )  # fmt: skip


def _level(m: Moments) -> Array:
    """Mean diagonal of H for every group, (G, 1, 1)."""
    diagonal = np.diagonal(m.h, axis1=1, axis2=2)
    mean = diagonal.sum(1) / np.maximum((diagonal > 0).sum(1), 1)
    return np.asarray(np.where(mean > 0, mean, 1.0)[:, None, None])


def _regular(m: Moments, ridge: float) -> tuple[Array, Array]:
    """H + lambda I, and lambda for every group."""
    lam = ridge * _level(m)
    return m.h + lam * np.eye(m.h.shape[1]), lam


def best(m: Moments, prior: Array, ridge: float, start: Array | None = None) -> tuple[Array, Array]:
    """W* and H + lambda I; `start` is what `gained` makes of the prior, where that is known."""
    h, lam = _regular(m, ridge)
    wanted = m.c + lam * (gained(m, prior) if start is None else start)
    return np.linalg.solve(h, wanted.transpose(0, 2, 1)).transpose(0, 2, 1), h


def gained(m: Moments, prior: Array) -> Array:
    """W_0 with every row multiplied by what brings it nearest to the targets."""
    return stretched(prior, (m.c * prior).sum(2), ((prior @ m.h) * prior).sum(2))


def stretched(prior: Array, along: Array, across: Array) -> Array:
    """W_0 with every row multiplied by `along / across`, within limits."""
    gain = np.where((along > 0) & (across > 0), along / np.where(across > 0, across, 1.0), 1.0)
    return np.asarray(prior * np.clip(gain, 1 / MOST_GAIN, MOST_GAIN)[:, :, None])


def mean_bias(m: Moments, w: Array) -> Array:
    """The bias that makes means right, (G, m)."""
    return np.asarray(m.t - (w @ m.x[:, :, None])[:, :, 0])


def choose_ridge(p: Problem, fits: Sequence[Moments], helds: Sequence[Moments]) -> tuple[float, bool]:
    """The ridge that is best on held-out samples, and whether the error there is finite.

    Args:
        p: the layer.
        fits: moments of the samples to fit on; of several layers that share the weight, one each.
        helds: of those that are held out.
    """
    errors = []
    fit = added(fits)
    start = gained(fit, p.prior)
    for ridge in RIDGES:
        w, _ = best(fit, p.prior, ridge, start)
        each = (held.error(w, mean_bias(m, w)).sum() for m, held in zip(fits, helds, strict=True))
        errors.append(float(sum(each)))
    k = int(np.argmin(errors))
    return RIDGES[k], np.isfinite(errors[k])


def _shared(p: Problem, errors: Array) -> Array:
    """Errors of rows, (F, G, m), added up over the rows that have a scale in common, (F, scales)."""
    assert p.owner is not None
    out = np.zeros((len(errors), p.scales))
    for k, e in enumerate(errors):
        np.add.at(out[k], p.owner, e)
    return out


def _storable(p: Problem, factor: Array) -> Array:
    """Factors as they can be stored: every scale in its dtype, powers of two where they must be."""
    if p.dyadic:
        return np.asarray(2.0 ** np.rint(np.log2(factor)))
    if p.owner is None:
        return factor
    now = np.ones(p.scales)
    now[p.owner] = p.scale[:, :, 0]
    return np.asarray((now * factor).astype(p.precision).astype(np.float64) / now)


def _factors(p: Problem, wanted: Array) -> list[Array]:
    """The factors to try; `wanted` in units of the grid, without zero-point."""
    one = np.ones(p.scales)
    if p.owner is None:
        return [one]
    if p.few and not p.dyadic:
        return [_storable(p, one * f) for f in FACTORS] + [one]
    room = np.where(wanted > 0, p.high - p.zero, p.zero - p.low)
    grown = one.copy()
    np.maximum.at(grown, p.owner, (np.abs(wanted) / np.maximum(room, 1.0)).max(2))
    if p.dyadic:
        return [one, one * 2.0, one * 0.5] if p.few else [one, 2.0 ** np.ceil(np.log2(grown))]
    return [one, _storable(p, grown)] if np.any(grown > 1) else [one]


def solve(p: Problem, m: Moments, ridge: float) -> Solution:
    """Integers, scales and bias from all moments.

    Args:
        p: the layer.
        m: moments of all samples that may be fitted on.
        ridge: as chosen.
    """
    target, h = best(m, p.prior, ridge)
    return rounded(p, target, Weights(h), ridge, lambda w: mean_bias(m, w))


def rounded(p: Problem, target: Array, weights: Weights, ridge: float, bias: Callable[[Array], Array]) -> Solution:
    """Integers, scales and bias near W*.

    Args:
        p: the layer.
        target: W*, (G, m, K).
        weights: H + lambda I.
        ridge: as chosen.
        bias: gives the bias that goes with weights.
    """
    if np.any(p.stretch != 1):
        weights = Weights(weights.h * p.stretch * p.stretch.transpose(0, 2, 1))
    wanted = target / (p.scale * p.stretch)
    factors = _factors(p, wanted)
    q, factor = _round(p, wanted, weights, factors)
    h = weights.h
    del weights  # the factor is not needed any more
    if p.few:
        q, factor = _refine(p, wanted, h, q, factor)
    weight = p.weight(q, factor)
    return Solution(q, factor, weight, bias(weight) if p.centred else np.zeros(weight.shape[:2]), ridge)


def _units(p: Problem, wanted: Array, factor: Array) -> Array:
    """What is wanted of the integers at other scales."""
    return np.asarray(wanted * (p.scale / p.scaled(factor)) + p.zero)


def _round(p: Problem, wanted: Array, weights: Weights, factors: Sequence[Array]) -> tuple[Array, Array]:
    """Integers for the best of some factors, chosen for each scale."""
    groups, rows, _ = wanted.shape
    u = np.concatenate([_units(p, wanted, f) for f in factors], axis=1)
    q, lost = feed_back(u, weights, p.low, p.high)
    if len(factors) == 1:
        return q, factors[0]
    assert p.owner is not None
    errors = lost.reshape(groups, len(factors), rows).transpose(1, 0, 2)
    errors = np.stack([e * (p.scaled(f) ** 2)[:, :, 0] for e, f in zip(errors, factors, strict=True)])
    chosen = _shared(p, errors).argmin(0)
    factor = np.stack(factors)[chosen, np.arange(p.scales)]
    parts = q.reshape(groups, len(factors), rows, -1)
    return parts[np.arange(groups)[:, None], chosen[p.owner], np.arange(rows)[None]], factor


def _refine(p: Problem, wanted: Array, h: Array, q: Array, factor: Array) -> tuple[Array, Array]:
    """Integers by coordinate descent, and scales by least squares, in turn."""
    q = descend(q, _units(p, wanted, factor), h, p.low, p.high, SWEEPS)
    if p.owner is None or p.dyadic:
        return q, factor
    for _ in range(REFINED):
        w = (q - p.zero) * p.scaled(factor)
        hw = w @ h
        above, below = (hw * wanted * p.scale).sum(2), (hw * w).sum(2)
        up, down = np.zeros(p.scales), np.zeros(p.scales)
        np.add.at(up, p.owner, above)
        np.add.at(down, p.owner, below)
        gain = np.where((down > 0) & (up > 0), up / np.where(down > 0, down, 1.0), 1.0)
        factor = _storable(p, factor * gain)
        q = descend(q, _units(p, wanted, factor), h, p.low, p.high, SWEEPS)
    return q, factor
