"""What a block could get: sum up its normal equations over the samples, and choose the best branch of each form.

All forms, regressors, ridges and alphas are compared in closed form on the held-out samples' equations; the best of
each form then exactly, with its bounds and every beta, on held-out positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_ocs.blocks import Block
from onnx_ocs.branch import rank_of
from onnx_ocs.graph import Array
from onnx_ocs.regression import Branch, Candidate, Moments, blt, branch, candidates, thinned

__all__ = ["Menu", "Observed", "Offer", "learn", "surely"]

FACTORS = (0.0, 0.1, 1.0)  # a and b, against one over the standard deviation of what is transformed
POSITIONS = 8192  # held-out positions on which the final choice is made
ROWS = 1 << 15  # positions of one batch that enter the equations: more only cost time
WIDEST = 2048  # regressors of one block
GAIN = 0.02  # least relative reduction of the held-out error
SURE = 2.0  # standard errors by which the mean reduction over held-out samples must exceed 0


@dataclass(frozen=True, eq=False)
class Offer:
    """A branch that a block could get: its MACs for one sample, and the error left on every held-out sample."""

    branch: Branch
    macs: int
    errors: tuple[float, ...]


@dataclass
class Menu:
    """What one block could get.

    Attributes:
        block: the block.
        before: error without a branch, on every held-out sample.
        signal: sum of squares of the float model's values there.
        offers: by form and rank, those that reduce the error for sure.
        chosen: the one that it got.
        why: code of the reason when it got none.
    """

    block: Block
    before: tuple[float, ...] = ()
    signal: float = 0.0
    offers: dict[tuple[str, int], Offer] = field(default_factory=dict)
    chosen: Offer | None = None
    why: str = ""

    def best(self, price: float) -> Offer | None:
        """The offer that gains most at a price (logarithm of the error's reduction a MAC); None if nothing gains."""
        worth = {
            k: np.log(sum(self.before) / max(sum(o.errors), 1e-30)) - price * o.macs for k, o in self.offers.items()
        }
        key = max(worth, key=lambda k: worth[k], default=None)
        return self.offers[key] if key is not None and worth[key] > 0 else None


@dataclass(frozen=True, eq=False)
class Observed:
    """One batch at the end of a block.

    Attributes:
        held: whether nothing is fitted on it.
        output: what the model has there.
        source: the block's input, if it can be a regressor.
        truth: what the float model has there.
    """

    held: bool
    output: Array
    source: Array | None
    truth: Array


def _rows(a: Array, axis: int) -> Array:
    """(P, C) float64."""
    return np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis]).astype(np.float64)


def surely(before: Sequence[float], after: Sequence[float], least: float, sure: float) -> bool:
    """Whether an error is reduced on held-out samples, by more than a share and than their differences explain.

    Args:
        before: error of every sample without the change.
        after: the same with it.
        least: relative reduction of the sum that must be exceeded.
        sure: standard errors by which the mean reduction must exceed 0.
    """
    gain = np.asarray(before) - np.asarray(after)
    doubt = sure * float(gain.std(ddof=1)) / np.sqrt(gain.size) if gain.size > 1 else 0.0
    return bool(gain.sum() > least * sum(before) and gain.mean() > doubt)


def learn(
    menu: Menu, batches: Iterable[Observed], held: int, forms: Sequence[str], linear: bool, like: Branch | None
) -> None:
    """Sum up a block's equations over all batches, and make its offers.

    Args:
        menu: the block's menu; its offers and errors are set.
        batches: what is seen at the block, batch by batch.
        held: how many of them are held out.
        forms: which forms are candidates besides a bias.
        linear: whether only a = b = 0 is tried.
        like: only an offer of this branch's form, rank and regressors is made; None for all.
    """
    b = menu.block
    factors = FACTORS[:1] if linear else FACTORS
    share = max(POSITIONS // max(held, 1), 1)
    equations: list[tuple[list[float], Moments, Moments]] = []
    reach = [0.0, 0.0]
    kept: list[list[Array]] = []
    cells = samples = 0
    for k, seen in enumerate(batches):
        inputs = [_rows(seen.output, b.axis)]
        if seen.source is not None and b.channels + b.input_channels <= WIDEST:
            inputs.append(_rows(thinned(seen.source, b.strides), b.axis))
        truth = _rows(seen.truth, b.axis)
        cells = cells or max(len(truth) // max(len(seen.output), 1), 1)
        number = samples + np.arange(len(truth)) // cells
        samples += -(-len(truth) // cells)
        whole = np.isfinite(truth).all(1) & np.logical_and.reduce([np.isfinite(i).all(1) for i in inputs])
        step = max(1, len(truth) // ROWS)
        rows = np.flatnonzero(whole)[k % step :: step]
        inputs, truth, number = [i[rows] for i in inputs], truth[rows], number[rows]
        target = truth - inputs[0]
        if not len(truth):
            continue
        if not equations:
            sizes = [i.shape[1] for i in inputs]
            spread = [float(i.std()) or 1.0 for i in inputs]
            betas = [f / (float(target.std()) or 1.0) for f in factors]
            equations = [
                ([f / s for s in spread], Moments(sizes, b.channels, betas), Moments(sizes, b.channels, betas))
                for f in factors
            ]
        if seen.held:
            some = slice(None, None, max(1, len(truth) // share))
            kept.append([*(i[some] for i in inputs), target[some], truth[some], number[some]])
        else:
            reach = [max(r, float(np.abs(i).max())) for r, i in zip(reach, inputs, strict=False)]
        for alphas, fit, test in equations:
            bounded = [np.clip(i, -r, r) for i, r in zip(inputs, reach, strict=False)] if seen.held else inputs
            (test if seen.held else fit).add([blt(i, a) for i, a in zip(bounded, alphas, strict=True)], target)
    menu.offers = {}
    if kept and equations and equations[0][1].count:
        _offer(menu, equations, reach, kept, cells, forms, like)


def _offer(
    menu: Menu,
    equations: Sequence[tuple[list[float], Moments, Moments]],
    reach: Sequence[float],
    kept: Sequence[Sequence[Array]],
    cells: int,
    forms: Sequence[str],
    like: Branch | None,
) -> None:
    """The best branch of each form and rank, those that gain on the held-out samples."""
    *inputs, target, truth, number = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    sample = np.unique(number, return_inverse=True)[1]

    def errors(left: Array) -> tuple[float, ...]:
        return tuple(np.bincount(sample, (left * left).sum(1)).tolist())

    menu.before, menu.signal = errors(target), float((truth * truth).sum())
    best: dict[tuple[str, int], tuple[Candidate, Moments, list[float]]] = {}
    for alphas, fit, test in equations:
        for c in candidates(fit, test, forms):
            key = c.form, menu.block.channels if c.rank is None else c.rank
            if like is not None and (*key, c.which) != (like.form, rank_of(like), like.which):
                continue  # another one could cost more than was reckoned with
            if key not in best or c.error < best[key][0].error:
                best[key] = c, fit, alphas
    for key, (c, fit, alphas) in best.items():
        tried = [branch(c, fit, k, alphas, reach) for k in range(len(fit.betas))]
        left = [errors(target - t.predict([inputs[i] for i in t.which])) for t in tried]
        k = min(range(len(tried)), key=lambda i: sum(left[i]))
        if surely(menu.before, left[k], GAIN, SURE):
            menu.offers[key] = Offer(tried[k], tried[k].macs * cells, left[k])
