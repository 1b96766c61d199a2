"""The last word: the model's outputs on samples that no fit has seen.

A layer that is better by itself may still harm the model.  So the re-fitted model is run beside the float one; parts
of the layers without which it is better are taken back, by bisection, and in the end no output may be worse than
before, nor a group of its channels (`onnx_ocs.measurement.yardstick`).  Where the user has a metric, it may not get
worse either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.labels import labels_of
from onnx_ocs.measurement.distributions import distribution_axis, in_logarithms, logits_of
from onnx_ocs.measurement.metric import evaluate
from onnx_ocs.measurement.passages import apart, passages
from onnx_ocs.measurement.yardstick import Yardstick, outputs_of
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import as_written
from onnx_ocs.runtime.threads import CORES, in_order

__all__ = ["LIKELY", "SURE", "Choice", "Judge", "Rule", "beyond_chance", "choose", "won_by_feed"]

GAIN = 0.1  # decibels that a choice must bring
SURE = 2.0  # standard errors by which what is asked after the fact must be better, such as taking layers back
LIKELY = 1.0  # by which what stays must be better than nothing
FEW = 8.0  # and so many more, divided by the number of feeds
AHEAD = "ahead of "  # an output's softmax
QUESTIONS = 6  # most models that are asked
Feed = Mapping[str, Array]


class Judge:
    """The float model's outputs on some samples, and how far another model is from them.

    Attributes:
        yardstick: what is judged.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        model: onnx.ModelProto,
        feeds: Callable[[], Sequence[Feed]],
        mask: Callable[[Feed], Array | None],
        judging: Judging = EVERYTHING,
        turns: Sequence[int] | None = None,
    ) -> None:
        """Run the float model.

        Args:
            reference: the float model.
            model: the model that is judged, or any other with the same outputs.
            feeds: gives the samples.
            mask: gives which rows count.
            judging: what outputs count, and the user's metric.
            turns: which of the models that are judged each feed is for; default: one model is for all.
        """
        self.feeds, self.metric, self.turns = feeds, judging.metric, turns
        self.outputs = outputs_of(reference, model, judging)
        counted, exact, own = [o for o in self.outputs if o.weight > 0], Graph(reference), Graph(model)
        pairs = {o.name: (logits_of(exact, o.truth), logits_of(own, o.name)) for o in counted}
        self._logits = {n: (r, m) for n, (r, m) in pairs.items() if r is not None and m is not None}
        self.references = self._run([reference], {o.name: o.truth for o in self.outputs}, 0)
        given = feeds()
        self._masks = [mask(f) for f in given]
        self._labels = [] if self.metric is None else [labels_of(f) for f in given]
        self._counted = [o.name for o in counted]
        self._likely = {
            n for n in self._counted if all(distribution_axis(r[n]) is not None for r in self.references)
        }
        told = zip(given, self.references, self._masks, strict=True)
        self._passages = [passages(f, [r[n] for n in self._counted], mask) for f, r, mask in told]
        self.yardstick = Yardstick(self.outputs, self._parted(self.references))

    def _parted(self, found: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """Outputs of all feeds, passage by passage; rows that do not count are 0, probabilities are logarithms."""
        counted = [{n: self._told(n, f) for n in self._counted} for f in found]
        masked = zip(_masked(counted, self._masks), self._passages, strict=True)
        return [part for f, where in masked for part in apart(f, where)]

    def _told(self, name: str, found: Mapping[str, Array]) -> Array:
        """An output as it is compared."""
        if name in self._logits:
            return found[AHEAD + name]
        return in_logarithms(found[name]) if name in self._likely else found[name]

    def _run(self, models: Sequence[onnx.ModelProto], names: Mapping[str, str], which: int) -> list[dict[str, Array]]:
        """For every feed, the outputs by our names, and what softmaxes make them of.

        Args:
            models: the model, or one for each turn.
            names: of its outputs, by ours.
            which: 0 for the reference, 1 for others.
        """
        logits = {n: pair[which] for n, pair in self._logits.items()}
        asked = list(dict.fromkeys([*names.values(), *(x.tensor for x in logits.values())]))
        sessions = [as_written(expose(m, asked) if logits else m, 1) for m in models]
        given = self.feeds()
        turns = self.turns if self.turns is not None and len(models) > 1 else [0] * len(given)

        def run(item: tuple[int, Feed]) -> dict[str, Array]:
            session, feed = sessions[item[0]], item[1]
            got = session.run({k: v for k, v in feed.items() if k in session.inputs}, asked)
            ahead = {AHEAD + n: x.counted(np.asarray(got[x.tensor])) for n, x in logits.items()}
            return {n: np.asarray(got[t]) for n, t in names.items()} | ahead

        return list(in_order(run, zip(turns, given, strict=True), CORES))

    def losses(self, *models: onnx.ModelProto) -> tuple[Array, float]:
        """How far a model is from the float one.

        Args:
            models: the model, or one for each turn: every feed is given to that of its own.

        Returns:
            Errors by part and feed, (parts, feeds), each part's add up to its error; passages of text
            (`onnx_ocs.measurement.passages`) count as feeds.  And the user's metric, 0 where there is none.
        """
        found = self._run(models, {o.name: o.name for o in self.outputs}, 1)
        noise = [self.yardstick.noise(k, f) for k, f in enumerate(self._parted(found))]
        shape = len(noise), len(self.yardstick.parts)
        return self.yardstick.shares(np.asarray(noise).reshape(shape)), self._measured(found)

    def _measured(self, found: Sequence[Mapping[str, Array]]) -> float:
        if self.metric is None:
            return 0.0
        return evaluate(self.metric, found, self.references, self._labels)


def _masked(found: Sequence[Mapping[str, Array]], masks: Sequence[Array | None]) -> list[dict[str, Array]]:
    """Outputs in which rows that do not count are 0."""
    return [{n: _covered(v, mask) for n, v in f.items()} for f, mask in zip(found, masks, strict=True)]


def _covered(value: Array, mask: Array | None) -> Array:
    if mask is None or value.ndim < mask.ndim or value.shape[: mask.ndim] != mask.shape or value.dtype.kind in "OSU":
        return value
    return np.asarray(np.where(mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)), value, 0))


