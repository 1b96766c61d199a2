"""Fitting a compensation branch: ridge regression from streamed normal equations, in the bipolar log domain.

    BLT_a(x) = sign(x) * log(1 + a * |x|),        BLT_a^-1(z) = sign(z) * (exp(|z|) - 1) / a           (NBC)

A branch predicts what a block's output y lacks against the float model's from regressors x (the block's input, its
output, or both):

    y' = y + BLT_b^-1(clip(sum_i BLT_a_i(x_i) W_i + c, low, high))

a = b = 0 is linear compensation (BLT_0 is the identity).  Whatever it is fed, a branch is bounded by the range that it
was fitted on.  Everything is float64 here; the model computes in its own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.graph import Array

__all__ = ["Branch", "Candidate", "Moments", "blt", "branch", "candidates", "inverse_blt", "thinned"]

RIDGES = (1e-5, 1e-3, 1e-2, 1e-1)  # against the mean of the regressors' second moments
TINY = 1e-9  # keeps equations solvable where a channel never varies
RANKS = (16, 8, 4)  # low rank: channels divided by these


def blt(x: Array, alpha: float) -> Array:
    """The bipolar logarithmic transform; the identity for alpha = 0."""
    return x if alpha == 0 else np.sign(x) * np.log1p(alpha * np.abs(x))


def inverse_blt(z: Array, alpha: float) -> Array:
    """Its inverse."""
    return z if alpha == 0 else np.sign(z) * np.expm1(np.abs(z)) / alpha


def thinned(x: Array, strides: Sequence[int]) -> Array:
    """Every strides-th position of (N, C, ...) along the spatial axes; `x` itself where there are no strides."""
    return (
        x[(slice(None), slice(None), *(slice(None, None, int(s)) for s in strides))]
        if max(strides, default=1) > 1
        else x
    )


@dataclass(frozen=True, eq=False)
class Branch:
    """A fitted branch.

    Attributes:
        form: "bias", "diagonal", "low rank" or "dense".
        which: indices of its regressors.
        alphas: a of every regressor (0: linear).
        beta: b of the prediction.
        weights: for every regressor (C_in, C), or (C,) when diagonal; or (C_in, r) when of low rank; none for a bias.
        back: (r, C) for low rank.
        bias: c, (C,).
        low, high: bounds of the prediction in the transformed domain.
        reach: largest absolute value of every regressor that was seen.
    """

    form: str
    which: tuple[int, ...]
    alphas: tuple[float, ...]
    beta: float
    weights: tuple[Array, ...]
    back: Array | None
    bias: Array
    low: float
    high: float
    reach: tuple[float, ...]

    def predict(self, inputs: Sequence[Array]) -> Array:
        """What is added to y, for its regressors, (P, C_i)."""
        z = np.broadcast_to(self.bias, (len(inputs[0]) if inputs else 1, self.bias.size))
        for x, a, w, reach in zip(inputs, self.alphas, self.weights, self.reach, strict=True):
            f = blt(np.clip(x, -reach, reach), a)
            part = f * w if w.ndim == 1 else f @ w
            z = z + (part if self.back is None else part @ self.back)
        return inverse_blt(np.clip(z, self.low, self.high), self.beta)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one position."""
        return sum(w.size for w in self.weights) + (0 if self.back is None else self.back.size)


