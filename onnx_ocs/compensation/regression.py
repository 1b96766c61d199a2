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
from dataclasses import dataclass, replace

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.records.branches import blt, inverse_blt

__all__ = ["GROUPED", "RIDGES", "TINY", "Branch", "Moments", "Variant", "branch", "lowered", "variants"]

RIDGES = (1e-5, 1e-3, 1e-2, 1e-1)  # against the mean of the regressors' second moments
TINY = 1e-9  # keeps equations solvable where a channel never varies
GROUPED = (8, 32)  # grouped: channels of one group
RANKS = (16, 8, 4)  # low rank: channels divided by these
TRIED = 32  # channels of a group on which the ridge is chosen


@dataclass(frozen=True, eq=False)
class Branch:
    """A fitted branch.

    Attributes:
        form: "bias", "diagonal", "grouped", "low rank" or "dense".
        which: indices of its regressors.
        alphas: a of every regressor (0: linear).
        beta: b of the prediction.
        weights: for every regressor (C_in, C); (C,) when diagonal; (G, C_in / G, C / G) when grouped; (C_in, r) when
            of low rank; none for a bias.
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
            part = f * w if w.ndim == 1 else f @ w if w.ndim == 2 else _by_group(f, w)
            z = z + (part if self.back is None else part @ self.back)
        return inverse_blt(np.clip(z, self.low, self.high), self.beta)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one position."""
        return sum(w.size for w in self.weights) + (0 if self.back is None else self.back.size)

    @property
    def rank(self) -> int:
        """Rank of the weights: 0 for a bias, that of the basis when low, the number of channels for all others."""
        if not self.weights:
            return 0
        return len(self.back) if self.back is not None else self.bias.size

    @property
    def groups(self) -> int:
        """In how many groups of channels the weights fall: 1 when dense, all channels when diagonal."""
        return next((1 if w.ndim == 2 else len(w) for w in self.weights), 1)

    @property
    def kind(self) -> tuple[str, int]:
        """Its form, and what tells branches of one form apart: the rank, or the number of groups."""
        return self.form, self.groups if self.weights and self.back is None else self.rank


def _by_group(x: Array, w: Array) -> Array:
    """Adjacent channels of x (P, C_in) times their group's weights (G, C_in / G, C / G); (P, C)."""
    return np.moveaxis(np.moveaxis(x.reshape(len(x), *w.shape[:2]), 1, 0) @ w, 0, 1).reshape(len(x), -1)


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

    def add(self, features: Sequence[Array], targets: Sequence[Array]) -> None:
        """Sum up positions: features (P, C_i), already transformed, and BLT_b(t), (P, C), for every b."""
        f = np.concatenate([np.ones((len(targets[0]), 1)), *features], axis=1)
        product = f.T @ np.concatenate([f, *targets], axis=1)  # one product: each costs a round of BLAS threads
        d, c = self.gram.shape[0], targets[0].shape[1]
        self.gram += product[:, :d]
        self.cross += np.moveaxis(product[:, d:].reshape(d, len(targets), c), 1, 0)
        self.ranges[:, 0] = np.minimum(self.ranges[:, 0], [t.min() for t in targets])
        self.ranges[:, 1] = np.maximum(self.ranges[:, 1], [t.max() for t in targets])
        self.square += float((targets[0] * targets[0]).sum())
        self.count += len(f)


