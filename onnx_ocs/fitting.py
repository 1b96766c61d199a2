"""Fit compensation branches to the blocks of a model, one after the other, and choose what each block gets.

One round runs model and float model once over the samples (`onnx_ocs.relay`).  For every block the normal equations
are summed up; all forms, regressors, ridges and alphas are compared in closed form on the held-out samples'
equations, and the best of each form exactly, with its bounds and every beta, on held-out positions.  A price of MACs
decides which a block gets.  If all branches together cost more than the budget, the price is raised until they fit,
and a second round fits the branches that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.blocks import Block
from onnx_ocs.branch import insert, rank_of, remove
from onnx_ocs.calibration import Samples
from onnx_ocs.graph import Array, Graph, mentioned
from onnx_ocs.regression import Branch, Candidate, Moments, blt, branch, candidates
from onnx_ocs.relay import Relay, save
from onnx_ocs.runtime import Session, expose

__all__ = ["Fitting", "Menu", "Offer"]

FACTORS = (0.0, 0.1, 1.0)  # a and b, against one over the standard deviation of what is transformed
HELD = 4  # every HELD-th batch is held out
POSITIONS = 8192  # held-out positions on which the final choice is made
ROWS = 1 << 15  # positions of one batch that enter the equations: more only cost time
WIDEST = 2048  # regressors of one block
RANDOM = ("Random", "Multinomial", "Bernoulli")
GAIN = 0.02  # least relative reduction of the held-out error
SURE = 2.0  # standard errors by which the mean reduction over held-out samples must exceed 0
PROBED = 8  # held-out batches on which the model's output is looked at
LIKELY = 1.0  # the same for the model's output, where what stands behind adds noise
LEAST_DB = 0.1  # what 1 % of the model's MACs must bring to a block at least

Progress = Callable[[str, int, int | None], None]


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


def _rows(a: Array, axis: int) -> Array:
    """(P, C) float64."""
    return np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis]).astype(np.float64)


def _surely(before: Sequence[float], after: Sequence[float], least: float, sure: float) -> bool:
    """Whether an error is reduced on held-out samples, by more than a share and than their differences explain."""
    gain = np.asarray(before) - np.asarray(after)
    doubt = sure * float(gain.std(ddof=1)) / np.sqrt(gain.size) if gain.size > 1 else 0.0
    return bool(gain.sum() > least * sum(before) and gain.mean() > doubt)


def _start(b: Block, ends: Mapping[str, Menu]) -> Block:
    """A block that starts where the last one ends that can be compensated: what others end with may not be read."""
    while b.input is not None and ends[b.input].why:
        before = ends[b.input].block
        strides = tuple(p * q for p, q in zip(before.strides, b.strides, strict=False))
        b = replace(b, input=before.input, strides=strides, input_channels=before.input_channels)
    return b


def _steady(graph: Graph) -> list[NodeProto]:
    """The nodes that compute the same for every input, such as weights' DequantizeLinear: no sample carries these."""
    known, found = graph.initializers.keys() - {i.name for i in graph.model.graph.input}, list[NodeProto]()
    for n in graph.nodes:
        if not n.op_type.startswith(RANDOM) and all(t in known for t in mentioned(n)):
            known |= set(n.output)
            found.append(n)
    return found


