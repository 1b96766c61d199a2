"""Fit all layers again, each behind those that were fitted before it.

Layers are fitted in stages: all that depend on the same stages before them at once.  One pass through the float model
writes down the targets of all; then the quantized network is carried forward (`onnx_ocs.reconstruction.forward`), and
at every stage the layers' moments are summed, their new values computed and put into the graph.

Samples are split by number: most are fitted on, some choose the ridge before they are fitted on too, and some are
never fitted on (`Fold`): on these the errors in the report are measured, and the result is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from onnx_ocs.calibration.context import Progress
from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.folds import Fold, fold
from onnx_ocs.reconstruction.forward import Forward
from onnx_ocs.reconstruction.large import FEW_ROWS, NO_GAIN, NOT_FINITE, Kept, at_once, fit, is_large
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.masks import rows_of
from onnx_ocs.reconstruction.moments import Moments, Sums, added
from onnx_ocs.reconstruction.pairing import Pair, Reference
from onnx_ocs.reconstruction.parted import Part, divisible, parted
from onnx_ocs.reconstruction.patches import draw, inputs, outputs
from onnx_ocs.reconstruction.shelf import Shelf
from onnx_ocs.reconstruction.solve import Problem, Solution, choose_ridge, mean_bias, solve
from onnx_ocs.reconstruction.tasks import STAGE, Fitted, Task, leave, one_bias, prepare, stages
from onnx_ocs.reconstruction.write import Values, values, write_all
from onnx_ocs.runtime.memory import give_back, share_of_memory
from onnx_ocs.runtime.threads import CORES, in_order, side_by_side

__all__ = ["Fitted", "Fitting"]

ROWS = 30000  # output positions of a layer that are looked at
INPUTS = 30_000_000  # values of these positions' inputs, beyond which fewer are
FEWEST = 6000
HELD = 8  # of the memory that a run may take, the part for what is needed again; the rest waits in files
ROUNDS = 3
CLEARED = 4  # stages behind which freed memory goes back: it costs time to get it again

Products = tuple[float, Array, Array, Array, Array, Array]
_Rows = tuple[Array, Array, Array, Array]  # inputs, targets, folds, weights
_Part = tuple[int, tuple[Array, Array, Array | None] | None, Products | None]  # the former where it is needed again
Feeds = Callable[[], Iterator[Mapping[str, Array]]]


class Fitting:
    """All layers of one model."""

    def __init__(
        self, graph: EditableGraph, layers: Sequence[LinearMap], pairs: Sequence[Pair | None], reference: Reference,
        folder: Path, seed: int, total: int, unit: int, masks: Callable[[Mapping[str, Array]], Array | None],
        progress: Progress, turn: int = 0,
    ) -> None:  # fmt: skip
        """Prepare.

        Args:
            graph: the model's; edited by `run`.
            layers: those to fit, in topological order.
            pairs: what each aims at.
            reference: gives the targets.
            folder: for files.
            seed: of the drawn positions.
            total: number of samples.
            unit: how many samples always come together.
            masks: gives how much rows of a feed count, (samples, positions) or (samples,), or None: all alike.
            progress: called during long work.
            turn: which samples are held out (`fold`).
        """
        self.graph, self.reference, self.total, self.unit, self.turn = graph, reference, total, unit, turn
        self.masks, self.progress = masks, progress
        self.batch: list[int] = []  # of each part of the samples
        self.folder, self.shelf = folder, Shelf(folder, share_of_memory(HELD))
        self.dice = np.random.default_rng(seed).random(1 << 17)
        self.fitted = [Fitted(layer) for layer in layers]
        tasks = prepare(graph, self.fitted, pairs)
        self.stages = stages(graph, tasks)
        self.tasks = [t for t in tasks if t.fitted.why is None]
        for t in self.tasks:
            t.kept = Kept(t.number, t.layer, self.shelf) if is_large(t.layer) else None

    def run(self, feeds: Feeds) -> None:
        """Fit everything.

        Args:
            feeds: gives the samples, batch by batch, each time it is called.
        """
        with threadpool_limits(1, "blas"):
            self._prepare_reference()
            model = self.graph.model
            parts = all(divisible(model, feed, self.reference.run) for feed in islice(feeds(), 1))
            self._targets(parted(model, feeds(), parts, self.masks))
            self.reference.forget()
            give_back()
            stages = [[t for g in s for task in g for t in (task.layer.x, task.other) if t] for s in self.stages]
            again = (p.feed for p in parted(model, feeds(), parts, lambda _: None))
            forward = Forward(self.graph, stages, again, self.shelf)
            for k, stage in enumerate(self.stages):
                self.progress("fitting layers", k, len(self.stages))
                self._stage(forward, k, [t for group in stage for t in group])
                self._solve_stage(stage)
            self.progress("fitting layers", len(self.stages), len(self.stages))

    # ---- targets ----------------------------------------------------------------------------------------------------

    def _prepare_reference(self) -> None:
        names = [(t.pair.floats, t.pair.tensor) for t in self.tasks]
        names += [(t.pair.floats, t.pair.other[0]) for t in self.tasks if t.other and t.pair.other]
        self.reference.prepare([n for f, n in names if f], [n for f, n in names if not f], 1)

    def _targets(self, parts: Iterator[Part]) -> None:
        """Draw positions, and write down the reference's values there."""

        def work(item: tuple[int, Part]) -> Part:
            number, part = item
            got = self.reference.run(part.feed)
            for task in self.tasks:
                self._draw(task, number, part, got)
            return part

        for part in in_order(work, enumerate(parts), 1):  # all that the layers write is much
            self.progress("float targets", part.first, self.total)
            self.batch.append(part.batch)

    def _draw(self, task: Task, number: int, part: Part, got: Mapping[tuple[bool, str], Array]) -> None:
        """Draw a layer's positions in a part, and keep the reference's values there."""
        first, size = part.first, samples_in(part.feed)
        layer, pair = task.layer, task.pair
        y = got[pair.floats, pair.tensor]
        axis = layer.axis % y.ndim
        shape = tuple(d for a, d in enumerate(y.shape) if a != axis)
        count = int(np.prod(shape))
        parts = size if shape and shape[0] % size == 0 else 1
        weights = rows_of(part.weights, shape, size)
        allowed = None if weights is None else weights > 0
        inputs_of_row = layer.columns.size
        most = min(ROWS, max(FEWEST, INPUTS // inputs_of_row))
        each, share = count // parts, -(-most * (size // parts) // max(self.total, 1))
        drawn = []
        for p in range(parts):
            some = None if allowed is None else allowed[p * each :][:each]
            drawn.append(p * each + draw(each, share, self.dice, task.number * 7919 + (first + p) * 104729, some))
        positions = np.concatenate(drawn)
        numbers = np.repeat(first + np.arange(parts), [len(d) for d in drawn])
        target = outputs(y, layer.axis, positions)
        target = target if pair.gain is None else target * pair.gain.astype(np.float32)
        if task.other and pair.other:
            other = got[pair.floats, pair.other[0]]
            if other.shape == y.shape:
                target = target + outputs(other, layer.axis, positions)
            else:
                task.other = None
        weigh = np.empty(0) if weights is None or weights.dtype == np.bool_ else weights[positions]
        kept = positions, fold(numbers, self.total, self.unit, self.turn), target, weigh, np.asarray(y.shape)
        self.shelf.put(("drawn", task.number, number), *kept)

    # ---- one stage --------------------------------------------------------------------------------------------------

    def _stage(self, forward: Forward, number: int, stage: Sequence[Task]) -> None:
        def rows(part: int, got: Mapping[str, Array]) -> list[_Rows | None]:
            return [self._rows(task, part, got) for task in stage]

        def work(batch: list[list[_Rows | None]]) -> list[list[_Part]]:
            each = [[r for r in some if r is not None] for some in zip(*batch, strict=True)]
            batch.clear()  # what is put together need not be there twice
            return [_by_fold(task, some) for task, some in zip(stage, each, strict=True)]

        seen = groupby(forward.run(number, rows), key=lambda found: self.batch[found[0]])
        batches = ([r for _, r in some] for _, some in seen)
        first = map(work, islice(batches, 1))  # the others are summed about its means
        at_once = min(CORES, max(1, STAGE // max(1, sum(t.bytes for t in stage))))
        for found in chain(first, in_order(work, batches, at_once)):
            _add(stage, found)
        if number % CLEARED == CLEARED - 1:
            give_back()

    def _solve_stage(self, stage: Sequence[Sequence[Task]]) -> None:
        """New values for all layers whose moments are summed, put into the graph."""
        large, others = [g for g in stage if g[0].kept], [g for g in stage if not g[0].kept]
        most = min(CORES, at_once([g[0].layer for g in others]))
        solved = [*map(self._solve_large, large), *side_by_side(self._solve, others, most)]
        for group, new in zip([*large, *others], solved, strict=True):
            for task, found in zip(group, new or (), strict=bool(new)):
                task.fitted.values = found
            write_all(self.graph, zip((t.layer for t in group), new or (), strict=bool(new)))
            for task in group:
                task.sums.clear()
                task.rows.clear()

    def _rows(self, task: Task, part: int, got: Mapping[str, Array]) -> _Rows | None:
        """Inputs and targets at the drawn positions of a part, their folds and weights; None where none are drawn."""
        layer, key = task.layer, ("drawn", task.number, part)
        positions, folds, target, weights, shape = self.shelf.get(key)
        self.shelf.drop(key)
        if not positions.size:
            return None
        x = inputs(layer, got[layer.x], shape.tolist(), positions)
        if task.other is not None:
            target = target - outputs(got[task.other], layer.axis, positions)
        if task.kept is not None:
            task.kept.keep(part, x, target, folds, weights)
            return None
        return x, target, folds, weights

    def _solve_large(self, group: Sequence[Task]) -> list[Values] | None:
        """New values of a layer that is fitted some outputs at a time; None where it stays."""
        (task,) = group
        assert task.kept is not None
        found = fit(task.kept, task.pair, task.free, self.folder, self.graph)
        give_back()
        f = task.fitted
        if isinstance(found, tuple):
            f.why = found
            return None
        f.ridge, f.signal, f.before, f.after = found.ridge, found.signal, found.before, found.after
        return [found.values]

    def _solve(self, group: Sequence[Task]) -> list[Values] | None:
        """New values of the layers that share a weight, from their moments; None where they stay."""
        first = group[0]
        p, one = first.problem(), one_bias([t.layer for t in group])
        summed = [self._moments(t) for t in group]
        parts = [s for s in summed if s is not None]
        if len(parts) < len(group):
            leave(group, "weight_shared", "another layer that reads the weight cannot be fitted")
            return None
        if one:  # weight and bias are one: so is the layer, and all rows are its rows
            parts = [{k: _pooled(s[k] for s in parts if k in s) for k in parts[0]}] * len(parts)
        each = parts[:1] if one else parts
        ridge, useful = choose_ridge(p, [s[Fold.FIT] for s in each], [s[Fold.CHOOSE] for s in each])
        if not useful:
            leave(group, *NO_GAIN)
            return None
        both = [s[Fold.FIT] + s[Fold.CHOOSE] for s in each]
        s = solve(p, added(both), ridge)
        if first.clamp is not None:
            s = self._clamped(first, p, s)
        found: list[Values] = []
        for task, part, m in zip(group, parts, both * len(group) if one else both, strict=False):
            fixed = task.layer.fixed[task.layer.rows]
            if first.clamp is not None:
                bias = s.bias
            else:
                bias = mean_bias(m, s.weight) if task.layer.free else np.zeros_like(fixed)
            new = values(task.layer, p, replace(s, bias=bias), self.graph)
            if isinstance(new, str):
                leave(group, "bias_range", new)
                return None
            found.append(new)
            self._measure(task, p, part.get(Fold.JUDGE, m), ridge, s.weight, bias, fixed)
        return found

    def _moments(self, task: Task) -> dict[int, Moments] | None:
        """The moments of one layer, by fold; None where there are none that count."""
        f, layer = task.fitted, task.layer
        parts = {k: s.moments() for k, s in task.sums.items()}
        if Fold.FIT not in parts or Fold.CHOOSE not in parts:
            f.why = FEW_ROWS
            return None
        if not layer.free:
            parts = {k: _without(m, layer.fixed[layer.rows]) for k, m in parts.items()}
        if not all(np.isfinite(m.h).all() and np.isfinite(m.tt).all() for m in parts.values()):
            f.why = NOT_FINITE
            return None
        return parts

    def _measure(
        self, task: Task, p: Problem, judge: Moments, ridge: float, weight: Array, bias: Array, fixed: Array
    ) -> None:
        """What the report says of a layer."""
        f = task.fitted
        now = fixed if task.layer.free else np.zeros_like(fixed)
        f.ridge, f.signal = ridge, float(judge.energy().sum())
        f.before = float(judge.error(p.weight(p.now), now).sum())
        f.after = float(judge.error(weight, bias).sum())

    def _clamped(self, task: Task, p: Problem, s: Solution) -> Solution:
        """Targets that lie where what follows cannot go are replaced by the prediction, held on that side."""
        assert task.clamp is not None
        low, high = (b[task.layer.outputs][:, None] for b in task.clamp)
        fixed = 0.0 if task.layer.free else task.layer.fixed[task.layer.rows][:, None]
        for _ in range(ROUNDS):
            sums: Sums | None = None
            for x, t, weights in task.rows:
                y = x @ s.weight.transpose(0, 2, 1).astype(np.float32) + s.bias[:, None].astype(np.float32) + fixed
                aim = np.where(t <= low, np.minimum(y, low), np.where(t >= high, np.maximum(y, high), t))
                aim = aim.astype(np.float32)
                sums = sums or Sums(x, aim)
                sums.add(sums.products(x, aim, weights))
            assert sums is not None
            m = sums.moments()
            s = solve(p, m if task.layer.free else _without(m, task.layer.fixed[task.layer.rows]), s.ridge)
        return s


def _by_fold(task: Task, rows: list[_Rows]) -> list[_Part]:
    """Inputs and targets of a batch by fold, and their products with each other; in the order of its parts."""
    if not rows:
        return []
    x, target, folds, weights = (
        some[0] if len(some) == 1 else np.concatenate(some, axis=1 if k == 0 else 0)
        for k, some in enumerate(zip(*rows, strict=True))
    )
    rows.clear()
    found = []
    for which in Fold:
        at = folds == which
        if at.any():
            seen = x if at.all() else x[:, at]
            aim = np.take(target[at].T, task.layer.outputs, axis=0).transpose(0, 2, 1)
            sums, weigh = task.sums.get(int(which)), weights[at] if weights.size else None
            products = None if sums is None else sums.products(seen, aim, weigh)
            kept = products is None or (task.clamp is not None and which != Fold.JUDGE)
            found.append((int(which), (seen, aim, weigh) if kept else None, products))
    return found


def _add(stage: Sequence[Task], found: Sequence[Sequence[_Part]]) -> None:
    """Add up what was found in a batch."""
    for task, parts in zip(stage, found, strict=True):
        for which, seen, products in parts:
            if products is None:
                assert seen is not None
                sums = task.sums.get(which) or Sums(*seen[:2])
                task.sums[which], products = sums, sums.products(*seen)
            task.sums[which].add(products)
            if task.clamp is not None and which != Fold.JUDGE and seen is not None:
                task.rows.append(seen)


def _pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of all rows together."""
    first, *others = parts
    return sum(others, start=first)


def _without(m: Moments, fixed: Array) -> Moments:
    """Moments about zero of targets less a fixed bias."""
    return Moments(m.count, m.x, m.t - fixed, m.h, m.c, m.tt).uncentred()