class _System:
    """The equations of some regressors; channels see those of their own group only.

    Attributes:
        gram: for every group, of the constant and its channels of each regressor, (G, d, d).
        cross: with the group's targets, (B, G, d, C / G).
    """

    def __init__(self, m: Moments, which: Sequence[int], groups: int = 1) -> None:
        starts = np.cumsum((1, *m.sizes))
        parts = [(starts[k] + np.arange(m.sizes[k])).reshape(groups, -1) for k in which]
        rows = np.concatenate([np.zeros((groups, 1), int), *parts], axis=1)
        columns = np.arange(m.cross.shape[2]).reshape(groups, -1)
        self.gram = m.gram[rows[:, :, None], rows[:, None, :]]
        self.cross = m.cross[:, rows[:, :, None], columns[:, None, :]]
        self.square, self.count = m.square, m.count

    def solve(self, ridge: float, beta: int = 0, some: slice = slice(None)) -> Array:
        """Ridge regression (the constant is not shrunk) for some targets of every group; (G, d, C / G)."""
        diagonal = np.einsum("gii->gi", self.gram)[:, 1:]
        scale = diagonal.mean() / self.count if diagonal.size else 0.0
        strength = np.full(self.gram.shape[1], (ridge + TINY) * scale + TINY)
        strength[0] = 0.0
        left, right = self.gram / self.count + np.diag(strength), self.cross[beta][:, :, some] / self.count
        return np.asarray(np.linalg.solve(left, right))

    def error(self, w: Array, some: slice = slice(None)) -> float:
        """Sum of squared errors that linear weights leave, up to a constant if only some targets are looked at."""
        return float(self.square + np.sum(w * (self.gram @ w - 2 * self.cross[0][:, :, some])))

    def ridge(self, held: _System) -> float:
        """The ridge that is best on held-out samples, judged by some targets of every group."""
        some = slice(None, None, -(-self.cross.shape[3] // TRIED))
        return min(RIDGES, key=lambda r: held.error(self.solve(r, 0, some), some))


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to compensate a block.

    Attributes:
        form: see `Branch`.
        which: which regressors it uses.
        groups: number of groups of channels that do not see each other; 1 when dense, all when diagonal.
        ridge: strength of the ridge.
        error: sum of squared errors on held-out samples, before any clipping.
    """

    form: str
    which: tuple[int, ...]
    groups: int
    ridge: float
    error: float


def _groupings(sizes: Sequence[int], channels: int, forms: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The forms, low rank aside, that these regressors allow, and their numbers of groups."""
    if "diagonal" in forms and all(s == channels for s in sizes):
        yield "diagonal", channels
    if "grouped" in forms:
        for size in GROUPED:
            groups = channels // size
            if groups > 1 and all(s % groups == 0 for s in (channels, *sizes)) and channels == groups * size:
                yield "grouped", groups
    if "dense" in forms or "low rank" in forms:  # the latter is made from the former
        yield "dense", 1


def variants(
    fit: Moments, held: Moments, forms: Sequence[str], only: tuple[int, ...] | None = None
) -> Iterator[Variant]:
    """All linear ways of full rank to compensate from one set of moments, each with its best ridge.

    Args:
        fit: of the samples that are fitted.
        held: of others, on which the ridge is chosen.
        forms: which forms are wanted; for those of low rank, the dense ones.
        only: the only regressors to use; None for each alone and all together.
    """
    channels = fit.cross.shape[2]
    mean = _System(fit, ()).solve(0.0)
    yield Variant("bias", (), 1, 0.0, _System(held, ()).error(mean))
    everything = tuple(range(len(fit.sizes)))
    for which in dict.fromkeys([*((k,) for k in everything), everything] if only is None else [only]):
        for form, groups in _groupings([fit.sizes[k] for k in which], channels, forms) if which else ():
            fitted, tested = _System(fit, which, groups), _System(held, which, groups)
            ridge = fitted.ridge(tested)
            yield Variant(form, which, groups, ridge, tested.error(fitted.solve(ridge)))


def branch(c: Variant, m: Moments, beta: int, alphas: Sequence[float], reach: Sequence[float]) -> Branch:
    """A candidate as a branch.

    Args:
        c: the candidate.
        m: the moments that it was fitted on.
        beta: index of the right-hand side.
        alphas: of all regressors.
        reach: largest absolute values of all regressors.
    """
    w = _System(m, c.which, c.groups).solve(c.ridge, beta)
    low, high = m.ranges[beta]
    if c.form == "bias":  # a constant, whatever domain it comes from
        low, high = m.ranges[0]
        return Branch(c.form, (), (), 0.0, (), None, inverse_blt(w[0, 0], m.betas[beta]), float(low), float(high), ())
    widths = [m.sizes[k] // c.groups for k in c.which]
    parts: list[Array] = np.split(w[:, 1:], np.cumsum(widths)[:-1], axis=1)
    if c.groups == 1:
        parts = [p[0] for p in parts]
    elif c.form == "diagonal":
        parts = [p[:, 0, 0] for p in parts]
    return Branch(
        c.form, c.which, tuple(alphas[k] for k in c.which), m.betas[beta], tuple(parts), None, w[:, 0].ravel(),
        float(low), float(high), tuple(reach[k] for k in c.which),
    )  # fmt: skip


def lowered(dense: Branch, m: Moments) -> Iterator[Branch]:
    """A dense branch at lower ranks: what it predicts in the directions in which that varies most.

    That is reduced-rank regression.

    Args:
        dense: the branch.
        m: the moments that it was fitted on.
    """
    channels, width = dense.bias.size, sum(len(w) for w in dense.weights)
    ranks = {channels // part for part in RANKS}
    ranks = {r for r in ranks if r > 0 and r * (width + channels) < width * channels}
    if not ranks:
        return
    gram = _System(m, dense.which).gram[0]
    mean = gram[0, 1:] / m.count
    w = np.concatenate(dense.weights)
    vectors = np.linalg.eigh(w.T @ (gram[1:, 1:] - np.outer(mean, gram[0, 1:])) @ w)[1]
    for r in sorted(ranks):
        basis = vectors[:, -r:]
        bias = dense.bias + mean @ (w - w @ basis @ basis.T)  # what the other directions predict on average
        parts = tuple(p @ basis for p in dense.weights)
        yield replace(dense, form="low rank", weights=parts, back=basis.T, bias=bias)
