"""Fit all layers again, each behind those that were fitted before it.

Layers are fitted in stages: all that depend on the same stages before them at once.  One pass through the float model
writes down the targets of all; then the quantized network is carried forward (`onnx_ocs.reconstruction.forward`), and
at every stage the layers' moments are summed, their new values computed and put into the graph.

Samples are split by number: most are fitted on, some choose the ridge before they are fitted on too, and some are
never fitted on (`Fold`): on these the errors in the report are measured, and the result is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.order import mentioned
from onnx_ocs.reconstruction.bounds import reach
from onnx_ocs.reconstruction.folds import Fold, fold
from onnx_ocs.reconstruction.forward import Forward
from onnx_ocs.reconstruction.layers import Layer
from onnx_ocs.reconstruction.moments import Moments, Sums
from onnx_ocs.reconstruction.pairing import Pair, Reference
from onnx_ocs.reconstruction.patches import draw, inputs, outputs
from onnx_ocs.reconstruction.shelf import Shelf
from onnx_ocs.reconstruction.solve import Problem, Solution, choose_ridge, problem, solve
from onnx_ocs.reconstruction.write import Values, scale_free, values, write
from onnx_ocs.runtime.threads import CORES, in_order, side_by_side

__all__ = ["Fitted", "Fitting"]

ROWS = 30000  # output positions of a layer that are looked at
INPUTS = 30_000_000  # values of these positions' inputs, beyond which fewer are
FEWEST = 6000
HELD_IN_MEMORY = 1 << 29
CLAMPED_LEVELS = 8  # grids of so few levels, in the weights or behind, get targets that know what can be expressed
ROUNDS = 3

Products = tuple[int, Array, Array, Array, Array, Array]
_Part = tuple[int, Array, Array, Products | None]
Feeds = Callable[[], Iterator[Mapping[str, Array]]]
Progress = Callable[[str, int, int | None], None]


@dataclass
class Fitted:
    """What became of one layer.

    Attributes:
        layer: the layer.
        values: its new values; None where it stays.
        ridge: the chosen ridge.
        signal: energy of the targets on the samples that judge.
        before: squared error there with the old values, behind the layers that were fitted before it.
        after: with the new ones.
        why: code and sentence where it stays.
    """

    layer: Layer
    values: Values | None = None
    ridge: float | None = None
    signal: float = 0.0
    before: float = 0.0
    after: float = 0.0
    why: tuple[str, str] | None = None


@dataclass(eq=False)
class _Task:
    """A layer while it is fitted."""

    number: int
    fitted: Fitted
    pair: Pair
    problem: Problem
    other: str | None = None
    clamp: tuple[Array, Array] | None = None
    sums: dict[int, Sums] = field(default_factory=dict)
    rows: list[tuple[Array, Array]] = field(default_factory=list)

    @property
    def layer(self) -> Layer:
        return self.fitted.layer


class Fitting:
    """All layers of one model."""

    def __init__(
        self, graph: EditableGraph, layers: Sequence[Layer], pairs: Sequence[Pair | None], reference: Reference,
        folder: Path, seed: int, total: int, unit: int, masks: Callable[[Mapping[str, Array]], Array | None],
        progress: Progress,
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
            masks: gives which rows of a feed count, bool (samples, positions), or None.
            progress: called during long work.
        """
        self.graph, self.reference, self.total = graph, reference, total
        self.unit = unit
        self.masks, self.progress = masks, progress
        self.shelf = Shelf(folder, HELD_IN_MEMORY)
        self.dice = np.random.default_rng(seed).random(1 << 17)
        self.fitted = [Fitted(layer) for layer in layers]
        self.tasks: list[_Task] = []
        for k, (f, pair) in enumerate(zip(self.fitted, pairs, strict=True)):
            if pair is None:
                f.why = "no_target", "no tensor of the float model is what this layer writes"
                continue
            p = problem(f.layer, pair.prior, scale_free(f.layer, graph))
            if p is None:
                f.why = "weight_form", "its scales lie neither along rows nor along inputs"
                continue
            found = reach(graph, f.layer)
            few = found is not None and min(p.high - p.low + 1, found.levels) <= CLAMPED_LEVELS
            self.tasks.append(_Task(k, f, pair, p, clamp=(found.low, found.high) if few and found else None))
        self.stages = self._stages()

    def _stages(self) -> list[list[_Task]]:
        """The layers by how many others must be fitted before them; the other operands that can be waited for."""
        level: dict[str, int] = {}
        waiting = {id(t.layer.node): t for t in self.tasks}
        found: dict[int, list[_Task]] = {}
        for n in self.graph.nodes:
            depth = max((level.get(t, 0) for t in mentioned(n)), default=0)
            task = waiting.get(id(n))
            if task is not None:
                other = task.pair.other
                if other is not None and (other[1] in level or other[1] in self.graph.inputs):
                    task.other = other[1]
                    depth = max(depth, level.get(other[1], 0))
                found.setdefault(depth, []).append(task)
                depth += 1
            level |= dict.fromkeys(n.output, depth)
        return [found[k] for k in sorted(found)]

    def run(self, feeds: Feeds) -> None:
        """Fit everything.

        Args:
            feeds: gives the samples, batch by batch, each time it is called.
        """
        with threadpool_limits(1, "blas"):
            self._targets(feeds())
            stages = [[t for task in s for t in (task.layer.x, task.other) if t] for s in self.stages]
            forward = Forward(self.graph, stages, feeds(), self.shelf)
            for k, stage in enumerate(self.stages):
                self.progress("fitting layers", k, len(self.stages))
                self._stage(forward, k, stage)
            self.progress("fitting layers", len(self.stages), len(self.stages))

    # ---- targets ----------------------------------------------------------------------------------------------------

    def _targets(self, feeds: Iterator[Mapping[str, Array]]) -> None:
        """Draw positions, and write down the reference's values there."""
        names = [(t.pair.floats, t.pair.tensor) for t in self.tasks]
        names += [(t.pair.floats, t.pair.other[0]) for t in self.tasks if t.other and t.pair.other]
        self.reference.prepare([n for f, n in names if f], [n for f, n in names if not f], 1)

        def work(feed: Mapping[str, Array]) -> tuple[Mapping[str, Array], dict[tuple[bool, str], Array]]:
            return feed, self.reference.run(feed)

        first = 0
        for batch, (feed, got) in enumerate(in_order(work, feeds, CORES)):
            self.progress("float targets", first, self.total)
            size = samples_in(feed)
            mask = self.masks(feed)
            for task in self.tasks:
                self._draw(task, batch, first, size, got, mask)
            first += size

    def _draw(
        self, task: _Task, batch: int, first: int, size: int,
        got: Mapping[tuple[bool, str], Array], mask: Array | None,
    ) -> None:  # fmt: skip
        layer, pair = task.layer, task.pair
        y = got[pair.floats, pair.tensor]
        axis = layer.axis % y.ndim
        shape = tuple(d for a, d in enumerate(y.shape) if a != axis)
        count = int(np.prod(shape))
        parts = size if shape and shape[0] % size == 0 else 1
        allowed = None
        if mask is not None and mask.size == count:
            allowed = mask.reshape(-1)
        inputs_of_row = layer.columns.size
        most = min(ROWS, max(FEWEST, INPUTS // inputs_of_row))
        each, share = count // parts, -(-most * (size // parts) // max(self.total, 1))
        drawn = [
            p * each
            + draw(
                each,
                share,
                self.dice,
                task.number * 7919 + (first + p) * 104729,
                None if allowed is None else allowed[p * each :][:each],
            )
            for p in range(parts)
        ]
        positions = np.concatenate(drawn)
        numbers = np.repeat(first + np.arange(parts), [len(d) for d in drawn])
        target = outputs(y, layer.axis, positions)
        if task.other and pair.other:
            other = got[pair.floats, pair.other[0]]
            if other.shape == y.shape:
                target = target + outputs(other, layer.axis, positions)
            else:
                task.other = None
        for what, value in (
            ("positions", positions),
            ("folds", fold(numbers, self.total, self.unit)),
            ("target", target),
        ):
            self.shelf.put((what, task.number, batch), value)
        self.shelf.put(("shape", task.number, batch), np.asarray(y.shape))

    # ---- one stage --------------------------------------------------------------------------------------------------

    def _stage(self, forward: Forward, number: int, stage: Sequence[_Task]) -> None:
        def work(item: tuple[int, Mapping[str, Array]]) -> list[list[_Part]]:
            return [self._parts(task, *item) for task in stage]

        for found in in_order(work, forward.run(number), CORES):
            for task, parts in zip(stage, found, strict=True):
                for which, x, t, products in parts:
                    sums = task.sums.setdefault(which, Sums(x, t))
                    sums.add(sums.products(x, t) if products is None else products)
                    if task.clamp is not None and which != Fold.JUDGE:
                        task.rows.append((x, t))
        for task in stage:
            for batch in range(forward.batches):
                for what in ("positions", "folds", "target", "shape"):
                    self.shelf.drop((what, task.number, batch))
        solved = side_by_side(self._solve, stage)
        for task, new in zip(stage, solved, strict=True):
            if new is not None:
                task.fitted.values = new
                write(self.graph, task.layer, new)
            task.sums.clear()
            task.rows.clear()

    def _parts(self, task: _Task, batch: int, got: Mapping[str, Array]) -> list[_Part]:
        """Inputs and targets at the drawn positions of a batch, by fold, and their products with each other."""
        layer = task.layer
        positions, folds, target, shape = (
            self.shelf.get((what, task.number, batch)) for what in ("positions", "folds", "target", "shape")
        )
        if not positions.size:
            return []
        x = inputs(layer, got[layer.x], shape.tolist(), positions)
        if task.other is not None:
            target = target - outputs(got[task.other], layer.axis, positions)
        found = []
        for which in Fold:
            at = folds == which
            if at.any():
                seen, aim = _grouped(layer, x[at]), target[at][:, layer.outputs].transpose(1, 0, 2)
                sums = task.sums.get(int(which))
                found.append((int(which), seen, aim, None if sums is None else sums.products(seen, aim)))
        return found

    def _solve(self, task: _Task) -> Values | None:
        """New values of one layer from its moments; None where it stays."""
        f, p, layer = task.fitted, task.problem, task.layer
        parts = {k: s.moments() for k, s in task.sums.items()}
        if Fold.FIT not in parts or Fold.CHOOSE not in parts:
            f.why = "few_rows", "too few samples reach it"
            return None
        fixed = layer.fixed[layer.rows]
        if not layer.free:
            parts = {k: _without(m, fixed) for k, m in parts.items()}
        if not all(np.isfinite(m.h).all() and np.isfinite(m.tt).all() for m in parts.values()):
            f.why = "not_finite", "values are not finite there"
            return None
        ridge, useful = choose_ridge(p, parts[Fold.FIT], parts[Fold.CHOOSE])
        if not useful:
            f.why = "no_gain", "no fit is finite on held-out samples"
            return None
        both = parts[Fold.FIT] + parts[Fold.CHOOSE]
        s = solve(p, both, ridge)
        if task.clamp is not None:
            s = self._clamped(task, s)
        found = values(layer, p, s, self.graph)
        if isinstance(found, str):
            f.why = "bias_range", found
            return None
        judge = parts.get(Fold.JUDGE, both)
        now = np.zeros_like(fixed) if not layer.free else fixed
        f.ridge, f.signal = ridge, float(judge.energy().sum())
        f.before = float(judge.error(p.weight(p.now), now).sum())
        f.after = float(judge.error(s.weight, s.bias).sum())
        return found

    def _clamped(self, task: _Task, s: Solution) -> Solution:
        """Targets that lie where what follows cannot go are replaced by the prediction, held on that side."""
        assert task.clamp is not None
        low, high = (b[task.layer.outputs][:, None] for b in task.clamp)
        fixed = 0.0 if task.layer.free else task.layer.fixed[task.layer.rows][:, None]
        for _ in range(ROUNDS):
            sums: Sums | None = None
            for x, t in task.rows:
                y = x @ s.weight.transpose(0, 2, 1).astype(np.float32) + s.bias[:, None].astype(np.float32) + fixed
                aim = np.where(t <= low, np.minimum(y, low), np.where(t >= high, np.maximum(y, high), t))
                aim = aim.astype(np.float32)
                sums = sums or Sums(x, aim)
                sums.add(sums.products(x, aim))
            assert sums is not None
            m = sums.moments()
            s = solve(task.problem, m if task.layer.free else _without(m, task.layer.fixed[task.layer.rows]), s.ridge)
        return s


def _without(m: Moments, fixed: Array) -> Moments:
    """Moments about zero of targets less a fixed bias."""
    return Moments(m.count, m.x, m.t - fixed, m.h, m.c, m.tt).uncentred()


def _grouped(layer: Layer, x: Array) -> Array:
    """Rows of inputs, (rows, inputs), as (G, rows, K)."""
    if layer.dense:
        return x[None]
    padded = np.concatenate([x, np.zeros((len(x), 1), x.dtype)], axis=1) if layer.columns.min() < 0 else x
    return np.ascontiguousarray(padded[:, layer.columns].transpose(1, 0, 2))
