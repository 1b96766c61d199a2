"""Fit compensation branches to the blocks of a model, one after the other, and choose what each block gets.

One round runs model and float model once over the samples (`onnx_ocs.compensation.relay`).  Every block is offered the
best branch of each form (`onnx_ocs.compensation.menu`); a price of MACs decides which it gets.  If all branches
together cost more than the budget, the price is raised until they fit, and a second round fits the branches that are
left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.calibration.context import Progress
from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.labels import cut
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.ground_truth import Truth
from onnx_ocs.compensation.insert import insert
from onnx_ocs.compensation.menu import Menu, Observed, learn
from onnx_ocs.compensation.regression import Branch
from onnx_ocs.compensation.relay import Relay, save
from onnx_ocs.measurement.yardstick import Output, Yardstick
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.order import mentioned
from onnx_ocs.records.branches import remove

__all__ = ["Fitting"]

HELD = 4  # every HELD-th batch is held out
PROBED = 16  # held-out batches on which the model's output is looked at
LEAST_DB = 0.1  # what 1 % of the model's MACs must bring to a block at least


def _start(b: Block, ends: Mapping[str, Menu]) -> Block:
    """A block that starts where the last one ends that can be compensated: what others end with may not be read."""
    while b.input is not None and ends[b.input].why:
        before = ends[b.input].block
        strides = tuple(p * q for p, q in zip(before.strides, b.strides, strict=False))
        b = replace(b, input=before.input, strides=strides, input_channels=before.input_channels)
    return b


def _in_turn(nodes: Sequence[NodeProto], ends: Iterable[str]) -> list[NodeProto]:
    """Nodes in an order in which the given tensors are finished one after the other.

    An earlier pass may have put what was side by side the other way round, and what a block starts from (copies that
    are folded back for other readers) behind the block's end.
    """
    writer = {o: k for k, n in enumerate(nodes) for o in n.output if o}
    order: dict[int, None] = {}
    for tensor in ends:
        stack, found = [tensor], set[int]()
        while stack:
            k = writer.get(stack.pop())
            if k is not None and k not in order and k not in found:
                found.add(k)
                stack += mentioned(nodes[k])
        order.update(dict.fromkeys(sorted(found)))
    order.update(dict.fromkeys(range(len(nodes))))
    return [nodes[k] for k in order]


class Fitting:
    """Branches for one model.

    Attributes:
        menus: one for each block.
        outputs: the model's outputs that count.
        yardstick: what the float model has there, on the held-out batches that are looked at.
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
        self.forms, self.linear = forms, linear
        self.folder, self.progress = folder, progress
        self.open = [m for m in self.menus if not m.why]
        self.batches = 0
        self.outputs: list[str] = []
        self.yardstick: Yardstick | None = None
        self.number: dict[str, int] = {}  # of a tensor in the files of targets

    def targets(
        self, truth: Truth, outputs: Sequence[Output], feeds: Iterable[Mapping[str, Array]], most: int
    ) -> None:
        """Write down what the float model has at the end of every block, and at the outputs.

        Args:
            truth: gives that.
            outputs: of the model, with what each of them counts.
            feeds: samples, batch by batch.
            most: bytes beyond which no further batch is taken.
        """
        counted = [o for o in outputs if o.weight > 0]
        wanted, self.outputs = [m.block.output for m in self.open], [o.name for o in counted]
        size = 0
        for feed in feeds:
            self.progress("float activations", self.batches, None)
            got = truth.run(feed, list(dict.fromkeys([*wanted, *self.outputs])))
            if not self.batches:
                for m in self.open:
                    if got[m.block.output].dtype != np.float32:
                        m.why = "not_float"
                self.open = [m for m in self.open if not m.why]
                wanted = [m.block.output for m in self.open]
                self.number = {t: k for k, t in enumerate(dict.fromkeys([*wanted, *self.outputs]))}
            size += sum(v.nbytes for v in got.values())
            if self.batches and size > most:
                break
            save(self.folder / f"target{self.batches}.npz", {f"t{k}": got[t] for t, k in self.number.items()})
            self.batches += 1
        if self.batches < 2:  # nothing could be held out
            for m in self.open:
                m.why = "few_samples"
            self.open = []
        if self.open:
            held = self.held_out[:PROBED]
            self.yardstick = Yardstick(counted, [{o: self.target(k, o) for o in self.outputs} for k in held])
        ends = {m.block.output: m for m in self.menus}
        for m in self.open:
            m.block = _start(m.block, ends)

    @property
    def held_out(self) -> range:
        """Numbers of the batches that nothing is fitted on."""
        every = max(min(HELD, self.batches), 1)
        return range(every - 1, self.batches, every)

    def target(self, batch: int, tensor: str) -> Array:
        """What the float model has there."""
        with np.load(self.folder / f"target{batch}.npz", allow_pickle=False) as z:
            return np.asarray(z[f"t{self.number[tensor]}"])

    def held(self, feeds: Callable[[], Iterator[Mapping[str, Array]]], label: str) -> Samples:
        """The samples that nothing is fitted on."""

        def given(_size: int, _limit: int) -> Iterator[tuple[int, dict[str, Array]]]:
            for k, feed in enumerate(feeds()):
                if k in self.held_out:
                    yield samples_in(feed), cut(feed, slice(None))

        return Samples(f"{label}, held out", given)

    def fit(self, feeds: Callable[[], Iterator[Mapping[str, Array]]], budget: int, macs: int) -> EditableGraph:
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

    def _round(
        self, feeds: Iterable[Mapping[str, Array]], price: float, wanted: Mapping[str, Branch] | None
    ) -> EditableGraph:
        """Fit all blocks in order, each behind the branches of those before it; by price, or like given branches."""
        menus = [m for m in self.open if wanted is None or m.block.output in wanted]
        turn = _Round(self, menus, (f for k, f in enumerate(feeds) if k < self.batches))
        for k, m in enumerate(menus):
            self.progress("fitting branches", k, len(menus))
            output = m.block.output
            like = None if wanted is None else wanted[output]
            # groups are kernels: a matrix has no axis to slide them along, and its dense form is cheap
            forms = [f for f in self.forms if f != "grouped" or self.ranks[output] > 2]
            learn(m, turn.observed(m.block), self.batches, len(self.held_out), forms, self.linear, like)
            m.chosen = m.best(price if like is None else 0.0)
            m.why = "" if m.chosen is not None else "no_gain"
            if m.chosen is not None and not turn.insert(m.block, m.chosen.branch):
                m.chosen, m.why = None, "no_end_gain"
        self.progress("fitting branches", len(menus), len(menus))
        return turn.graph


