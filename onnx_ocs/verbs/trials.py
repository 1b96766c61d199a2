"""What `--passes auto` tries: passes that are run on some of the samples, and judged on those that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_ocs.calibration.apart import every
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.latency import SECONDS, Compared, compared, decided
from onnx_ocs.measurement.quality import Quality, compare, gained, losing
from onnx_ocs.measurement.yardstick import OUTPUT_DB
from onnx_ocs.passmanager import Pass
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.targets.timing import ONNXRUNTIME, Timing
from onnx_ocs.verbs.common import first_sample, sample_shapes
from onnx_ocs.verbs.outcome import Outcome, Prepared

__all__ = ["Bench", "Run", "Seen", "Trial", "gain", "not_better"]

Run = Callable[[Prepared, Sequence[Pass], PlanOptions | None, Outcome | None], Outcome]


@dataclass(frozen=True)
class Seen:
    """How good a model is on samples that no fit has seen.

    Attributes:
        whole: on all of them.
        parts: on each half, where chance decides otherwise; a metric may need all of them.
    """

    whole: Quality
    parts: tuple[Quality, ...]


@dataclass(frozen=True)
class Trial:
    """A candidate.

    Attributes:
        labels: what was done, in words; what changed nothing is not named.
        passes: what was run, in order.
        options: what steps and copies were planned by.
        outcome: what came of it, from the samples to fit on.
        seen: how good it is on the others.
        macs: multiply-accumulates, as a ratio to the model's.
        latency: its time beside the model's; None where it cannot be measured.
    """

    labels: tuple[str, ...]
    passes: tuple[Pass, ...]
    options: PlanOptions | None
    outcome: Outcome
    seen: Seen
    macs: float = 1.0
    latency: Compared | None = None

    @property
    def name(self) -> str:
        """What it is, in words."""
        return ", ".join(self.labels) or "the model as it is"


def gain(before: Quality, after: Quality) -> float:
    """Decibels that the outputs gain, the mean of those that count; of labels, points of agreement."""
    weight = sum(o.weight for o in after.outputs)
    return gained(replace(before, metric=None), replace(after, metric=None)) / max(weight, 1e-9)


def not_better(before: Seen, after: Seen, least: float) -> str | None:
    """Why a candidate does not take the place of another; None where it does.

    No output may lose on all unseen samples, nor by more than chance (0.1 dB) on a half; together they must gain.

    Args:
        before: the one in place.
        after: the candidate.
        least: decibels that it must gain; where the user's metric sees a difference, that alone decides.
    """
    halves = (losing(b, a, OUTPUT_DB) for b, a in zip(before.parts, after.parts, strict=True))
    lost = losing(before.whole, after.whole) or next(filter(None, halves), None)
    if lost is not None:
        return f"loses on unseen samples: {lost}"
    if before.whole.metric != after.whole.metric:
        return None
    more = gain(before.whole, after.whole)
    return None if more >= least else f"{more:+.2f} dB on unseen samples, where {least:g} dB would pay"


class Bench:
    """Runs candidates, judges and times them.

    Attributes:
        start: the model as it is.
        limit: the largest ratio of time; None for no limit.
    """

    def __init__(
        self,
        ready: Prepared,
        apart: tuple[Samples, Samples],
        run: Run,
        limit: float | None,
        on: Timing = ONNXRUNTIME,
    ) -> None:
        """Judge the model as it is.

        Args:
            ready: what the rewrite starts from.
            apart: the samples to fit on, and those to judge on.
            run: runs passes on the model, or on top of an outcome.
            limit: the largest ratio of time.
            on: the runtime that candidates are timed in.
        """
        self.limit, self._run, self._on = limit, run, on
        context = replace(ready.context, samples=apart[0], limit=None)
        self._ready, self._truth = replace(ready, context=context), ready.reference[0]
        held = apart[1]
        halves = [held] if context.judging.metric is not None else [held, every(held, 2, 0), every(held, 2, 1)]
        self._held = halves
        self._shapes = sample_shapes(ready.original, lambda: ready.fed)
        self._sample = first_sample(ready.original, ready.fed)
        self._macs = cost(ready.original, self._shapes, kernels=False).macs
        outcome = Outcome(ready.original, False, notes=ready.notes)
        self.start = Trial((), (), None, outcome, self.judged(ready.original))

    def outcome(self, moves: Sequence[Pass], options: PlanOptions | None, onto: Trial) -> Outcome:
        """What further passes make of a candidate, from the samples to fit on."""
        return self._run(self._ready, moves, options, onto.outcome)

    def trial(
        self, labels: tuple[str, ...], passes: tuple[Pass, ...], options: PlanOptions | None, outcome: Outcome
    ) -> Trial:
        """An outcome, judged and timed."""
        self._ready.context.progress(f"judging {', '.join(labels)}", 0, None)
        macs = cost(outcome.model, self._shapes, kernels=False).macs / max(self._macs, 1)
        return Trial(labels, passes, options, outcome, self.judged(outcome.model), macs, self.timed(outcome.model))

    def judged(self, model: onnx.ModelProto) -> Seen:
        """How good a model is on the samples that no fit has seen."""
        judging = self._ready.context.judging
        whole, *halves = (compare(self._truth, [model], held, judging=judging)[0] for held in self._held)
        return Seen(whole, tuple(halves) or (whole,))

    def timed(self, model: onnx.ModelProto) -> Compared | None:
        """Its time beside the original's; looked at again where it is too close to the limit."""
        original = self._ready.original

        def look(seconds: float) -> Compared | None:
            return compared(original, model, self._sample, seconds, self._on)

        return look(SECONDS) if self.limit is None else decided(look, self.limit)
