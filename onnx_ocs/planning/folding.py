"""Copies that nobody reads: made in float behind a tensor that no layer with a weight reads, and folded back at once.

A budget of multiply-accumulates does not count them, so they must be worth their time
(`onnx_ocs.planning.foldable`): a plan takes them where error times time falls, on samples that they were not chosen on.
So twice the time must halve the error.  A limit of time is measured besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx_ocs.planning.allocate import at_price
from onnx_ocs.planning.candidates import Candidate
from onnx_ocs.planning.choices import Choice, Choices
from onnx_ocs.planning.objective import Judge
from onnx_ocs.planning.problem import Problem

__all__ = ["folded"]

# shares of the error that a doubled time must save: plans to compare
THRIFT = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5)
DOUBTED = 24  # tensors whose copies are tried without, one by one: those that promise least for their time


def folded(whole: Problem, judge: Judge, choices: Choices, timely: Callable[[Choices], bool]) -> Choices:
    """Choices with copies that are folded back, where these are worth their time.

    Args:
        whole: the problem that the choices solve, with candidates that may get such copies.
        judge: the objective on samples that the tables were not made from; each of its halves must agree.
        choices: what else is done.
        timely: whether a plan keeps to the limit of time.

    Returns:
        The same where nothing pays.
    """
    problem = whole.folding()

    def score(new: Choices) -> Iterator[float]:
        """Error times time, on each half, computed when it is asked for: most trials end at the first."""
        time = 1 + _work(problem, new)
        return (e * time for e in judge.halves(whole.settings(new)))

    best, least = choices, list(score(choices))
    judge.stand_on(whole.settings(choices))
    damage = sum(c.damage for c in problem.candidates)
    trials = [_bought(problem, choices, share * damage / max(problem.total, 1)) for share in THRIFT]
    judge.ahead(map(whole.settings, trials), judge.parts[0], whole.settings(choices))
    for trial in trials:
        if trial.keys() == choices.keys() and all(trial[k] is choices[k] for k in trial):
            continue
        if (found := _no_worse(score(trial), least, strictly=True)) is not None:
            best, least = trial, found
    judge.stand_on(whole.settings(best))

    def without(k: int) -> Choices:
        return {i: c for i, c in best.items() if i != k} | ({k: choices[k]} if k in choices else {})

    doubted = _doubted(problem, choices, best)
    judge.ahead((whole.settings(without(k)) for k in doubted), judge.parts[0], whole.settings(best))
    for k in doubted:  # each must be worth its own time
        trial = without(k)
        if (found := _no_worse(score(trial), least)) is not None:
            best, least = trial, found
    return best if best is not choices and timely(best) else choices


def _bought(problem: Problem, choices: Choices, price: float) -> dict[int, Choice]:
    """The choices, with all copies that are worth a price."""
    return {**choices, **{k: c for k, c in at_price(problem, price).items() if c.count}}


def _no_worse(scores: Iterator[float], least: list[float], strictly: bool = False) -> list[float] | None:
    """A plan's scores where none of them is larger than the least so far (or as large); None where one is."""
    found = []
    for f, b in zip(scores, least, strict=True):
        if f > b or (strictly and f == b):
            return None
        found.append(f)
    return found


def _doubted(problem: Problem, choices: Choices, best: Choices) -> list[int]:
    """The tensors with new copies, or of many those that save least for their time."""
    new = [c for c in problem.candidates if c.index in best and best[c.index] is not choices.get(c.index)]

    def promise(c: Candidate) -> float:
        chosen, before = best[c.index], problem.error(c, None)
        saved = c.damage * (1 - problem.error(c, chosen) / before) if before > 0 else 0.0
        return saved / max(c.start + chosen.count * c.macs, 1.0)

    return sorted(c.index for c in sorted(new, key=promise)[:DOUBTED])


def _work(problem: Problem, choices: Choices) -> float:
    """What the copies that are folded back cost, as a share of the model's multiply-accumulates."""
    copied = [(c, choices[c.index].count) for c in problem.candidates if c.index in choices]
    return sum(c.start + n * c.macs for c, n in copied if n) / max(problem.total, 1)