class _Round:
    """A copy of the model that gets its branches, cut at the ends of its blocks.

    Attributes:
        graph: of the copy.
    """

    def __init__(self, fitting: Fitting, menus: Sequence[Menu], feeds: Iterable[Mapping[str, Array]]) -> None:
        """Put the nodes into an order in which the blocks are finished one after the other."""
        work = onnx.ModelProto()
        work.CopyFrom(fitting.model)
        self.fitting, self.graph = fitting, EditableGraph(work)
        self.steady = self.graph.steady()
        always = {id(n) for n in self.steady}
        rest = [n for n in self.graph.nodes if id(n) not in always]
        self.nodes = _in_turn(rest, [m.block.output for m in fitting.open])
        self.place = {o: k for k, n in enumerate(self.nodes) for o in n.output}
        self.last: dict[str, float] = {t: k for k, n in enumerate(self.nodes) for t in mentioned(n)}
        self.last |= dict.fromkeys(self.graph.outputs, np.inf)
        for m in menus:  # a block's input lives until the block is fitted
            if m.block.input is not None:
                self.last[m.block.input] = max(self.last.get(m.block.input, 0), self.place[m.block.output] + 1.0)
        self.relay = Relay(feeds, fitting.folder)
        self.alive = set(self.graph.inputs)
        self.names: dict[str, str] = {}  # of blocks' outputs behind their branches
        self.pending: list[NodeProto] = []  # the last branch's nodes, which have not run
        self.start = 0  # the first node that has not run
        self.errors: Array | None = None  # of the model's outputs, with the branches so far

    def observed(self, b: Block) -> Iterator[Observed]:
        """Run up to a block's end, and tell what is there."""
        stop = self.place[b.output] + 1
        part = [*self.pending, *self.nodes[self.start : stop]]
        self.alive |= {o for n in part for o in n.output if o}
        self.alive = {t for t in self.alive if self.last.get(t, -1) >= stop} | {b.output}
        self.start, self.pending = stop, []
        source = self._source(b)
        for i, s in self.relay.run(self.graph, [*self.steady, *part], sorted(self.alive)):
            held, truth = i in self.fitting.held_out, self.fitting.target(i, b.output)
            yield Observed(held, s[b.output], None if source is None else s[source], truth)

    def _source(self, b: Block) -> str | None:
        return None if b.input is None else self.names.get(b.input, b.input)

    def insert(self, b: Block, branch: Branch) -> bool:
        """Insert a branch at the end that was reached; whether it stays, as the model's outputs are no worse for it."""
        graph, yardstick = self.graph, self.fitting.yardstick
        assert yardstick is not None
        rest = self.nodes[self.start :]
        if self.errors is None and b.output not in self.fitting.outputs:
            self.errors = self._at_outputs(yardstick, rest)
        count, source = len(graph.added), self._source(b)
        tensors = [b.output, *([] if source is None else [source])]
        now = insert(graph, b, branch, [tensors[i] for i in branch.which], self.fitting.ranks[b.output])
        self.pending = graph.added[count:]
        if now.before == b.output and self.errors is not None:
            then = self._at_outputs(yardstick, [*self.pending, *rest])
            if not yardstick.better(then, self.errors):
                remove(graph, now)
                self.pending = []
                return False
            self.errors = then
        self.names[b.output] = now.after
        self.last[now.after] = self.last[b.output]
        if now.before != b.output:
            self.relay.rename(b.output, now.before)
            self.alive = (self.alive - {b.output}) | {now.before}
            self.errors = None  # a graph output is another one now
        self.last[now.before] = -1
        return True

    def _at_outputs(self, yardstick: Yardstick, nodes: Sequence[NodeProto]) -> Array:
        """Errors of the model's outputs on held-out samples, from the last cut on."""
        outputs, batches = self.fitting.outputs, self.fitting.held_out[:PROBED]
        found = self.relay.peek(self.graph, [*self.steady, *nodes], outputs, batches)
        noise = [yardstick.noise(n, got) for n, (_, got) in enumerate(found)]
        return yardstick.errors(np.sum(noise, axis=0))