class Fitting:
    """Branches for one model.

    Attributes:
        menus: one for each block.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        blocks: Sequence[Menu],
        ranks: Mapping[str, int],
        forms: Sequence[str],
        linear: bool,
        folder: Path,
        progress: Progress,
    ) -> None:
        """Prepare.

        Args:
            model: the model; changed by `fit`.
            blocks: one menu for each block; those with a reason (`why`) get nothing.
            ranks: of the blocks' outputs.
            forms: which forms are candidates besides a bias.
            linear: whether only a = b = 0 is tried.
            folder: for files.
            progress: called during long work.
        """
        self.model, self.menus, self.ranks = model, list(blocks), ranks
        self.forms, self.factors = forms, FACTORS[:1] if linear else FACTORS
        self.folder, self.progress = folder, progress
        self.open = [m for m in self.menus if not m.why]
        self.batches = 0

    def targets(self, reference: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]], most: int) -> None:
        """Write down what the float model has at the end of every block.

        Args:
            reference: the float model, its tensors called as the model's.
            feeds: samples, batch by batch.
            most: bytes beyond which no further batch is taken.
        """
        wanted = [m.block.output for m in self.open]
        self.output = self.model.graph.output[0].name
        session = Session(expose(reference, wanted), "enable_all", fusion=False)
        size = 0
        for feed in feeds:
            self.progress("float activations", self.batches, None)
            got = session.run(feed, list(dict.fromkeys([*wanted, self.output])))
            for m in self.open:
                if got[m.block.output].dtype != np.float32:
                    m.why = "not_float"
            self.open = [m for m in self.open if not m.why]
            wanted = [m.block.output for m in self.open]
            size += sum(v.nbytes for v in got.values())
            if self.batches and size > most:
                break
            kept = dict.fromkeys([*wanted, self.output])
            save(self.folder / f"target{self.batches}.npz", {f"t{k}": got[t] for k, t in enumerate(kept)})
            self.batches += 1
        self.number = {t: k for k, t in enumerate(dict.fromkeys([*wanted, self.output]))}
        if self.batches < 2:  # nothing could be held out
            for m in self.open:
                m.why = "few_samples"
            self.open = []
        ends = {m.block.output: m for m in self.menus}
        for m in self.open:
            m.block = _start(m.block, ends)

    def _target(self, batch: int, tensor: str) -> Array:
        with np.load(self.folder / f"target{batch}.npz", allow_pickle=False) as z:
            return np.asarray(z[f"t{self.number[tensor]}"])

    def held(self, feeds: Callable[[], Iterator[Mapping[str, Array]]], label: str) -> Samples:
        """The samples that nothing is fitted on."""
        every = max(min(HELD, self.batches), 1)

        def given(_size: int, _limit: int) -> Iterator[tuple[int, dict[str, Array]]]:
            for k, feed in enumerate(feeds()):
                if k % every == every - 1 and k < self.batches:
                    yield len(next(iter(feed.values()))), dict(feed)

        return Samples(f"{label}, held out", given)

    def fit(self, feeds: Callable[[], Iterator[Mapping[str, Array]]], budget: int, macs: int) -> Graph:
        """Choose branches within a budget.

        Args:
            feeds: gives the samples of `targets`, batch by batch, each time it is called.
            budget: most MACs of all branches for one sample.
            macs: of the model.

        Returns:
            A graph of a copy of the model with the branches, not committed.
        """
        least = np.log(10.0) / 10 * LEAST_DB / (0.01 * max(macs, 1))
        graph = self._round(feeds(), least, None)
        if sum(m.chosen.macs for m in self.open if m.chosen) <= budget:
            return graph

        def spent(price: float) -> int:
            return sum(o.macs for m in self.open if (o := m.best(price)) is not None)

        low, high = np.log10(least), np.log10(least) + 12.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if spent(10.0**middle) > budget else (low, middle)
        kept = {m.block.output: o for m in self.open if (o := m.best(10.0**high)) is not None}
        for m in self.open:
            if m.offers and m.block.output not in kept:
                m.chosen, m.why = None, "budget"
        return self._round(feeds(), least, {t: o.branch for t, o in kept.items()})

    def _round(self, feeds: Iterable[Mapping[str, Array]], price: float, wanted: Mapping[str, Branch] | None) -> Graph:
        """Fit all blocks in order, each behind the branches of those before it; by price, or like given branches."""
        work = onnx.ModelProto()
        work.CopyFrom(self.model)
        graph = Graph(work)
        steady = _steady(graph)
        always = {id(n) for n in steady}
        nodes = [n for n in graph.nodes if id(n) not in always]
        place = {o: k for k, n in enumerate(nodes) for o in n.output}
        last: dict[str, float] = {t: k for k, n in enumerate(nodes) for t in mentioned(n)}
        last |= dict.fromkeys(graph.outputs, np.inf)
        menus = [m for m in self.open if wanted is None or m.block.output in wanted]
        for m in menus:  # a block's input lives until the block is fitted
            if m.block.input is not None:
                last[m.block.input] = max(last.get(m.block.input, 0), place[m.block.output] + 1.0)
        relay = Relay((f for k, f in enumerate(feeds) if k < self.batches), self.folder)
        now_error: list[float] | None = None
        alive, names, pending, start = set(graph.inputs), dict[str, str](), list[NodeProto](), 0
        for k, m in enumerate(menus):
            self.progress("fitting branches", k, len(menus))
            b, stop = m.block, place[m.block.output] + 1
            part = [*pending, *nodes[start:stop]]
            alive |= {o for n in part for o in n.output if o}
            alive = {t for t in alive if last.get(t, -1) >= stop} | {b.output}
            source = None if b.input is None else names.get(b.input, b.input)
            like = None if wanted is None else wanted[b.output]
            self._learn(m, relay.run(graph, [*steady, *part], sorted(alive)), source, like)
            m.chosen = m.best(price if like is None else 0.0)
            m.why = "" if m.chosen is not None else "no_gain"
            start, pending = stop, []
            if m.chosen is not None:
                if now_error is None and b.output != self.output:
                    now_error = self._at_output(relay, graph, [*steady, *nodes[stop:]])
                count = len(graph.added)
                tensors = [b.output, *([] if source is None else [source])]
                chosen = [tensors[i] for i in m.chosen.branch.which]
                now = insert(graph, b, m.chosen.branch, chosen, self.ranks[b.output], np.dtype(np.float32))
                pending = graph.added[count:]
                if now.before == b.output and now_error is not None:
                    then = self._at_output(relay, graph, [*steady, *pending, *nodes[stop:]])
                    if not _surely(now_error, then, 0.0, LIKELY):
                        remove(graph, now)
                        m.chosen, m.why, pending = None, "no_end_gain", []
                        continue
                    now_error = then
                names[b.output] = now.after
                last[now.after] = last[b.output]
                if now.before != b.output:
                    relay.rename(b.output, now.before)
                    alive = (alive - {b.output}) | {now.before}
                last[now.before] = -1
        self.progress("fitting branches", len(menus), len(menus))
        return graph

    def _at_output(self, relay: Relay, graph: Graph, nodes: Sequence[NodeProto]) -> list[float]:
        """Squared error of the model's output on held-out samples, from the last cut on; one number a sample."""
        every = max(min(HELD, self.batches), 1)
        found: list[float] = []
        for k, out in relay.peek(graph, nodes, self.output, range(every - 1, self.batches, every)[:PROBED]):
            left = (np.asarray(out, np.float64) - self._target(k, self.output)) ** 2
            found += left.reshape(len(left), -1).sum(1).tolist()
        return found

    def _learn(
        self, m: Menu, states: Iterator[tuple[int, dict[str, Array]]], source: str | None, like: Branch | None
    ) -> None:
        """Sum up a block's equations over all batches, and make its offers (or the one that is like a branch)."""
        b = m.block
        every = max(min(HELD, self.batches), 1)
        share = max(POSITIONS * every // max(self.batches, 1), 1)
        equations: list[tuple[list[float], Moments, Moments]] = []
        reach = [0.0, 0.0]
        kept: list[list[Array]] = []
        cells = 0
        for k, state in states:
            y = state[b.output]
            inputs = [_rows(y, b.axis)]
            if source is not None and b.channels + b.input_channels <= WIDEST:
                x = (
                    state[source][(slice(None), slice(None), *(slice(None, None, s) for s in b.strides))]
                    if (b.axis == 1)
                    else state[source]
                )
                inputs.append(_rows(x, b.axis))
            truth = _rows(self._target(k, b.output), b.axis)
            cells = cells or len(truth) // max(len(y), 1)
            number = k * len(truth) + np.arange(len(truth)) // max(cells, 1)
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
                betas = [f / (float(target.std()) or 1.0) for f in self.factors]
                equations = [
                    ([f / s for s in spread], Moments(sizes, b.channels, betas), Moments(sizes, b.channels, betas))
                    for f in self.factors
                ]
            held = k % every == every - 1
            if held:
                some = slice(None, None, max(1, len(truth) // share))
                kept.append([*(i[some] for i in inputs), target[some], truth[some], number[some]])
            else:
                reach = [max(r, float(np.abs(i).max())) for r, i in zip(reach, inputs, strict=False)]
            for alphas, fit, test in equations:
                bounded = [np.clip(i, -r, r) for i, r in zip(inputs, reach, strict=False)] if held else inputs
                (test if held else fit).add([blt(i, a) for i, a in zip(bounded, alphas, strict=True)], target)
        m.offers = {}
        if kept and equations and equations[0][1].count:
            self._offer(m, equations, reach, kept, cells, like)

    def _offer(
        self,
        m: Menu,
        equations: Sequence[tuple[list[float], Moments, Moments]],
        reach: Sequence[float],
        kept: Sequence[Sequence[Array]],
        cells: int,
        like: Branch | None,
    ) -> None:
        """The best branch of each form and rank, those that gain on the held-out samples."""
        *inputs, target, truth, number = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        sample = np.unique(number, return_inverse=True)[1]

        def errors(left: Array) -> tuple[float, ...]:
            return tuple(np.bincount(sample, (left * left).sum(1)).tolist())

        m.before, m.signal = errors(target), float((truth * truth).sum())
        best: dict[tuple[str, int], tuple[Candidate, Moments, list[float]]] = {}
        for alphas, fit, test in equations:
            for c in candidates(fit, test, self.forms):
                key = c.form, m.block.channels if c.rank is None else c.rank
                if like is not None and (*key, c.which) != (like.form, rank_of(like), like.which):
                    continue  # another one could cost more than was reckoned with
                if key not in best or c.error < best[key][0].error:
                    best[key] = c, fit, alphas
        for key, (c, fit, alphas) in best.items():
            tried = [branch(c, fit, k, alphas, reach) for k in range(len(fit.betas))]
            left = [errors(target - t.predict([inputs[i] for i in t.which])) for t in tried]
            k = min(range(len(tried)), key=lambda i: sum(left[i]))
            if _surely(m.before, left[k], GAIN, SURE):
                m.offers[key] = Offer(tried[k], tried[k].macs * cells, left[k])