class Choice(NamedTuple):
    """What keeps its new values.

    Attributes:
        kept: the layers' numbers.
        sure: whether what is kept is better than nothing by more than chance.
    """

    kept: frozenset[int]
    sure: bool = False


def choose(
    count: int,
    losses: Callable[[frozenset[int]], tuple[Array, float]],
    weights: Array | None = None,
    slack: Array | float = 0.0,
) -> Choice:
    """Which of the layers, numbered in topological order, keep their new values.

    Args:
        count: how many there are.
        losses: with the new values of these layers, errors (parts, feeds), and the user's metric.
        weights: how much each part counts; default: all alike.
        slack: what a part's error may rise by.
    """
    everything, nothing = frozenset(range(count)), frozenset[int]()
    if not count:
        return Choice(nothing)
    before = losses(nothing)
    if not before[0].size:
        return Choice(nothing)
    rule = Rule(before, weights, slack)
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
            if rule.ahead(found, best):
                kept, best = without, found
    if not rule.stands(best):
        kept = _prefix(sorted(kept), lambda layers: rule.stands(losses(layers)))
        best = losses(kept)
    return Choice(kept, rule.sure(best))


class Rule:
    """What is better: by the user's metric where that sees a difference, else by the errors."""

    def __init__(self, before: tuple[Array, float], weights: Array | None, slack: Array | float) -> None:
        self.before, self.weights, self.slack = before, weights, slack

    def ahead(self, now: tuple[Array, float], then: tuple[Array, float]) -> bool:
        """Whether one choice is surely better than another."""
        if now[1] != then[1]:
            return now[1] > then[1]
        after, worst = _told(now[0], np.maximum(self.before[0], then[0]))
        no_worse = bool(np.all(after.sum(1) <= worst.sum(1) + self.slack))
        return no_worse and self._better(*_told(now[0], then[0]), SURE)

    def sure(self, now: tuple[Array, float]) -> bool:
        """Whether a choice is surely better than nothing; one feed cannot tell, nor can infinite errors before."""
        told = now[0].shape[1] > 1 and bool(np.isfinite(self.before[0]).all())
        return told and self.ahead(now, self.before)

    def stands(self, now: tuple[Array, float]) -> bool:
        """Whether no output is worse than before, and all together are better by more than chance."""
        if now[1] != self.before[1]:
            return now[1] > self.before[1]
        after, before = _told(now[0], self.before[0])
        return bool(np.all(after.sum(1) <= before.sum(1) + self.slack)) and self._better(after, before, LIKELY)

    def _better(self, now: Array, then: Array, errors: float) -> bool:
        """Whether the loss is smaller by more than chance: by so many standard errors, of few feeds by more.

        Asked in two ways, of which one must say so: by decibels of single feeds, which no feed with a large error
        rules, and by the error of all feeds together, which is what the SQNR counts.
        """
        gain, saved = won_by_feed(then, now, self.weights)
        if gain.size < 2 or not np.isfinite(gain).all():
            return bool(now.sum() < then.sum())
        together = np.average(_decibels(then.sum(1), now.sum(1)), weights=self.weights)
        return (beyond_chance(gain, errors) and bool(gain.mean() > GAIN)) or (
            beyond_chance(saved, errors) and bool(together > GAIN)
        )


def _told(now: Array, then: Array) -> tuple[Array, Array]:
    """Two choices' errors without those that are infinite either way: no finite values where the reference has some."""
    neither = np.isinf(now) & np.isinf(then)
    return (np.where(neither, 0.0, now), np.where(neither, 0.0, then)) if neither.any() else (now, then)


def won_by_feed(then: Array, now: Array, weights: Sequence[float] | Array | None) -> tuple[Array, Array]:
    """What errors (parts, feeds) have become smaller by: decibels of each feed, and its share of the mean error."""
    with np.errstate(invalid="ignore"):  # errors may be infinite
        shares = (then - now) / np.maximum(then.mean(1, keepdims=True), 1e-30)
    won, saved = (np.average(v, axis=0, weights=weights) for v in (_decibels(then, now), shares))
    return won, saved


def _decibels(then: Array, now: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):  # errors may be infinite
        return np.asarray(10 * np.log10(np.maximum(then, 1e-30) / np.maximum(now, 1e-30)))


def beyond_chance(gain: Array, errors: float) -> bool:
    """Whether a mean is larger than so many standard errors, and of few feeds than more.

    Args:
        gain: of single feeds, (feeds,).
        errors: how many.
    """
    return bool(gain.mean() > (errors + FEW / gain.size) * gain.std(ddof=1) / np.sqrt(gain.size))


def _prefix(layers: Sequence[int], stands: Callable[[frozenset[int]], bool]) -> frozenset[int]:
    """The longest run of layers, from the first, with which no output is worse, as far as halving finds it."""
    low, high = 0, len(layers)
    while high - low > 1:
        middle = (low + high) // 2
        if stands(frozenset(layers[:middle])):
            low = middle
        else:
            high = middle
    return frozenset(layers[:low])
