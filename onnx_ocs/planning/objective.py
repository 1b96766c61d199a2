"""The objective of a plan, on samples that it was not made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.judging import Metric
from onnx_ocs.calibration.labels import labels_of
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.calibration.taken import Taken, taken
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.measurement.metric import Scale
from onnx_ocs.measurement.yardstick import Output, Yardstick
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.gauge import Error, Gauge, scored
from onnx_ocs.planning.options import Objective
from onnx_ocs.planning.questions import Questions
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.runtime.session import RUN_ERRORS, Session

__all__ = ["Judge", "better", "first_feeds", "first_samples", "held_out", "looked_at", "worth"]

HELD_OUT = 256  # most samples on which plans are compared
HELD_BYTES = 1 << 28
EVERYTHING = slice(None)  # of the feeds that plans are judged on
WORTH = 1e-2  # relative improvement of the objective below which a plan is not worth its cost
WORTH_DB = 0.05  # the same for the output's SQNR
METRIC = "metric"  # what the objective is called where the user's metric decides
NOTICEABLE = 1e-3  # relative improvement of the objective that is more than noise


def looked_at(samples: Samples, limit: int | None) -> int:
    """How many samples are looked at while a plan is made, at most."""
    return min(samples.count(limit), 2 * HELD_OUT)


def held_out(samples: Samples, limit: int | None, divisible: bool = True) -> tuple[list[Taken], list[Taken]]:
    """A few feeds to weigh tensors with, and others that plans are judged on (the same when there is but one)."""
    feeds: list[Taken] = []
    size = 0
    for feed in taken(samples, BATCH, looked_at(samples, limit)):
        size += sum(v.nbytes for v in feed.values())
        if feeds and size > HELD_BYTES:
            break
        feeds.append(feed)
    if len(feeds) == 1:
        only = feeds[0]
        n = len(next(iter(only.values())))
        if divisible and n > 1 and all(len(v) == n for v in only.values()):
            half = n // 2
            return [only.cut(0, half)], [only.cut(half, n)]
        return feeds, feeds
    return feeds[0::2], feeds[1::2]  # as `Statistics` counts them


def first_feeds(feeds: Sequence[Taken], samples: int) -> list[Taken]:
    """The first feeds, up to a number of samples (whole feeds, at least one)."""
    chosen: list[Taken] = []
    count = 0
    for f in feeds:
        if chosen and count >= samples:
            break
        chosen.append(f)
        count += samples_in(f)
    return chosen


def first_samples(feeds: Sequence[Taken], samples: int, divisible: bool) -> list[Taken]:
    """The first samples of feeds: the last feed is cut, where feeds are divisible."""
    chosen = first_feeds(feeds, samples)
    over = sum(map(samples_in, chosen)) - samples
    size = samples_in(chosen[-1])
    if divisible and over > 0 and all(v.ndim and len(v) == size for v in chosen[-1].values()):
        chosen[-1] = chosen[-1].cut(0, size - over)
    return chosen


class Judge:
    """The objective of a plan on held-out samples, over all outputs that count; what was asked once is known.

    Attributes:
        objective: what it is, in a word.
        yardstick: the reference's outputs, and the errors against them.
    """

    def __init__(
        self,
        board: Switchboard,
        feeds: Sequence[Mapping[str, Array]],
        float_model: Session | None,
        objective: Objective,
        outputs: Sequence[Output] | None = None,
        metric: Metric | None = None,
        questions: Questions | None = None,
    ) -> None:
        """Run the reference.

        Args:
            board: the model with switched quantizers.
            feeds: the samples.
            float_model: the reference; None: the model without activation quantizers.
            objective: what decides.
            outputs: what is compared; default: all outputs, in order.
            metric: the user's own figure, which decides before the objective does; only this process runs it.
            questions: workers that answer questions about these feeds; None: this process.

        Raises:
            UserError: a model does not run on the samples, or does not fit the other one.
        """
        self.board, self.feeds = board, feeds
        self._known: dict[tuple[bytes, int], Error] = {}
        self._questions = questions
        self._before: dict[tuple[int | None, ...], Array] = {}
        outputs = _in_order(board, float_model) if outputs is None else [o for o in outputs if o.name in board.outputs]
        references = []
        for f in feeds:
            try:
                found = board.run(f, {}) if float_model is None else float_model.run(f)
            except RUN_ERRORS as e:
                who = "model" if float_model is None else "float model"
                raise UserError(f"onnxruntime does not run the {who} on these samples: {first_line(e)}") from None
            references.append({o.name: found[o.name if float_model is None else o.truth] for o in outputs})
        first = references[0][outputs[0].name]
        if float_model is not None and first.shape != board.run(feeds[0], {})[outputs[0].name].shape:
            raise UserError(
                f"the float model's output has another shape, {first.shape}: give the model's own float model"
            )
        moved = [o for o in outputs if o.name in board.reached and o.weight > 0]
        self.yardstick = Yardstick(moved or [o for o in outputs if o.weight > 0], references)
        scores = [scored(self.yardstick.references[0], p) for p in self.yardstick.parts]
        self._start = {k: narrow(r.quantizer) for k, r in enumerate(board.regions) if r.quantizer is not None}
        self._counted = objective if objective != "auto" else "kl and sqnr" if any(scores) else "sqnr"
        if self._counted == "kl" and not any(scores):
            raise UserError(
                "the objective 'kl' needs an output of class scores, (samples, classes): use --objective sqnr"
            )
        self._scores = [s and self._counted != "sqnr" for s in scores]
        truths = {o.name: o.name if float_model is None else o.truth for o in self.yardstick.outputs}
        self._gauge = Gauge(self.yardstick.parts, tuple(self._scores), truths, float_model is not None)
        self.objective = self._counted if metric is None else METRIC
        self.metric = None if metric is None else Scale(metric, references, [labels_of(f) for f in feeds])

    def __call__(self, settings: Mapping[int, Setting], part: slice = EVERYTHING) -> tuple[float, float]:
        """The objective (smaller is better) and the SQNR in dB, on all feeds or a part of them."""
        noise, errors = self._errors(settings, part)
        alone = len(errors) == 1
        value = self.yardstick.loss(errors, errors if alone else self._started(part), part)
        if self.metric is not None:
            value *= self.metric.factor(self.measured(settings, part), self.measured(self._start, part))
        return value, self.yardstick.decibels(noise, part)

    def _started(self, part: slice) -> Array:
        """The errors of the model as it is: every plan is compared with these."""
        key = part.start, part.stop, part.step
        if key not in self._before:
            self._before[key] = self._errors(self._start, part)[1]
        return self._before[key]

    def measured(self, settings: Mapping[int, Setting], part: slice = EVERYTHING) -> float:
        """The user's metric of a plan."""
        assert self.metric is not None
        at = range(len(self.feeds))[part]
        return self.metric.of((_digest(settings), at), at, lambda k: self.board.run(self.feeds[k], settings))

    def _errors(self, settings: Mapping[int, Setting], part: slice) -> tuple[Array, Array]:
        """What is wrong at every part, and what it counts as an error."""
        plan, at = _digest(settings), range(len(self.feeds))[part]
        if sum((plan, k) not in self._known for k in at) > 1:
            self.ahead([settings], part)
        noise, divergence, samples = np.zeros((3, len(self.yardstick.parts)))
        for k in at:
            if (plan, k) not in self._known:
                self._known[plan, k] = self._error(k, settings)
            e = self._known[plan, k]
            noise, divergence, samples = noise + e.noise, divergence + e.divergence, samples + e.scored
        errors = self.yardstick.errors(noise, part)
        for n in np.flatnonzero(self._scores):
            kl = max(float(divergence[n]), 0.0) / max(float(samples[n]), 1.0)
            errors[n] = {"sqnr": float(errors[n]), "kl": kl}.get(self._counted, float(np.sqrt(errors[n] * kl)))
        return noise, errors

    def _error(self, k: int, settings: Mapping[int, Setting]) -> Error:
        """What a plan makes of feed number k."""
        return self._gauge.error(self.yardstick.references[k], self.board.run(self.feeds[k], settings))

    def ahead(
        self,
        plans: Iterable[Mapping[int, Setting]],
        part: slice = EVERYTHING,
        around: Mapping[int, Setting] | None = None,
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Let workers answer what will be asked: independent plans side by side.  Without workers nothing happens.

        Args:
            plans: settings of the plans; taken one by one.
            part: of the feeds.
            around: a plan that all of them are one change away from; None: there is none.
            tell: called with the number of the last plan that was answered.
        """
        if self._questions is None:
            return
        at = range(len(self.feeds))[part]
        digests: list[bytes] = []

        def unknown() -> Iterator[Mapping[int, Setting]]:
            for settings in plans:
                plan = _digest(settings)
                if any((plan, k) not in self._known for k in at):
                    digests.append(plan)
                    yield settings

        for n, k, e in self._questions.answers(self._gauge, self.yardstick.references, unknown(), at, around):
            self._known[digests[n], k] = e
            tell(n)

    def stand_on(self, settings: Mapping[int, Setting], part: slice = EVERYTHING) -> None:
        """Run a plan that questions about one change each will follow: they run from where they differ from it."""
        for f in () if self._questions is not None else self.feeds[part]:  # workers run it for themselves
            self.board.run(f, settings)

    @property
    def parts(self) -> tuple[slice, ...]:
        """Both halves of the feeds (all, where there is but one); the smaller one first: most trials end there."""
        return (slice(1, None, 2), slice(0, None, 2)) if len(self.feeds) > 1 else (EVERYTHING,)

    def halves(self, settings: Mapping[int, Setting]) -> Iterator[float]:
        """The objective on both, computed when it is asked for."""
        return (self(settings, part)[0] for part in self.parts)


def _digest(settings: Mapping[int, Setting]) -> bytes:
    """A plan's settings, for short."""
    digest = hashlib.sha256()
    for k, s in sorted(settings.items()):
        digest.update(b"%d=" % k + s.key)
    return digest.digest()


def better(new: Iterable[float], old: Iterable[float]) -> tuple[float, ...] | None:
    """A plan's halves where it is better than another on both (one alone may be luck); None where it is not."""
    found = []
    for n, o in zip(new, old, strict=True):
        if not n < o * (1 - NOTICEABLE):
            return None
        found.append(n)
    return tuple(found)


def worth(before: tuple[float, float], after: tuple[float, float], objective: str) -> bool:
    """Whether a plan's objective and SQNR are worth its cost.

    Where two models hardly disagree, half of next to no divergence is no reason to give up SQNR.
    """
    alone = objective in ("kl", METRIC)
    return after[0] <= before[0] * (1 - WORTH) and (alone or after[1] >= before[1] + WORTH_DB)


def _in_order(board: Switchboard, float_model: Session | None) -> list[Output]:
    """The outputs with those of the float model that stand in the same places."""
    truths = board.outputs if float_model is None else float_model.outputs
    return [Output(n, t) for n, t in zip(board.outputs, truths, strict=False)]
