"""A model in onnxruntime that is asked again and again with few of its parameters changed, and runs what lies behind.

Where all that the rest of the model reads are tensors that were switched (`onnx_ocs.probes.switchboard`), or that no
switch reaches, it is cut, into stages of a session each.  What crossed the cuts is kept: a question runs from the first
stage whose parameters differ from those of an earlier question.  The optimizer does not look through a switch, so a cut
behind it leaves every number as it is in one session.  Each stage also has a session without switches, for questions
that leave it and all that follow at rest: it takes half the time, and may add up in another order.  What is kept counts
for such questions alone, so an answer never depends on what was asked before.

The samples of a feed run a few at a time, side by side: caches hold what they leave behind, and no thread waits for
another at every layer.  Only where that gives the very numbers of the whole feed, which is tried on an example.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnx_ocs.model.nodes import RANDOM, Array, is_op
from onnx_ocs.model.order import mentioned, topological
from onnx_ocs.model.sizes import rough_size
from onnx_ocs.runtime.memory import share_of_memory
from onnx_ocs.runtime.session import LARGE, NUMBERS, RUN_ERRORS, SMALL, Session, as_written
from onnx_ocs.runtime.threads import share, side_by_side, slices

__all__ = ["STAGES", "Stages"]

STAGES = 12  # most sessions
KEPT = 1 << 30  # most bytes of what crossed the cuts, over all feeds; less where there is little memory
LONG_AGO = 256  # questions after which a feed will hardly come again
KEPT_SHARE = 4  # of the memory that a run may take, the part for them


@dataclass(frozen=True, eq=False)
class _Stage:
    session: Session
    parameters: tuple[str, ...]  # those that it reads
    resting: Session | None  # the same for parameters at rest, as constants


_Key = tuple[Mapping[str, bytes], bool]  # what a stage's parameters are that are not at rest; whether it runs resting


@dataclass(frozen=True, eq=False)
class _Question:
    """Parameters, and what of them each stage sees."""

    parameters: Mapping[str, Array]
    keys: Sequence[_Key]


@dataclass(frozen=True, eq=False)
class _Run:
    """One question and its answer: what every stage saw, and what it wrote."""

    keys: Sequence[_Key]
    written: Sequence[Mapping[str, Array]]

    def agrees(self, keys: Sequence[_Key]) -> int:
        """How many stages from the first on saw the same, and ran in the same session."""
        return next((k for k, (a, b) in enumerate(zip(self.keys, keys, strict=True)) if a != b), len(keys))


@dataclass(eq=False)
class _Slice:
    """Samples that run together, and the questions about them that are kept."""

    feed: Mapping[str, Array]
    runs: Sequence[_Run] = ()


@dataclass(eq=False)
class _Known:
    """A feed, its slices, and when it was last asked about."""

    feed: Mapping[str, Array]
    slices: Sequence[_Slice]
    turn: int = 0


class Stages:
    """The model's outputs, as a function of samples and parameters."""

    def __init__(
        self,
        model: onnx.ModelProto,
        rest: Mapping[str, Array],
        switched: Collection[str],
        stages: int = STAGES,
        example: Mapping[str, Array] | None = None,
        outputs: Sequence[str] | None = None,
        sliced: bool = False,
        threads: int | None = None,
    ) -> None:
        """Load it.

        Args:
            model: the model; not changed.
            rest: the graph inputs that are no samples, and the values that most questions have for most of them.
            switched: tensors behind which it may be cut.
            stages: in how many sessions at most.
            example: a feed to try on whether its samples may run a few at a time; None: they may not.
            outputs: the graph outputs that are asked for, and nothing else is computed; default: all.
            sliced: whether samples may run a few at a time, where that was tried before.
            threads: how many may be used; None: as many as help.

        Raises:
            Exception: whatever onnxruntime raises for a model that it does not load.
        """
        self._feeds: OrderedDict[int, _Known] = OrderedDict()
        self._turn = 0
        asked = [o.name for o in model.graph.output] if outputs is None else outputs
        parts = _Parts(model, rest, set(switched), asked)
        self._outputs, cuts = parts.outputs, parts.cuts(stages)
        slices = [] if example is None or parts.large else _sliced(example)  # each would make floats of all weights
        self.sliced, self._threads = (sliced and not parts.large) or len(slices) > 1, threads
        self._rest = {name: value.tobytes() for name, value in rest.items()}
        self._parameters = rest
        self._asked: _Question | None = None
        self._load(parts, cuts, len(slices) if len(slices) > 1 else 1)
        if self.sliced and example is not None and not self._same(example, slices):
            self.sliced = False
            self._load(parts, cuts, 1)

    def _load(self, parts: _Parts, cuts: Sequence[int], at_once: int) -> None:
        self.stages = parts.load(cuts, at_once, self._threads)
        self._readers: dict[str, list[int]] = defaultdict(list)
        for k, stage in enumerate(self.stages):
            for name in stage.parameters:
                self._readers[name].append(k)

    def _same(self, whole: Mapping[str, Array], slices: Sequence[Mapping[str, Array]]) -> bool:
        """Whether samples in slices give the very numbers that they give together."""
        at_rest = self._question({})
        try:
            want, *got = (self._ask(_Slice(feed), at_rest) for feed in (whole, *slices))
        except RUN_ERRORS:
            return False
        return all(
            all(g[o].ndim for g in got) and _equal(np.concatenate([g[o] for g in got]), want[o]) for o in self._outputs
        )

    def run(self, feed: Mapping[str, Array], parameters: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for samples and parameters; those that are not named are at rest.

        Both are known again by identity: they must not change.
        """
        if self._asked is None or self._asked.parameters is not parameters:  # once for all samples
            self._asked = self._question(parameters)
        question = self._asked
        known = self._feeds.pop(id(feed), None)
        if known is None:
            known = _Known(feed, [_Slice(f) for f in (_sliced(feed) if self.sliced else [feed])])
        outputs = side_by_side(lambda s: self._ask(s, question), known.slices, self._threads)
        self._keep(known)
        if len(outputs) == 1:
            return outputs[0]
        return {o: np.concatenate([found[o] for found in outputs]) for o in self._outputs}

    def _keep(self, known: _Known) -> None:
        """Keep what is known of a feed, within the memory that there is.

        Feeds come round and round: to drop the oldest for the newest would drop each before it comes again.
        """
        self._turn = known.turn = self._turn + 1
        self._feeds[id(known.feed)] = known
        while self._feeds and _size(self._feeds.values()) > min(KEPT, share_of_memory(KEPT_SHARE)):
            oldest = next(iter(self._feeds.values()))
            self._feeds.popitem(last=self._turn - oldest.turn < LONG_AGO)

    def forget(self) -> None:
        """Give back what is kept: no answer depends on it."""
        self._feeds.clear()

    def _question(self, parameters: Mapping[str, Array]) -> _Question:
        """What each stage sees of it; a stage rests where it and all that follow are at rest."""
        moved: list[dict[str, bytes]] = [{} for _ in self.stages]
        for name, value in parameters.items():
            if (seen := value.tobytes()) != self._rest[name]:
                for k in self._readers.get(name, ()):
                    moved[k][name] = seen
        last = max((k for k, m in enumerate(moved) if m), default=-1)
        rests = [s.resting is not None and k > last for k, s in enumerate(self.stages)]
        return _Question(parameters, list(zip(moved, rests, strict=True)))

    def _ask(self, samples: _Slice, question: _Question) -> dict[str, Array]:
        """The outputs for one slice, which keeps what crossed the cuts."""
        keys = question.keys
        like = max(samples.runs, key=lambda r: r.agrees(keys), default=None)  # the older one, where both agree as far
        same = 0 if like is None else like.agrees(keys)
        written = [] if like is None else list(like.written[:same])
        known = dict(samples.feed)
        for found in written:
            known |= found
        for stage, (_, rests) in list(zip(self.stages, keys, strict=True))[same:]:
            session = stage.resting if stage.resting is not None and rests else stage.session
            inputs = {n: known[n] for n in session.inputs if n in known}
            if session is stage.session:
                inputs |= {n: question.parameters.get(n, self._parameters[n]) for n in stage.parameters}
            written.append(session.run(inputs))
            known |= written[-1]
        if like is None or same < len(keys):
            # questions change one thing about a plan, or keep the change: that plan, or the last question, comes again
            samples.runs = [_Run(keys, written)] if like is None else [like, _Run(keys, written)]
        return {o: known[o] for o in self._outputs}


def _sliced(feed: Mapping[str, Array]) -> list[Mapping[str, Array]]:
    """A feed in slices; the feed itself where its arrays do not fit that."""
    lengths = {len(a) if a.ndim else 0 for a in feed.values()}
    parts = slices(*lengths) if len(lengths) == 1 else []
    return [{n: a[part] for n, a in feed.items()} for part in parts] if len(parts) > 1 else [feed]


def _equal(x: Array, y: Array) -> bool:
    return np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")


def _size(kept: Collection[_Known]) -> int:
    """Bytes of all that crossed a cut."""
    runs = (r for known in kept for s in known.slices for r in s.runs)
    arrays = {id(a): a.nbytes for r in runs for found in r.written for a in found.values()}
    return sum(arrays.values())


class _Parts:
    """The nodes that some outputs need, in order, and where they can be parted."""

    def __init__(
        self, model: onnx.ModelProto, rest: Mapping[str, Array], switched: set[str], outputs: Sequence[str]
    ) -> None:
        self.model, self.rest, self.parameters, self.switched = model, rest, set(rest), switched
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.inputs = {i.name: i for i in model.graph.input if i.name not in self.initializers}
        size = rough_size(model, SMALL)  # of the whole model, not of a part
        self.small = size < SMALL
        self.large = size >= LARGE  # its weights are held once
        self.outputs = list(outputs)
        wanted, nodes = set(outputs), []
        for n in reversed(topological(model.graph.node)):
            if not wanted.isdisjoint(n.output):
                nodes.append(n)
                wanted.update(mentioned(n))
        # constants belong to whatever reads them; the others are parted
        self.constants: dict[str, NodeProto] = {}
        self.nodes: list[NodeProto] = []
        self.varying: set[str] = set()
        for n in reversed(nodes):
            if n.op_type.startswith(RANDOM) or any(t in self.varying or t in self.inputs for t in mentioned(n)):
                self.nodes.append(n)
                self.varying.update(n.output)
            else:
                self.constants.update(dict.fromkeys(n.output, n))
        # by which node a tensor is read last
        self.last = {t: k for k, n in enumerate(self.nodes) for t in mentioned(n) if t in self.varying}

    def cuts(self, stages: int) -> list[int]:
        """Behind how many nodes to cut, so that about as many switches lie between two cuts."""
        if self.model.graph.sparse_initializer:
            return []
        done: dict[int, list[str]] = defaultdict(list)  # what nobody reads behind a node
        for t, k in self.last.items():
            done[k].append(t)
        passing, reached = set(self.switched), set(self.parameters)
        bound: set[str] = set()  # what is read later, and may not cross a cut
        most = sum(not self.parameters.isdisjoint(mentioned(n)) for n in self.nodes) / stages
        found: list[int] = []
        switches = 0
        for k, n in enumerate(self.nodes[:-1]):
            read = set(mentioned(n))
            switches += not self.parameters.isdisjoint(read)
            if not reached.isdisjoint(read):
                reached.update(n.output)
                if is_op(n, "Identity") and n.input[0] in passing:
                    passing.update(n.output)
                bound.update(o for o in n.output if o in self.last and o not in passing)
            bound.difference_update(done[k])
            if len(found) < stages - 1 and switches >= most and not bound:
                found.append(k + 1)
                switches = 0
        return found

    def load(self, cuts: Sequence[int], at_once: int = 1, most: int | None = None) -> list[_Stage]:
        """The sessions of all parts; of one, where what crosses a cut cannot be handed over.

        Args:
            cuts: behind how many nodes to cut.
            at_once: how many runs there will be side by side, which share the cores.
            most: threads of a session, where they are bounded.
        """
        threads = most or (1 if self.small else 0 if at_once == 1 else share(at_once))
        known, stages = dict(self.inputs), []
        bounds = [0, *cuts, len(self.nodes)]
        for begin, end in pairwise(bounds):
            part = self._part(begin, end, known)
            session = as_written(part, threads)
            read = tuple(sorted(session.inputs & self.parameters))
            resting = as_written(self._at_rest(part), threads) if read and not self.large else None
            stages.append(_Stage(session, read, resting))
            for name, kind, shape in session.described():
                if self.last.get(name, -1) >= end:  # an output that nobody reads crosses nothing
                    if kind not in NUMBERS:
                        return self.load([], at_once, most)
                    known[name] = helper.make_tensor_value_info(name, NUMBERS[kind], shape)
        return stages

    def _part(self, begin: int, end: int, known: Mapping[str, onnx.ValueInfoProto]) -> onnx.ModelProto:
        """Some of the nodes as a model."""
        nodes = self.nodes[begin:end]
        read: set[str] = set()
        constants: dict[int, NodeProto] = {}
        # what no node writes is a constant or an input: it leaves with the last part
        still = [o for o in self.outputs if o not in self.varying] if end == len(self.nodes) else []
        stack = [t for n in nodes for t in mentioned(n)] + still
        while stack:
            t = stack.pop()
            if t in read:
                continue
            read.add(t)
            if (n := self.constants.get(t)) is not None:
                constants[id(n)] = n
                stack += mentioned(n)
        written = [o for n in nodes for o in n.output]
        asked = set(self.outputs)
        outputs = [o for o in written if o in asked or self.last.get(o, -1) >= end] + still
        m = self.model
        new = onnx.ModelProto(ir_version=m.ir_version, opset_import=m.opset_import, functions=m.functions)
        g = new.graph
        g.name = m.graph.name or "part"
        g.node.extend(topological([*constants.values(), *nodes]))
        g.initializer.extend(t for name, t in self.initializers.items() if name in read)
        g.input.extend(v for name, v in known.items() if name in read.difference(written))
        g.output.extend(onnx.ValueInfoProto(name=t) for t in outputs)
        return new

    def _at_rest(self, part: onnx.ModelProto) -> onnx.ModelProto:
        """A part with its parameters as constants: onnxruntime puts what was chosen in the place of an If."""
        inputs = list(part.graph.input)
        del part.graph.input[:]
        part.graph.input.extend(i for i in inputs if i.name not in self.rest)
        part.graph.initializer.extend(
            numpy_helper.from_array(self.rest[i.name], i.name) for i in inputs if i.name in self.rest
        )
        return part
