"""The last word: the model's outputs on samples that no fit has seen.

A layer that is better by itself may still harm the model.  So the re-fitted model is run beside the float one; parts
of the layers without which it is better are taken back, by bisection, and in the end no output may be worse than
before.  An output whose channels differ by orders of magnitude is judged channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import as_written
from onnx_ocs.runtime.threads import CORES, in_order

__all__ = ["Judge", "choose"]

APART = 100.0  # ratio of channels' energies from which each is judged by itself
GAIN = 0.1  # decibels that a choice must bring
SURE = 2.0  # standard errors by which taking layers back must be better: each of them was better by itself
LIKELY = 1.0  # by which what stays must be better than nothing
FEW = 8.0  # and so many more, divided by the number of feeds
QUESTIONS = 6  # most models that are asked
FLOOR = 1e-6  # of the strongest channel's energy: weaker ones are not judged by themselves


class Judge:
    """The float model's outputs on some samples, and how far another model is from them."""

    def __init__(
        self, reference: onnx.ModelProto, feeds: Callable[[], Sequence[Mapping[str, Array]]],
        mask: Callable[[Mapping[str, Array]], Array | None],
    ) -> None:  # fmt: skip
        """Run the float model.

        Args:
            reference: the float model, whose outputs are in the order of the judged models'.
            feeds: gives the samples.
            mask: gives which rows count.
        """
        self.feeds, self.mask = feeds, mask
        self.reference = self._outputs(reference)
        self.weights = self._weights()

    def _outputs(self, model: onnx.ModelProto) -> list[list[Array]]:
        """For every feed, the outputs; rows that do not count are 0."""
        session = as_written(model, 1)
        names = [o.name for o in model.graph.output]

        def run(feed: Mapping[str, Array]) -> list[Array]:
            got = session.run({k: v for k, v in feed.items() if k in session.inputs}, names)
            mask = self.mask(feed)
            return [_masked(np.asarray(got[n]), mask) for n in names]

        return list(in_order(run, self.feeds(), CORES))

    def _weights(self) -> list[tuple[int | None, Array]]:
        """For every output, the axis along which it is judged, and by what squared errors are divided."""
        found: list[tuple[int | None, Array]] = []
        for k, first in enumerate(self.reference[0]):
            best: tuple[int | None, Array] = None, np.asarray(sum(_energy(r[k], None) for r in self.reference))
            for axis in {1, first.ndim - 1} if first.ndim > 2 else ():
                energy = np.asarray(sum(_energy(r[k], axis) for r in self.reference))
                strong = energy[energy > FLOOR * energy.max(initial=0.0)]
                if strong.size > 1 and strong.max() > APART * strong.min() and energy.size <= 4096:
                    size = strong.size
                    each = np.where(energy > FLOOR * energy.max(), energy * size, np.inf)
                    best = axis, each
            found.append(best)
        return found

    def losses(self, model: onnx.ModelProto) -> Array:
        """Squared errors of a model, (judged outputs, feeds), each output's divided by its energy.

        An output that is judged channel by channel counts twice: as a whole, and so.
        """
        found: list[list[float]] = []
        outputs = self._outputs(model)
        for k, (axis, weight) in enumerate(self.weights):
            pairs = [(r[k], np.asarray(o[k], np.float64)) for r, o in zip(self.reference, outputs, strict=True)]
            if any(r.shape != o.shape for r, o in pairs):
                continue
            whole = sum(float(_energy(r, None)) for r, _ in pairs)
            found.append([float(_energy(r - o, None)) / whole for r, o in pairs])
            if axis is not None:
                found.append([float((_energy(r - o, axis) / weight).sum()) for r, o in pairs])
        return np.asarray(np.nan_to_num(np.asarray(found).reshape(len(found), -1), nan=np.inf))


def _masked(value: Array, mask: Array | None) -> Array:
    if mask is None or value.shape[: mask.ndim] != mask.shape or value.ndim < mask.ndim:
        return value
    return np.asarray(np.where(mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)), value, 0))


def _energy(value: Array, axis: int | None) -> Array:
    squares = np.square(value, dtype=np.float64)
    if axis is None:
        return np.asarray(squares.sum() + 1e-300)
    return np.asarray(squares.sum(tuple(a for a in range(value.ndim) if a != axis)))


def choose(count: int, losses: Callable[[frozenset[int]], Array]) -> frozenset[int]:
    """Which of the layers, numbered in topological order, keep their new values.

    Args:
        count: how many there are.
        losses: errors with the new values of these layers, (outputs, feeds).
    """
    everything, nothing = frozenset(range(count)), frozenset[int]()
    if not count:
        return nothing
    before = losses(nothing)
    if not before.size:
        return nothing
    kept, best = everything, losses(everything)
    asked, segments = 0, [(0, count)]
    while segments and asked < QUESTIONS:
        start, stop = segments.pop(0)
        if stop - start < 2:
            continue
        middle = (start + stop) // 2
        for part in ((start, middle), (middle, stop)):
            segments.append(part)
            without = kept - frozenset(range(*part))
            if not without or without == kept:
                continue
            found = losses(without)
            asked += 1
            if _better(found, best, SURE) and np.all(found.sum(1) <= np.maximum(before, best).sum(1)):
                kept, best = without, found
    if _no_worse(best, before):
        return kept
    return _prefix(sorted(kept), before, losses)


def _better(now: Array, then: Array, errors: float) -> bool:
    """Whether the loss is smaller by more than chance: by so many standard errors, of few feeds by more."""
    gain = 10 * np.log10(np.maximum(then, 1e-30) / np.maximum(now, 1e-30)).mean(0)
    if gain.size < 2 or not np.isfinite(gain).all():
        return bool(now.sum() < then.sum())
    return bool(gain.mean() > max(GAIN, (errors + FEW / gain.size) * gain.std(ddof=1) / np.sqrt(gain.size)))


def _no_worse(now: Array, before: Array) -> bool:
    """Whether no output is worse, and all together are better by more than chance."""
    return bool(np.all(now.sum(1) <= before.sum(1))) and _better(now, before, LIKELY)


def _prefix(layers: Sequence[int], before: Array, losses: Callable[[frozenset[int]], Array]) -> frozenset[int]:
    """The longest run of layers, from the first, with which no output is worse, as far as halving finds it."""
    low, high = 0, len(layers)
    while high - low > 1:
        middle = (low + high) // 2
        if _no_worse(losses(frozenset(layers[:middle])), before):
            low = middle
        else:
            high = middle
    return frozenset(layers[:low])