class Moments:
    """Normal equations of one block for one choice of alphas, summed up over samples.

    The features are 1 and the transformed regressors; there is one right-hand side for every beta.

    Attributes:
        betas: b of every right-hand side, the first is 0.
        gram: sum of f f', float64 (D, D).
        cross: sums of f BLT_b(t)', float64 (B, D, C).
        square: sum of t^2.
        ranges: smallest and largest BLT_b(t), (B, 2).
        count: number of positions.
    """

    def __init__(self, sizes: Sequence[int], channels: int, betas: Sequence[float] = (0.0,)) -> None:
        """Start empty, for regressors of these numbers of channels."""
        d = 1 + sum(sizes)
        self.sizes, self.betas = tuple(sizes), tuple(betas)
        self.gram, self.cross = np.zeros((d, d)), np.zeros((len(betas), d, channels))
        self.ranges = np.tile([np.inf, -np.inf], (len(betas), 1))
        self.square, self.count = 0.0, 0

    def add(self, features: Sequence[Array], target: Array) -> None:
        """Sum up positions: features (P, C_i) already transformed, target (P, C)."""
        targets = [blt(target, b) for b in self.betas]
        f = np.concatenate([np.ones((len(target), 1)), *features], axis=1)
        product = f.T @ np.concatenate([f, *targets], axis=1)  # one product: each costs a round of BLAS threads
        d, c = self.gram.shape[0], target.shape[1]
        self.gram += product[:, :d]
        self.cross += np.moveaxis(product[:, d:].reshape(d, len(targets), c), 1, 0)
        self.ranges[:, 0] = np.minimum(self.ranges[:, 0], [t.min() for t in targets])
        self.ranges[:, 1] = np.maximum(self.ranges[:, 1], [t.max() for t in targets])
        self.square += float((target * target).sum())
        self.count += len(target)

    def error(self, w: Array) -> float:
        """Sum of squared errors that linear weights (D, C) would leave on these samples."""
        return float(self.square - 2 * np.sum(w * self.cross[0]) + np.sum(w * (self.gram @ w)))


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to compensate a block.

    Attributes:
        form: see `Branch`.
        which: which regressors it uses.
        ridge: strength of the ridge.
        weight: (D, C), rows of regressors that are not used are 0.
        basis: (C, r) when of low rank: `weight` is `weight @ basis @ basis.T`.
        error: sum of squared errors on held-out samples, before any clipping.
    """

    form: str
    which: tuple[int, ...]
    ridge: float
    weight: Array
    basis: Array | None
    error: float

    @property
    def rank(self) -> int | None:
        """Rank of the weights: 0 for a bias, None when it is full."""
        return 0 if self.form == "bias" else None if self.basis is None else self.basis.shape[1]


def _solve(m: Moments, which: Sequence[int], ridge: float, beta: int = 0) -> Array:
    """Ridge regression on some of the regressors (the constant is not shrunk); (D, C) with zeros elsewhere."""
    starts = np.cumsum((1, *m.sizes))
    rows = np.concatenate([[0], *(starts[k] + np.arange(m.sizes[k]) for k in which)]).astype(int)
    g = m.gram[np.ix_(rows, rows)] / m.count
    scale = np.diag(g)[1:].mean() if len(rows) > 1 else 0.0
    strength = np.full(len(rows), (ridge + TINY) * scale + TINY)
    strength[0] = 0.0
    w = np.zeros(m.cross.shape[1:])
    w[rows] = np.linalg.solve(g + np.diag(strength), m.cross[beta][rows] / m.count)
    return w


def _diagonal(m: Moments, which: Sequence[int], ridge: float, beta: int = 0) -> Array | None:
    """Every channel from its own value in each regressor; None where the channels do not correspond."""
    channels = m.cross.shape[2]
    if any(m.sizes[k] != channels for k in which):
        return None
    starts = np.cumsum((1, *m.sizes))
    each = np.arange(channels)
    rows = np.stack([np.zeros(channels, int), *(starts[k] + each for k in which)], axis=1)
    g = m.gram[rows[:, :, None], rows[:, None, :]] / m.count
    strength = (ridge + TINY) * np.einsum("cii->ci", g)[:, 1:].mean() + TINY
    eye = np.eye(rows.shape[1])
    eye[0, 0] = 0.0
    w = np.zeros(m.cross.shape[1:])
    right = m.cross[beta][rows, each[:, None]] / m.count
    w[rows, each[:, None]] = np.linalg.solve(g + strength * eye, right[:, :, None])[:, :, 0]
    return w


def _principal(m: Moments, w: Array, rank: int) -> Array:
    """Directions (C, rank) in which a prediction varies most: reduced-rank regression."""
    return np.asarray(np.linalg.eigh(w.T @ m.gram @ w)[1][:, -rank:])


def candidates(fit: Moments, held: Moments, forms: Sequence[str]) -> Iterator[Candidate]:
    """All linear ways to compensate from one set of moments, each with the ridge that is best on the held-out ones.

    Args:
        fit: of the samples that are fitted.
        held: of others.
        forms: which forms are wanted.
    """
    channels = fit.cross.shape[2]
    mean = _solve(fit, (), 0.0)
    yield Candidate("bias", (), 0.0, mean, None, held.error(mean))
    everything = tuple(range(len(fit.sizes)))
    for which in dict.fromkeys([*((k,) for k in everything), everything]):
        if "diagonal" in forms:
            tried = [(r, w) for r in RIDGES if (w := _diagonal(fit, which, r)) is not None]
            if tried:
                ridge, w = min(tried, key=lambda t: held.error(t[1]))
                yield Candidate("diagonal", which, ridge, w, None, held.error(w))
        if not {"dense", "low rank"} & set(forms):
            continue
        ridge, w = min(((r, _solve(fit, which, r)) for r in RIDGES), key=lambda t: held.error(t[1]))
        if "dense" in forms:
            yield Candidate("dense", which, ridge, w, None, held.error(w))
        width = sum(fit.sizes[k] for k in which)
        ranks = {channels // part for part in RANKS} if "low rank" in forms else set()
        ranks = {r for r in ranks if r > 0 and r * (width + channels) < width * channels}
        if ranks:
            vectors = _principal(fit, w, max(ranks))
        for rank in sorted(ranks):
            basis = vectors[:, -rank:]
            low = w @ basis @ basis.T
            low[0] = w[0]
            yield Candidate("low rank", which, ridge, low, basis, held.error(low))


def branch(c: Candidate, m: Moments, beta: int, alphas: Sequence[float], reach: Sequence[float]) -> Branch:
    """A candidate as a branch.

    Args:
        c: the candidate.
        m: the moments that it was fitted on.
        beta: index of the right-hand side; other than 0, the weights are fitted anew for it.
        alphas: of all regressors.
        reach: largest absolute values of all regressors.
    """
    w, basis = c.weight, c.basis
    if beta:
        found = _diagonal(m, c.which, c.ridge, beta) if c.form == "diagonal" else _solve(m, c.which, c.ridge, beta)
        assert found is not None
        w = found
        basis = None if basis is None else _principal(m, w, basis.shape[1])
    starts = np.cumsum((1, *m.sizes))
    parts = [w[starts[k] : starts[k] + m.sizes[k]] for k in c.which]
    if c.form == "diagonal":
        parts = [np.diag(p).copy() for p in parts]
    if basis is not None:
        parts = [p @ basis for p in parts]
    low, high = m.ranges[beta]
    if c.form == "bias":  # a constant, whatever domain it comes from
        low, high = m.ranges[0]
        return Branch(c.form, (), (), 0.0, (), None, inverse_blt(w[0], m.betas[beta]), float(low), float(high), ())
    return Branch(
        c.form, c.which, tuple(alphas[k] for k in c.which), m.betas[beta], tuple(parts),
        None if basis is None else basis.T, w[0], float(low), float(high), tuple(reach[k] for k in c.which),
    )  # fmt: skip
