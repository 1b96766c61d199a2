"""What the tensors' quantizers cost at the model's output: alone, and at a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from onnx_ocs.measurement.yardstick import Output, Yardstick
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.choices import Choices
from onnx_ocs.planning.objective import Judge
from onnx_ocs.planning.problem import Problem
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.region import Quantized, adjustable

__all__ = ["FEWEST", "Alone", "harmful", "weigh", "weigh_in_place", "weighed_on"]

FEWEST = 2  # samples on which tensors are looked at
HARMLESS = 5e-3  # share of all tensors' damage below which a step alone is not worth looking at
WEIGHING_MACS = 4e10  # for all tensors together; a share of work that does not depend on the machine
SOME = slice(0, None, 3)  # of the feeds that plans are judged on


class Alone:
    """What each quantizer alone does to the outputs, on some samples; what was measured once is known.

    Attributes:
        board: the model with switched quantizers.
        feeds: the samples.
    """

    def __init__(
        self, board: Switchboard, feeds: Sequence[Mapping[str, Array]], outputs: Sequence[Output] | None = None
    ) -> None:
        """Measure nothing yet.

        Args:
            board: the model with switched quantizers.
            feeds: the samples.
            outputs: what is compared; default: all that a quantizer can change.
        """
        self.board, self.feeds = board, feeds
        known = {o.name: o for o in outputs or ()}
        moved = [known.get(o, Output(o, o)) for o in board.reached if outputs is None or o in known]
        self._moved = [o for o in moved if o.weight > 0]
        self._noise: dict[int, Array] = {}

    @cached_property
    def _yardstick(self) -> Yardstick:
        return Yardstick(self._moved, [self.board.run(f, {}) for f in self.feeds])

    def damages(
        self, settings: Mapping[int, Setting], what: str, progress: Callable[[str, int, int | None], None]
    ) -> dict[int, float]:
        """Squared error at the outputs with each of these quantizers on and all others off, by index of the region.

        Where several outputs count, or groups of channels, it is the share of all these errors there, added up.
        """
        if not self._moved or not settings:
            return dict.fromkeys(settings, 0.0)
        for n, (k, s) in enumerate(settings.items()):
            progress(what, n, len(settings))
            if k not in self._noise:
                alone, zero = {k: s}, np.zeros(1)
                noise = (self._yardstick.noise(i, self.board.run(f, alone)) for i, f in enumerate(self.feeds))
                self._noise[k] = sum(noise, zero)
        progress(what, len(settings), len(settings))
        found = self._yardstick.together(np.asarray([self._noise[k] for k in settings]))
        return dict(zip(settings, found.tolist(), strict=True))


def harmful(
    alone: Alone, regions: Sequence[Quantized], progress: Callable[[str, int, int | None], None]
) -> list[int]:
    """The tensors that no layer with a weight reads, and whose quantizers cost the outputs something each.

    Such tensors are many in some models, and a finer step helps few of them: a look at few samples tells which.
    """
    open_to_change = adjustable(regions)
    steps = [k for k, r in open_to_change.items() if not r.walk.weights]
    if not steps:
        return []
    damage = alone.damages({k: narrow(r.quantizer) for k, r in open_to_change.items()}, "screening tensors", progress)
    least = HARMLESS * sum(damage.values())
    return [k for k in steps if damage[k] > least]


def weighed_on(problem: Problem) -> int:
    """On how many samples tensors are weighed: the larger the model, and the more tensors, the fewer."""
    return max(FEWEST, min(16, int(WEIGHING_MACS / max(problem.total * len(problem.candidates), 1))))


def weigh(
    problem: Problem, alone: Alone, progress: Callable[[str, int, int | None], None]
) -> dict[int, float]:
    """Measure what each candidate's quantizer alone does to the outputs: squared error, by index of the region."""
    settings = {c.index: narrow(c.region.quantizer) for c in problem.candidates}
    return alone.damages(settings, "weighing tensors", progress)


def weigh_in_place(
    problem: Problem,
    judge: Judge,
    choices: Choices,
    weights: Mapping[int, float],
    progress: Callable[[str, int, int | None], None],
) -> dict[int, float]:
    """Weights at a plan: what the objective gains when one quantizer is switched off while all others are on.

    Quantization errors of a low-bit network do not add up: a tensor's error counts for less behind another that has
    already done the damage.  The weight is the geometric mean with the old one, so that one noisy measurement does
    not turn the plan around.

    Args:
        problem: candidates with tables.
        judge: the objective.
        choices: the plan.
        weights: the old weights, by index of the region.
        progress: called during the work.

    Returns:
        The new ones.
    """
    settings, candidates = problem.settings(choices), problem.candidates
    judge.stand_on(settings, SOME)
    now, _ = judge(settings, SOME)
    gains, predicted = [], []
    for n, c in enumerate(candidates):
        progress("weighing in place", n, len(candidates))
        off = {k: s for k, s in settings.items() if k != c.index}
        gains.append(max(now - judge(off, SOME)[0], 0.0))
        predicted.append(problem.error(c, choices.get(c.index)))
    progress("weighing in place", len(candidates), len(candidates))
    floor = 0.02 * max(gains, default=0.0)
    fresh = [max(g, floor) / p if p > 0 else 0.0 for g, p in zip(gains, predicted, strict=True)]
    old = np.asarray([weights[c.index] for c in candidates])
    new = np.asarray(fresh)
    both = (old > 0) & (new > 0)
    if both.any():
        new = new * np.exp(np.mean(np.log(old[both])) - np.mean(np.log(new[both])))
    return {
        c.index: float(np.sqrt(o * w)) if o > 0 and w > 0 else float(o)
        for c, o, w in zip(candidates, old, new, strict=True)
    }
