"""The objective of a plan, on samples that it was not made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.options import Objective
from onnx_ocs.probes.switchboard import Setting, Switchboard
from onnx_ocs.runtime.session import RUN_ERRORS, Session

__all__ = ["Judge", "better", "first_feeds", "held_out", "worth"]

HELD_OUT = 256  # most samples on which plans are compared
HELD_BYTES = 1 << 28
EVERYTHING = slice(None)  # of the feeds that plans are judged on
WORTH = 1e-2  # relative improvement of the objective below which a plan is not worth its cost
WORTH_DB = 0.05  # the same for the output's SQNR
NOTICEABLE = 1e-3  # relative improvement of the objective that is more than noise


def held_out(
    samples: Samples, limit: int | None, divisible: bool = True
) -> tuple[list[Mapping[str, Array]], list[Mapping[str, Array]]]:
    """A few feeds to weigh tensors with, and others that plans are judged on (the same when there is but one)."""
    total = samples.count(limit)
    feeds: list[Mapping[str, Array]] = []
    size = 0
    wanted = min(total, 2 * HELD_OUT)
    for feed in samples.batches(BATCH, wanted):
        size += sum(v.nbytes for v in feed.values())
        if feeds and size > HELD_BYTES:
            break
        feeds.append(feed)
    if len(feeds) == 1:
        only = feeds[0]
        n = len(next(iter(only.values())))
        if divisible and n > 1 and all(len(v) == n for v in only.values()):
            half = n // 2
            try_split = [{k: v[:half] for k, v in only.items()}, {k: v[half:] for k, v in only.items()}]
            return [try_split[0]], [try_split[1]]
        return feeds, feeds
    return feeds[0::2], feeds[1::2]  # as `Statistics` counts them


def first_feeds(feeds: Sequence[Mapping[str, Array]], samples: int) -> list[Mapping[str, Array]]:
    """The first feeds, up to a number of samples (whole feeds, at least one)."""
    chosen: list[Mapping[str, Array]] = []
    count = 0
    for f in feeds:
        if chosen and count >= samples:
            break
        chosen.append(f)
        count += samples_in(f)
    return chosen


@dataclass(frozen=True)
class _Error:
    """What a plan makes of one feed: sums over its samples."""

    noise: float
    signal: float
    divergence: float
    count: int


class Judge:
    """The objective of a plan on held-out samples; what was asked once is known."""

    def __init__(
        self,
        board: Switchboard,
        feeds: Sequence[Mapping[str, Array]],
        float_model: Session | None,
        objective: Objective,
    ) -> None:
        self.board, self.feeds = board, feeds
        self._known: dict[tuple[bytes, int], _Error] = {}
        self.references: list[Array] = []
        for f in feeds:
            try:
                out = board.run(f, {}) if float_model is None else next(iter(float_model.run(f).values()))
            except RUN_ERRORS as e:
                who = "model" if float_model is None else "float model"
                raise UserError(f"onnxruntime does not run the {who} on these samples: {first_line(e)}") from None
            self.references.append(np.asarray(out, np.float64))
        first = self.references[0]
        if float_model is not None and first.shape != board.run(feeds[0], {}).shape:
            raise UserError(
                f"the float model's output has another shape, {first.shape}: give the model's own float model"
            )
        scores = first.ndim == 2 and first.shape[1] > 1
        self.objective = objective if objective != "auto" else "kl and sqnr" if scores else "sqnr"
        if self.objective == "kl" and not scores:
            raise UserError(
                "the objective 'kl' needs an output of class scores, (samples, classes): use --objective sqnr"
            )

    def __call__(self, settings: Mapping[int, Setting], part: slice = EVERYTHING) -> tuple[float, float]:
        """The objective (smaller is better) and the SQNR in dB, on all feeds or a part of them."""
        plan = _digest(settings)
        noise = signal = divergence = 0.0
        count = 0
        for k in range(len(self.feeds))[part]:
            if (plan, k) not in self._known:
                self._known[plan, k] = self._error(k, settings)
            e = self._known[plan, k]
            noise, signal, divergence = noise + e.noise, signal + e.signal, divergence + e.divergence
            count += e.count
        sqnr = 10 * np.log10(signal / noise) if noise > 0 and signal > 0 else np.inf
        error, kl = noise / max(signal, 1e-30), max(divergence, 0.0) / max(count, 1)
        value = {"sqnr": error, "kl": kl}.get(self.objective, float(np.sqrt(error * kl)))
        return value, float(sqnr)

    def _error(self, k: int, settings: Mapping[int, Setting]) -> _Error:
        """What a plan makes of feed number k."""
        ref = self.references[k]
        out = np.asarray(self.board.run(self.feeds[k], settings), np.float64)
        divergence, count = 0.0, 0
        if self.objective != "sqnr":
            p, q = _log_softmax(ref), _log_softmax(out)
            divergence, count = float((np.exp(p) * (p - q)).sum()), len(ref)
        return _Error(float(((out - ref) ** 2).sum()), float((ref**2).sum()), divergence, count)

    def stand_on(self, settings: Mapping[int, Setting], part: slice = EVERYTHING) -> None:
        """Run a plan that questions about one change each will follow: they run from where they differ from it."""
        for f in self.feeds[part]:
            self.board.run(f, settings)

    def halves(self, settings: Mapping[int, Setting]) -> Iterator[float]:
        """The objective on both halves of the feeds (on all, where there is but one), computed when it is asked for."""
        # the smaller one first: most trials end there
        parts = (slice(1, None, 2), slice(0, None, 2)) if len(self.feeds) > 1 else (EVERYTHING,)
        return (self(settings, part)[0] for part in parts)


def _digest(settings: Mapping[int, Setting]) -> bytes:
    """A plan's settings, for short."""
    digest = hashlib.sha256()
    for k, s in sorted(settings.items()):
        digest.update(b"%d" % k + b"".join(v.tobytes() for v in (s.scale, s.low, s.high)))
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
    return after[0] <= before[0] * (1 - WORTH) and (objective == "kl" or after[1] >= before[1] + WORTH_DB)


def _log_softmax(x: Array) -> Array:
    if np.all(x >= 0) and np.allclose(x.sum(1), 1, atol=1e-2):  # the model ends in a Softmax already
        return np.asarray(np.log(np.maximum(x, 1e-9)))
    shifted = x - x.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
