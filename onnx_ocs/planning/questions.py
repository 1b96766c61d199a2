"""Questions about plans, answered by workers: what does each of many settings of the quantizers make of each feed?

A worker loads the model with switched quantizers once, and keeps what crossed its stages, feed by feed, as this process
does.  Neither that nor how questions are put together changes an answer, and sums are kept feed by feed: so whoever
adds them up in the order of the feeds gets the same bits as from this process.  A worker whose reference differs
in one bit is another kind of processor, and its answers are not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import onnx

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.reading import checksum
from onnx_ocs.calibration.shards import Place
from onnx_ocs.calibration.taken import Spot, Taken
from onnx_ocs.execution.engine import Engine
from onnx_ocs.execution.kept import lent
from onnx_ocs.execution.stored import Stored
from onnx_ocs.measurement.yardstick import truth_of
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.gauge import Error, Gauge
from onnx_ocs.probes.switchboard import Setting, Switchboard
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.runtime.session import Session, as_written

__all__ = ["Questions", "ready"]

_LOG = logging.getLogger("onnx_ocs.planning")
TOGETHER = 4  # questions about one feed that are one task

Plan = Mapping[int, Setting]  # the quantizers that are on, by index of the region; all others are off


@dataclass(frozen=True)
class _Asked:
    """What is asked, by which a worker knows it again.

    Attributes:
        model: the QDQ model.
        floats: the float model, where there is one.
        bounded: see `Context`, as pairs.
        outputs: those that are asked for.
        sliced: whether the samples of a feed run a few at a time.
        place: where the samples are; None: each task brings its own.
        folder: of this run: what a worker keeps is not another run's.
    """

    model: Stored
    floats: Stored | None
    bounded: tuple[tuple[str, bool], ...]
    outputs: tuple[str, ...]
    sliced: bool
    place: Place | None
    folder: Path


class Questions:
    """Questions about some feeds."""

    def __init__(self, engine: Engine, asked: _Asked, feeds: Sequence[Taken]) -> None:
        """Ask nothing yet.

        Args:
            engine: whose workers answer.
            asked: the model, and where samples are.
            feeds: the samples that all questions are about.
        """
        self._engine, self._asked, self._feeds = engine, asked, feeds
        self._proofs: dict[tuple[bool, int], int] = {}
        self._told = False

    def answers(
        self,
        gauge: Gauge,
        truths: Sequence[Mapping[str, Array]],
        plans: Iterable[Plan],
        at: Sequence[int],
        around: Plan | None = None,
    ) -> Iterator[tuple[int, int, Error]]:
        """What plans make of feeds, as workers find it; of some there may be no answer.

        Args:
            gauge: what is compared.
            truths: the reference's outputs for all feeds.
            plans: the quantizers' settings; only as many are taken as are on their way.
            at: numbers of the feeds.
            around: a plan that all others are one change away from; None: there is none.

        Yields:
            Numbers of the plan and of the feed, and the sums.
        """
        parts: list[tuple[int, int]] = []

        def tasks() -> Iterator[tuple[object, ...]]:
            rest, first = iter(plans), 0
            while some := list(islice(rest, TOGETHER)):
                for k in at:
                    parts.append((first, k))
                    feed = self._feeds[k]
                    yield self._asked, gauge, feed.spot, None if self._asked.place else Feed(feed), some, around
                first += len(some)

        for number, (proof, found) in self._engine.each(_answer, tasks()):
            first, k = parts[number]
            if proof != self._proof(gauge, truths, k):
                self._tell()
                continue
            for n, error in enumerate(found, first):
                yield n, k, error

    def _proof(self, gauge: Gauge, truths: Sequence[Mapping[str, Array]], k: int) -> int:
        if (gauge.floats, k) not in self._proofs:
            self._proofs[gauge.floats, k] = _checksum(gauge, truths[k])
        return self._proofs[gauge.floats, k]

    def _tell(self) -> None:
        if not self._told:
            _LOG.warning("a worker computes other numbers than this process: what it is asked about plans is not used")
            self._told = True


def ready(
    engine: Engine | None,
    model: onnx.ModelProto,
    model_hash: str,
    floats: onnx.ModelProto | None,
    bounded: Bounded,
    board: Switchboard,
    place: Place | None,
) -> Callable[[Sequence[Taken]], Questions | None]:
    """What makes workers ready to answer questions about some feeds; it gives None where there are no workers.

    Args:
        engine: whose workers.
        model: the QDQ model.
        model_hash: its `fingerprint`.
        floats: the float model, where there is one.
        bounded: see `onnx_ocs.calibration.context.Context`.
        board: the model with switched quantizers, as this process asks it.
        place: where the samples are; None: each task brings its own.
    """
    if engine is None:
        return lambda _: None
    stored = engine.store(model, model_hash)
    exact = None if floats is None else engine.store(floats, fingerprint(floats))
    asked = _Asked(
        stored, exact, tuple(sorted(bounded.items())), tuple(board.outputs), board.sliced, place, stored.path.parent
    )
    return partial(Questions, engine, asked)


def _checksum(gauge: Gauge, truth: Mapping[str, Array]) -> int:
    return checksum({p.output: truth[p.output] for p in gauge.parts})


class _Loaded:
    """What one thread of a worker keeps of a run: models, feeds and what the reference makes of them."""

    def __init__(self, asked: _Asked) -> None:
        self._asked, self._model = asked, asked.model.load()
        self._feeds: dict[Spot, Feed] = {}
        self._references: dict[tuple[bool, Spot], Mapping[str, Array]] = {}

    @cached_property
    def board(self) -> Switchboard:
        """The switched model; one thread runs it."""
        shapes = infer_shapes(self._model)
        regions = find_regions(Graph(self._model), shapes, bounded=dict(self._asked.bounded))
        return Switchboard(
            self._model, regions, shapes, outputs=self._asked.outputs, sliced=self._asked.sliced, threads=1
        )

    @cached_property
    def _floats(self) -> Session:
        assert self._asked.floats is not None
        return as_written(self._asked.floats.load(), 1)

    def feed(self, spot: Spot, given: Feed | None) -> Feed:
        """The samples: the same object each time, by which a board knows them again."""
        if spot not in self._feeds:
            if given is None:
                assert self._asked.place is not None
                (whole,) = self._asked.place.feeds(self._model, self._asked.model.hash, spot.feed, spot.feed + 1)
                given = spot.of(whole)
            self._feeds[spot] = given
        return self._feeds[spot]

    def truth(self, gauge: Gauge, spot: Spot, feed: Feed) -> dict[str, Array]:
        """The reference's outputs."""
        key = gauge.floats, spot
        if key not in self._references:
            self._references[key] = self._floats.run(feed) if gauge.floats else self.board.run(feed, {})
        return truth_of(gauge.parts, {n: self._references[key][t] for n, t in gauge.truths.items()})


def _answer(
    asked: _Asked, gauge: Gauge, spot: Spot, given: Feed | None, plans: Sequence[Plan], around: Plan | None
) -> tuple[int, list[Error]]:
    """A task: what some plans make of one feed, and what shows that this worker computes as others do."""
    with lent(asked, lambda: _Loaded(asked)) as loaded:
        feed = loaded.feed(spot, given)
        truth = loaded.truth(gauge, spot, feed)
        if around is not None:  # questions run from where they differ from it
            loaded.board.run(feed, around)
        return _checksum(gauge, truth), [gauge.error(truth, loaded.board.run(feed, plan)) for plan in plans]
