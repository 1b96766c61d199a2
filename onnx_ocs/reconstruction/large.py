"""Layers with a large weight, fitted some outputs at a time.

The products of inputs and targets have the weight's size in float64, for each fold, and so has all that is made of
them.  Of a large layer the drawn rows are kept instead (`onnx_ocs.reconstruction.shelf`).  When it is fitted, the
inputs' moments are made once, and all else for a part of the outputs after the other: each is fitted by itself, given
the ridge.  That is chosen on outputs spread over the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.equations import Inputs, Rows
from onnx_ocs.reconstruction.folds import Fold
from onnx_ocs.reconstruction.linear import WIDE, LinearMap
from onnx_ocs.reconstruction.pairing import Pair
from onnx_ocs.reconstruction.rounding import Weights
from onnx_ocs.reconstruction.shelf import Shelf
from onnx_ocs.reconstruction.solve import RIDGES, Problem, Solution, problem, rounded
from onnx_ocs.reconstruction.write import Values, smallest, values_of

__all__ = ["FEW_ROWS", "NOT_FINITE", "NO_GAIN", "Found", "Kept", "at_once", "fit", "is_large", "sample"]

LARGE = 1 << 22  # values of a weight beyond which it is fitted in parts: the others take 28 times their float64
PART = 1 << 23  # of so many values
BESIDE = 1 << 21  # values of layers that are solved side by side
SPREAD = 1024  # outputs on which the ridge is chosen
# why a layer stays, of whatever size: code and sentence
FEW_ROWS = "few_rows", "too few samples reach it"
NOT_FINITE = "not_finite", "values are not finite there"
NO_GAIN = "no_gain", "no fit is finite on held-out samples"


def is_large(layer: LinearMap) -> bool:
    """Whether a layer is fitted some outputs at a time."""
    much = layer.rows.size * layer.columns.size > LARGE or layer.columns.size > WIDE
    return layer.is_matrix and layer.tie is None and much


def at_once(layers: Sequence[LinearMap]) -> int:
    """How many layers that are not large are solved side by side."""
    return max(1, BESIDE // max((x.rows.size * x.columns.shape[1] for x in layers), default=1))


def sample(layer: LinearMap) -> LinearMap:
    """One output of a large layer, which tells as much of the weight's form as all do; others as they are."""
    return layer.part(np.arange(1)) if is_large(layer) else layer


