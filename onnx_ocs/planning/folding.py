"""Copies that nobody reads: made in float behind a tensor that no layer with a weight reads, and folded back at once.

A budget of multiply-accumulates does not count them, so they must be worth their time
(`onnx_ocs.planning.foldable`): a plan takes them where error times time falls, on samples that they were not chosen on.
So twice the time must halve the error.  A limit of time is measured besides.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_ocs.planning.allocate import at_price
from onnx_ocs.planning.choices import Choices
from onnx_ocs.planning.objective import Judge
from onnx_ocs.planning.problem import Problem

__all__ = ["folded"]

THRIFT = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5)  # shares of the error that a doubled time must save: plans to compare


def folded(problem: Problem, judge: Judge, choices: Choices, timely: Callable[[Choices], bool]) -> Choices:
    """Choices with copies that are folded back, where these are worth their time.

    Args:
        problem: the candidates that may get such copies, with tables.
        judge: the objective on samples that the tables were not made from; each of its halves must agree.
        choices: what else is done.
        timely: whether a plan keeps to the limit of time.

    Returns:
        The same where nothing pays.
    """

    def score(new: Choices) -> list[float]:
        """Error times time, on each half."""
        return [e * (1 + _work(problem, new)) for e in judge.halves(problem.settings(new))]

    best, least = choices, score(choices)
    damage = sum(c.damage for c in problem.candidates)
    for share in THRIFT:
        price = share * damage / max(problem.total, 1)
        trial = {**choices, **{k: c for k, c in at_price(problem, price).items() if c.count}}
        found = score(trial)
        if all(f < b for f, b in zip(found, least, strict=True)):
            best, least = trial, found
    for k in [k for k, c in best.items() if c is not choices.get(k)]:  # each must be worth its own time
        trial = {i: c for i, c in best.items() if i != k} | ({k: choices[k]} if k in choices else {})
        found = score(trial)
        if all(f <= b for f, b in zip(found, least, strict=True)):
            best, least = trial, found
    return best if best is not choices and timely(best) else choices


def _work(problem: Problem, choices: Choices) -> float:
    """What the copies that are folded back cost, as a share of the model's multiply-accumulates."""
    copied = [(c, choices[c.index].count) for c in problem.candidates if c.index in choices]
    return sum(c.start + n * c.macs for c, n in copied if n) / max(problem.total, 1)
