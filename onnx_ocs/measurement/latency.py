"""Time of one sample in the target's runtime, such as before and after: what multiply-accumulates do not say.

Integer kernels, lost fusions and layouts decide it.  One thread, all optimizations; the models take turns, and the
thread's CPU time is counted, which other work on the machine disturbs less than wall time.  What disturbs a run makes
it longer, never shorter, so a ratio is that of the shortest runs.  It is taken three times, from every third round
each: the middle one counts, and half of what they are apart is the tolerance.  Runs end early once that is small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.model import sizes
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import LARGE, RUN_ERRORS
from onnx_ocs.targets.timing import ONNXRUNTIME, Timing

__all__ = ["SECONDS", "Compared", "Looks", "compared", "decided", "latencies", "shortest"]

SECONDS = 1.0  # of running all models; each runs once at least
LONGER = 4.0  # of a second look
MOST = 50  # runs of each
ROUNDS = 3000  # of two models that are compared, for what they tell of each other
LOOK = 96  # rounds after which their ratio is looked at, and again whenever there are twice as many
AGREED = 0.005  # of the ratio: a tolerance that is enough, if two looks find it
THIRDS = 3
LEAST = 9  # rounds of two models that are compared, however long they take


@dataclass(frozen=True)
class Compared:
    """Time of a model and of what was made of it.

    Attributes:
        before_ms: milliseconds of the shortest runs, which disturb each other least.
        after_ms: as many as the ratio makes of them.
        ratio: after / before, of the shortest runs.
        tolerance: how far the ratio may be off, by what its parts are apart.
        runtime: where both ran.
    """

    before_ms: float
    after_ms: float
    ratio: float
    tolerance: float
    runtime: str = ONNXRUNTIME.name

    def holds(self, limit: float) -> bool:
        """Whether the ratio is within a limit, even if it is off by its tolerance."""
        return self.ratio + self.tolerance <= limit

    def exceeds(self, limit: float) -> bool:
        """Whether it is beyond the limit, even if it is off by its tolerance."""
        return self.ratio - self.tolerance > limit


def compared(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feed: Mapping[str, Array],
    seconds: float = SECONDS,
    on: Timing = ONNXRUNTIME,
) -> Compared | None:
    """Time two models against each other; None where `latencies` would be None.

    Args:
        before: the model.
        after: what was made of it.
        feed: what both are fed, such as one sample.
        seconds: after which no more runs are begun, if there were enough.
        on: the runtime.
    """
    took = None if _large([before, after]) else _took([before, after], feed, ROUNDS, seconds, LEAST, on, Looks())
    if took is None:
        return None
    then, (ratio, tolerance) = 1e3 * min(took[0]), _ratio(took)
    return Compared(then, then * ratio, ratio, tolerance, on.name)


def decided(look: Callable[[float], Compared | None], limit: float) -> Compared | None:
    """What a look says of a limit of time; where it is too close, or too noisy, what a longer one says.

    Args:
        look: times two models for so many seconds.
        limit: the most time, as a ratio.
    """
    took = look(SECONDS)
    if took is None or took.holds(limit) or took.exceeds(limit):
        return took
    return look(LONGER) or took


def _ratio(took: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Ratio of the second model's shortest runs to the first's, and how far it may be off."""
    before, after = (np.asarray(t) for t in took)
    ratios = sorted(float(after[k::THIRDS].min() / max(before[k::THIRDS].min(), 1e-9)) for k in range(THIRDS))
    return ratios[THIRDS // 2], (ratios[-1] - ratios[0]) / 2


class Looks:
    """Whether two models have run often enough, asked after each round."""

    def __init__(self) -> None:
        self._next = LOOK
        self._last: float | None = None  # the ratio at the look before, if that was sure of it

    def enough(self, took: Sequence[Sequence[float]]) -> bool:
        """Whether this look and the one before found the same ratio.

        Args:
            took: seconds of the runs of each model.
        """
        if len(took[0]) < self._next:
            return False
        self._next *= 2
        ratio, tolerance = _ratio(took)
        last, self._last = self._last, ratio if tolerance <= AGREED * ratio else None
        return last is not None and self._last is not None and abs(last - ratio) <= AGREED * ratio


def latencies(
    models: Sequence[onnx.ModelProto], feed: Mapping[str, Array], most: int = MOST, seconds: float = SECONDS
) -> list[float] | None:
    """Medians of the time of each model.

    Args:
        models: the models, such as before and after.
        feed: what they are fed, such as one sample.
        most: runs of each.
        seconds: after which no more runs are begun.

    Returns:
        Milliseconds of CPU time of each in onnxruntime; None for models that it does not run, or above 256 MB, where
        loading them again would take longer than all else.
    """
    took = None if _large(models) else _took(models, feed, most, seconds, 1, ONNXRUNTIME)
    return None if took is None else [1e3 * float(np.median(found)) for found in took]


def shortest(
    models: Sequence[onnx.ModelProto],
    feed: Mapping[str, Array],
    most: int,
    seconds: float,
    least: int,
    on: Timing = ONNXRUNTIME,
) -> list[float] | None:
    """The shortest run of each model.

    Args:
        models: the models.
        feed: what they are fed.
        most: runs of each.
        seconds: after which no more runs are begun.
        least: runs of each, however long they take.
        on: the runtime.

    Returns:
        Seconds of CPU time of each; None for models that it does not run.
    """
    took = _took(models, feed, most, seconds, least, on)
    return None if took is None else [min(found) for found in took]


def _large(models: Sequence[onnx.ModelProto]) -> bool:
    return any(sizes.rough_size(m, LARGE) > LARGE for m in models)


def _took(
    models: Sequence[onnx.ModelProto],
    feed: Mapping[str, Array],
    most: int,
    seconds: float,
    least: int,
    on: Timing,
    looks: Looks | None = None,
) -> list[list[float]] | None:
    """Seconds of the runs of each model, which take turns, and now and then swap them."""
    try:
        runs = [on.load(m) for m in models]
        for run in runs:
            run(feed)
    except RUN_ERRORS:
        return None
    took: list[list[float]] = [[] for _ in models]
    turns = list(zip(runs, took, strict=True))
    start = time.perf_counter()
    while (rounds := len(took[0])) < least or (rounds < most and time.perf_counter() - start < seconds):
        for run, found in turns[:: 1 if rounds % 2 else -1]:
            now = time.thread_time()
            run(feed)
            found.append(time.thread_time() - now)
        if looks is not None and looks.enough(took):
            break
    return took