class Kept:
    """The drawn rows of a large layer."""

    def __init__(self, number: int, layer: LinearMap, shelf: Shelf) -> None:
        """Keep nothing yet.

        Args:
            number: of the layer.
            layer: the layer.
            shelf: where rows are kept.
        """
        outputs = layer.rows.size
        step = max(1, PART // layer.columns.size)
        self.layer, self.number, self._shelf = layer, number, shelf
        spread = np.unique(np.linspace(0, outputs - 1, min(outputs, SPREAD)).astype(np.int64))
        self.parts = [spread, *(np.arange(k, min(outputs, k + step)) for k in range(0, outputs, step))]
        self._seen: set[int] = set()

    def keep(self, part: int, x: Array, target: Array, folds: Array, weights: Array) -> None:
        """Keep the rows of a part of the samples.

        Args:
            part: its number.
            x: inputs, float32 (1, rows, K).
            target: targets, float32 (rows, channels).
            folds: what each row is used for, (rows,).
            weights: how much it counts, (rows,); empty: all alike.
        """
        self._seen.add(part)
        self._shelf.put(("inputs", self.number, part), x[0], folds, weights)
        for k, rows in enumerate(self.parts):
            wanted = target[:, self.layer.outputs[0][rows]]
            self._shelf.put(("targets", self.number, part, k), wanted)

    @property
    def empty(self) -> bool:
        """Whether no row was drawn."""
        return not self._seen

    def inputs(self) -> tuple[Array, Array, Array]:
        """Inputs (rows, K), folds, and weights of all rows; given once."""
        x, folds, weights = self._all((("inputs", self.number, p) for p in sorted(self._seen)), 3)
        return x, folds, weights

    def targets(self, k: int) -> Array:
        """Targets of one part of the outputs, (rows, outputs); given once."""
        (found,) = self._all((("targets", self.number, p, k) for p in sorted(self._seen)), 1)
        return found

    def _all(self, keys: Iterable[tuple[object, ...]], count: int) -> tuple[Array, ...]:
        found = []
        for key in keys:
            found.append(self._shelf.get(key))
            self._shelf.drop(key)
        return tuple(np.concatenate([f[n] for f in found]) for n in range(count))


@dataclass(frozen=True, eq=False)
class Found:
    """What became of a large layer.

    Attributes:
        values: its new values.
        ridge: as chosen.
        signal: energy of the targets on the samples that judge.
        before: squared error there with the old values.
        after: with the new ones.
    """

    values: Values
    ridge: float
    signal: float
    before: float
    after: float


def fit(kept: Kept, pair: Pair, free: bool, folder: Path, graph: Graph) -> Found | tuple[str, str]:
    """New values of a layer, or code and sentence why it stays.

    Args:
        kept: its rows; they are gone afterwards.
        pair: what it aims at.
        free: whether its scales may change; where several outputs have one, they stay all the same.
        folder: for the file in which the new weight lies.
        graph: the graph.
    """
    layer = kept.layer
    free = free and layer.weight.scale.size == layer.rows.size
    if kept.empty:
        return FEW_ROWS
    x, folds, weights = kept.inputs()
    if not {int(Fold.FIT), int(Fold.CHOOSE)} <= set(folds.tolist()):
        return FEW_ROWS
    fixed = np.zeros(layer.rows.size) if layer.free else layer.fixed[layer.rows[0]]

    def seen(at: Array) -> Inputs:
        return Inputs(x[at], weights[at] if weights.size else weights, layer.free)

    def aims(k: int) -> Array:
        return np.asarray(kept.targets(k) - fixed[kept.parts[k]].astype(np.float32))

    t = aims(0)
    if not (np.isfinite(x).all() and np.isfinite(t).all()):
        return NOT_FINITE
    fits, helds = (seen(at).aiming(t[at]) for at in (folds == Fold.FIT, folds == Fold.CHOOSE))
    ridge = _ridge(_problem(kept, 0, pair, free).prior, fits, helds)
    if ridge is None:
        return NO_GAIN
    del fits, helds
    both = folds != Fold.JUDGE
    judges = ~both if (~both).any() else both
    solving, judging = seen(both), seen(judges)
    x = x[:0]
    counted = Weights(solving.regular(ridge))
    result = _Result(layer)
    for k in range(1, len(kept.parts)):
        t, p = aims(k), _problem(kept, k, pair, free)
        mine = solving.aiming(t[both])
        s = rounded(p, mine.best(mine.start(p.prior), ridge), counted, ridge, mine.bias)
        result.add(kept.parts[k], p, s, judging.aiming(t[judges]))
    return result.found(ridge, kept.number, folder, graph)


def _ridge(prior: Array, fits: Rows, helds: Rows) -> float | None:
    """The ridge that is best on held-out samples; None where the error there is not finite."""
    start, errors = fits.start(prior), []
    for ridge in RIDGES:
        w = fits.best(start, ridge)
        errors.append(helds.error(w, fits.bias(w)))
    k = int(np.argmin(errors))
    return RIDGES[k] if np.isfinite(errors[k]) else None


def _problem(kept: Kept, k: int, pair: Pair, free: bool) -> Problem:
    found = problem(kept.layer.part(kept.parts[k]), pair.prior, free)
    assert found is not None
    return found


class _Result:
    """A large layer's new values, put together."""

    def __init__(self, layer: LinearMap) -> None:
        self.layer, stored = layer, layer.weight
        self.weight = np.empty(stored.chain.shape, smallest(stored.low, stored.high))
        self.factor = np.ones(stored.scale.size)
        self.bias = np.zeros(layer.rows.size)
        self.signal = self.before = self.after = 0.0

    def add(self, rows: Array, p: Problem, s: Solution, judge: Rows) -> None:
        """Take over some outputs, and measure."""
        integers = np.rint(s.q[0])
        if self.layer.turned:
            self.weight[:, rows] = integers.T
        else:
            self.weight[rows] = integers
        if p.owner is not None:
            self.factor[p.owner[0]] = s.factor[p.owner[0]]
        nothing = np.zeros((1, len(rows)))
        now = self.layer.fixed[self.layer.rows[:, rows]] if self.layer.free else nothing
        self.bias[rows] = s.bias[0]
        self.signal += judge.energy()
        self.before += judge.error(p.weight(p.now), now)
        self.after += judge.error(s.weight, s.bias)

    def found(self, ridge: float, number: int, folder: Path, graph: Graph) -> Found | tuple[str, str]:
        """All of it; the weight lies in a file from here on."""
        bias = self.bias[None] if self.layer.free else None
        made = values_of(self.layer, self.weight, self.factor, bias, graph)
        if isinstance(made, str):
            return "bias_range", made
        path = folder / f"weight{number}.bin"
        self.weight.tofile(path)
        mapped = np.memmap(path, self.weight.dtype, "r", shape=self.weight.shape)
        return Found(replace(made, weight=mapped), ridge, self.signal, self.before, self.after)
