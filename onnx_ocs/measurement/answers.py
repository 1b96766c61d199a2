"""What models answer to samples, feed by feed, in order: by this process, or by workers.

Workers send the outputs as they are.  The sums over them are made by who asks, in the order of the feeds, so that no
bit depends on who ran the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx

from onnx_ocs.calibration.feed import Feed, samples_in
from onnx_ocs.calibration.labels import labels_of
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.shards import Place, Shard, place_of, shards
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.execution.engine import Engine
from onnx_ocs.execution.kept import kept
from onnx_ocs.execution.stored import Stored
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import RUN_ERRORS, Session, as_written
from onnx_ocs.runtime.threads import CORES, TOGETHER, in_order, share
from onnx_ocs.targets.timing import Timing

__all__ = ["Answer", "Known", "answers"]

AT_ONCE = 4  # most runs side by side, for the sake of memory
SHARD = 16  # feeds of a task


class Answer(NamedTuple):
    """What all models make of one feed.

    Attributes:
        samples: how many the feed has.
        labels: what the feed carries besides the inputs.
        outputs: of each model, those that were asked for, in that order.
    """

    samples: int
    labels: Mapping[str, Array]
    outputs: list[list[Array]]


class Known:
    """What a model answers to a few samples, each computed once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Load it.

        Args:
            model: the model, such as the float model that others are compared with.

        Raises:
            UserError: onnxruntime does not load it.
        """
        self._session = as_written(model, share(min(CORES, AT_ONCE)))
        self._known: dict[tuple[int, ...], tuple[Sequence[Array], dict[str, Array]]] = {}

    def run(self, feed: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """The outputs of these names; the arrays of a feed are known again by identity, and must not change."""
        arrays = list(feed.values())
        key = tuple(map(id, arrays))
        found = {} if key not in self._known else self._known[key][1]
        missing = [n for n in names if n not in found]
        if missing:
            found = {**found, **self._session.run(feed, missing)}
            self._known[key] = arrays, found
        return {n: found[n] for n in names}


class _Elsewhere:
    """A model in another runtime, with all that it is optimized to there.

    Raises:
        UserError: it does not load.
    """

    def __init__(self, model: onnx.ModelProto, on: Timing) -> None:
        self._run = on.load(model)

    def run(self, feed: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        found = self._run(feed)
        return {n: found[n] for n in names}


class _Models:
    """Models, loaded, and what each is asked for.

    Raises:
        UserError: one does not load.
    """

    def __init__(
        self,
        models: Sequence[onnx.ModelProto],
        asked: Sequence[Sequence[str]],
        threads: int,
        known: Known | None = None,
        on: Timing | None = None,
    ) -> None:
        first: Known | Session = as_written(models[0], threads) if known is None else known
        others = [as_written(m, threads) if on is None else _Elsewhere(m, on) for m in models[1:]]
        self._sessions: list[Known | Session | _Elsewhere] = [first, *others]
        self._asked = asked
        self.takes = models[0]

    def __call__(self, feed: Mapping[str, Array]) -> Answer:
        try:
            found = [s.run(feed, list(dict.fromkeys(a))) for s, a in zip(self._sessions, self._asked, strict=True)]
        except UserError:  # it says where
            raise
        except RUN_ERRORS as e:
            raise UserError(f"onnxruntime does not run the model on these samples: {first_line(e)}") from None
        outputs = [[np.asarray(f[n]) for n in a] for f, a in zip(found, self._asked, strict=True)]
        return Answer(samples_in(feed), labels_of(feed), outputs)


def answers(
    models: Sequence[onnx.ModelProto],
    asked: Sequence[Sequence[str]],
    samples: Samples,
    limit: int | None = None,
    engine: Engine | None = None,
    known: Known | None = None,
    on: Timing | None = None,
) -> Iterator[Answer]:
    """Run models side by side, Q/DQ as written (no integer fusion).

    Args:
        models: the models; all take the same inputs.
        asked: the outputs that each is asked for.
        samples: what to feed.
        limit: most samples.
        engine: who runs them; None: this process.
        known: the first model's answers; only this process has them.
        on: another runtime for all but the first model, as it optimizes them; only this process has it.

    Raises:
        UserError: a model does not run on the samples.
    """
    if engine is None or on is not None:
        at_once = min(CORES, AT_ONCE)
        run = _Models(models, asked, share(at_once), known, on)
        together = TOGETHER if on is None else 1  # as users run it
        yield from in_order(run, samples.batches(together, limit), at_once)
        return
    stored = tuple(engine.store(m, fingerprint(m)) for m in models)
    job = _Job(stored, tuple(map(tuple, asked)), place_of(samples, limit, TOGETHER))
    feeds = samples.number(TOGETHER, limit)
    for some in engine.in_order(_answer, ((job, s) for s in shards(samples, limit, TOGETHER, 0, feeds, SHARD))):
        yield from some


@dataclass(frozen=True)
class _Job:
    """What all tasks of a comparison have in common, by which a worker knows it again."""

    models: tuple[Stored, ...]
    asked: tuple[tuple[str, ...], ...]
    place: Place | None


def _answer(job: _Job, shard: Shard) -> list[Answer]:
    """A task: the answers to a few feeds."""
    run = kept(job, lambda: _Models([m.load() for m in job.models], job.asked, 1))
    feeds: Iterator[Feed] = shard.read(job.place, run.takes, job.models[0].hash)
    return [run(feed) for feed in feeds]
