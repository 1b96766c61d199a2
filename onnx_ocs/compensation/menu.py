"""What a block could get: sum up its normal equations over the samples, and choose the best branch of each form.

Forms of full rank, regressors, ridges and alphas are compared in closed form on the held-out samples' equations; the
best of each form then exactly, with its bounds and every beta, on held-out positions, and with the best dense one its
lower ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.regression import Branch, Moments, Variant, branch, lowered, variants
from onnx_ocs.model.nodes import Array
from onnx_ocs.records.branches import blt, thinned

__all__ = ["Menu", "Observed", "Offer", "learn"]

FACTORS = (0.0, 0.1, 1.0)  # a and b, against one over the standard deviation of what is transformed
POSITIONS = 8192  # held-out positions on which the final choice is made
ROWS = 1 << 17  # positions that enter the equations, over all batches: more only cost time
FEWEST = 1 << 11  # of one batch, however many there are
WIDEST = 2048  # regressors of one block
Equations = tuple[list[float], Moments, Moments]  # alphas, of the samples that are fitted, and of those held out
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
        offers: by form, and rank or number of groups; those that reduce the error for sure.
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


def _rows(a: Array, axis: int, rows: Array) -> Array:
    """Some positions, (P, C) float64."""
    a = np.moveaxis(a, axis, -1)
    return np.asarray(a[np.unravel_index(rows, a.shape[:-1])], np.float64)


def _surely(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the errors of held-out samples are reduced, by more than a share and than their differences explain."""
    gain = np.asarray(before) - np.asarray(after)
    doubt = SURE * float(gain.std(ddof=1)) / np.sqrt(gain.size) if gain.size > 1 else 0.0
    return bool(gain.sum() > GAIN * sum(before) and gain.mean() > doubt)


def learn(
    menu: Menu,
    batches: Iterable[Observed],
    count: int,
    held: int,
    forms: Sequence[str],
    linear: bool,
    like: Branch | None,
) -> None:
    """Sum up a block's equations over all batches, and make its offers.

    Args:
        menu: the block's menu; its offers and errors are set.
        batches: what is seen at the block, batch by batch.
        count: how many there are.
        held: how many of them are held out.
        forms: which forms are candidates besides a bias.
        linear: whether only a = b = 0 is tried.
        like: only an offer of this branch's kind and regressors is made; None for all.
    """
    b = menu.block
    factors = FACTORS[:1] if linear else FACTORS
    share, most = max(POSITIONS // max(held, 1), 1), max(ROWS // max(count, 1), FEWEST)
    equations: list[Equations] = []
    reach = [0.0, 0.0]
    kept: list[list[Array]] = []
    cells = samples = 0
    for k, seen in enumerate(batches):
        total = seen.truth.size // b.channels
        cells = cells or max(total // max(len(seen.truth), 1), 1)
        rows = _drawn(k, total, most)
        truth, number, *inputs = _finite(_tensors(b, seen), b.axis, rows, samples + rows // cells)
        samples += -(-total // cells)
        if not len(truth):
            continue
        target = truth - inputs[0]
        equations = equations or _empty(b, inputs, target, factors)
        if seen.held:
            some = slice(None, None, max(1, len(truth) // share))
            kept.append([*(i[some] for i in inputs), target[some], truth[some], number[some]])
            inputs = [np.clip(i, -r, r) for i, r in zip(inputs, reach, strict=False)]
        else:
            reach = [max(r, float(np.abs(i).max())) for r, i in zip(reach, inputs, strict=False)]
        targets = [blt(target, beta) for beta in equations[0][1].betas]
        for alphas, fit, test in equations:
            (test if seen.held else fit).add([blt(i, a) for i, a in zip(inputs, alphas, strict=True)], targets)
    menu.offers = {}
    if kept and equations and equations[0][1].count:
        _offer(menu, equations, reach, kept, cells, forms, like)


def _tensors(b: Block, seen: Observed) -> list[Array]:
    """The float model's values at a block, and its regressors."""
    tensors = [seen.truth, seen.output]
    if seen.source is not None and b.channels + b.input_channels <= WIDEST:
        tensors.append(thinned(seen.source, b.strides))
    return tensors


def _drawn(seed: int, total: int, most: int) -> Array:
    """Numbers of positions, all of them or some drawn at random, in order."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, most, replace=False))


def _finite(tensors: Sequence[Array], axis: int, rows: Array, number: Array) -> list[Array]:
    """The first tensor at those positions where all are finite, the positions' samples, and the other tensors there."""
    truth, *inputs = (_rows(t, axis, rows) for t in tensors)
    whole = np.logical_and.reduce([np.isfinite(v).all(1) for v in (truth, *inputs)])
    if whole.all():
        return [truth, number, *inputs]
    return [truth[whole], number[whole], *(i[whole] for i in inputs)]


def _empty(b: Block, inputs: Sequence[Array], target: Array, factors: Sequence[float]) -> list[Equations]:
    """Empty equations for every alpha; alpha and beta are counted in one over what they bend."""
    sizes = [i.shape[1] for i in inputs]
    spread = [float(i.std()) or 1.0 for i in inputs]
    betas = [f / (float(target.std()) or 1.0) for f in factors]
    return [
        ([f / s for s in spread], Moments(sizes, b.channels, betas), Moments(sizes, b.channels, betas)) for f in factors
    ]


def _offer(
    menu: Menu,
    equations: Sequence[Equations],
    reach: Sequence[float],
    kept: Sequence[Sequence[Array]],
    cells: int,
    forms: Sequence[str],
    like: Branch | None,
) -> None:
    """The best branch of each kind, those that gain on the held-out samples."""
    *inputs, target, truth, number = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    sample = np.unique(number, return_inverse=True)[1]

    def errors(b: Branch | None) -> tuple[float, ...]:
        left = target if b is None else target - b.predict([inputs[i] for i in b.which])
        return tuple(np.bincount(sample, np.einsum("pc,pc->p", left, left)).tolist())

    def offer(b: Branch, left: tuple[float, ...]) -> None:
        wanted = b.kind[0] in ("bias", *forms) if like is None else b.kind == like.kind and b.which == like.which
        if wanted and _surely(menu.before, left):  # another than wanted could cost more than reckoned with
            menu.offers[b.kind] = Offer(b, b.macs * cells, left)

    menu.before, menu.signal = errors(None), float((truth * truth).sum())
    forms = forms if like is None else (like.form,)
    best: dict[tuple[str, int], tuple[Variant, Moments, list[float]]] = {}
    for alphas, fit, test in equations:
        for c in variants(fit, test, forms, None if like is None else like.which):
            key = c.form, c.groups
            if key not in best or c.error < best[key][0].error:
                best[key] = c, fit, alphas
    for c, fit, alphas in best.values():
        tried = [branch(c, fit, k, alphas, reach) for k in range(len(fit.betas))]
        left = [errors(b) for b in tried]
        k = min(range(len(tried)), key=lambda i: sum(left[i]))
        offer(tried[k], left[k])
        if c.form == "dense" and "low rank" in forms:
            for b in lowered(tried[k], fit):
                offer(b, errors(b))
