"""What the tensors' quantizers cost at the model's output: alone, and at a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np

from onnx_ocs.calibration.context import Progress
from onnx_ocs.measurement.yardstick import Output, Yardstick
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.candidates import Candidate
from onnx_ocs.planning.choices import Choices
from onnx_ocs.planning.gauge import Gauge
from onnx_ocs.planning.objective import Judge
from onnx_ocs.planning.problem import LEARNT, Problem
from onnx_ocs.planning.questions import Questions
from onnx_ocs.planning.together import alike, halved, halves, most, shared_out
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.region import Quantized, adjustable

__all__ = ["FEWEST", "MOST", "Alone", "asked_on", "harmful", "weigh", "weigh_in_place"]

AT_ONCE = 16  # tensors that are asked about together at first
FEWEST, MOST = 2, 16  # samples on which tensors are looked at alone
ALONE_MACS = 4e11  # for all of them together; a share of work that does not depend on the machine
# share of all tensors' damage below which a step alone is not worth looking at: where a percentile clips everything,
# other steps take away 15 dB, and what was a thousandth of the damage is most of what is left
HARMLESS = 2e-4
SOME = slice(0, None, 3)  # of the feeds that plans are judged on


class Alone:
    """What each quantizer alone does to the outputs, on some samples; what was measured once is known.

    Attributes:
        board: the model with switched quantizers.
        feeds: the samples.
    """

    def __init__(
        self,
        board: Switchboard,
        feeds: Sequence[Mapping[str, Array]],
        outputs: Sequence[Output] | None = None,
        questions: Questions | None = None,
    ) -> None:
        """Measure nothing yet.

        Args:
            board: the model with switched quantizers.
            feeds: the samples.
            outputs: what is compared; default: all that a quantizer can change.
            questions: workers that answer questions about these feeds; None: this process.
        """
        self.board, self.feeds, self._questions = board, feeds, questions
        known = {o.name: o for o in outputs or ()}
        moved = [known.get(o, Output(o, o)) for o in board.reached if outputs is None or o in known]
        self._moved = [o for o in moved if o.weight > 0]
        self._noise: dict[tuple[int, ...], Array] = {}

    @cached_property
    def _yardstick(self) -> Yardstick:
        return Yardstick(self._moved, [self.board.run(f, {}) for f in self.feeds])

    def damages(self, trials: Sequence[Mapping[int, Setting]], what: str, progress: Progress) -> Array:
        """Squared error at the outputs in each trial, (trials,): these quantizers are on and all others off.

        Where several outputs count, or groups of channels, it is the share of all trials' errors there, added up.

        Args:
            trials: settings of the quantizers that are on, by index of the region; each always the same.
            what: said of the work.
            progress: called with that, how much is done, and of how much.
        """
        if not self._moved or not trials:
            return np.zeros(len(trials))
        self._ask_workers(trials, partial(progress, what))
        for n, on in enumerate(trials):
            progress(what, n, len(trials))
            if tuple(on) not in self._noise:
                noise = (self._yardstick.noise(i, self.board.run(f, on)) for i, f in enumerate(self.feeds))
                self._noise[tuple(on)] = sum(noise, np.zeros(1))
        progress(what, len(trials), len(trials))
        return self._yardstick.together(np.asarray([self._noise[tuple(on)] for on in trials]))

    def _ask_workers(self, trials: Sequence[Mapping[int, Setting]], tell: Callable[[int, int | None], None]) -> None:
        """Let workers measure what is not known yet."""
        fresh = [on for on in trials if tuple(on) not in self._noise]
        if self._questions is None or len(fresh) < 2:
            return
        yardstick, at = self._yardstick, range(len(self.feeds))
        parts = yardstick.parts
        gauge = Gauge(parts, (False,) * len(parts), {o.name: o.name for o in yardstick.outputs}, floats=False)
        found: dict[int, dict[int, Array]] = {}
        for n, k, error in self._questions.answers(gauge, yardstick.references, fresh, at):
            found.setdefault(n, {})[k] = error.noise
            tell(len(trials) - len(fresh) + n, len(trials))
        for n, noise in found.items():
            if len(noise) == len(at):
                self._noise[tuple(fresh[n])] = sum((noise[k] for k in at), np.zeros(1))


def harmful(alone: Alone, regions: Sequence[Quantized], progress: Progress) -> list[int]:
    """The tensors that no layer with a weight reads, and whose quantizers cost the outputs something each.

    Such tensors are many in some models, and a finer step helps few of them.  So many are asked about at once, on few
    samples; those that cost something together are halved, until it is known which.
    """
    changing = adjustable(regions)
    settings = {k: narrow(r.quantizer) for k, r in changing.items()}
    steps = [k for k, r in changing.items() if not r.walk.weights]
    if not steps:
        return []
    groups = alike({k: r for k, r in changing.items() if r.walk.weights})  # these are weighed anyway
    groups += [tuple(steps[k : k + AT_ONCE]) for k in range(0, len(steps), AT_ONCE)]
    while True:
        damage = alone.damages([{k: settings[k] for k in g} for g in groups], "screening tensors", progress)
        least = HARMLESS * damage.sum()
        costs = {g for g, d in zip(groups, damage, strict=True) if d > least and not changing[g[0]].walk.weights}
        if all(len(g) == 1 for g in costs):
            return [k for k in steps if (k,) in costs]
        groups = [part for g in groups for part in (halves(g) if g in costs and len(g) > 1 else (g,))]


def asked_on(macs: int, tensors: int) -> int:
    """On how many samples tensors are asked about alone: the larger the model, and the more tensors, the fewer.

    Args:
        macs: of the model, for one sample.
        tensors: how many there are.
    """
    return max(FEWEST, min(MOST, int(ALONE_MACS / max(macs * tensors, 1))))


def weigh(problem: Problem, alone: Alone, progress: Progress) -> dict[int, float]:
    """Measure what each candidate's quantizer alone does to the outputs: squared error, by index of the region.

    Very many are measured together with others (`onnx_ocs.planning.together`).
    """
    candidates = {c.index: c for c in problem.candidates}
    settings = {k: narrow(c.region.quantizer) for k, c in candidates.items()}

    def damages(groups: Sequence[tuple[int, ...]]) -> Array:
        return alone.damages([{k: settings[k] for k in g} for g in groups], "weighing tensors", progress)

    read = {k: c.region for k, c in candidates.items() if c.region.walk.weights}
    first = {g[0]: g for g in alike(read)}
    groups, damage = halved([first.get(k, (k,)) for k in candidates if k in first or k not in read], damages)
    own: dict[int, float] = {}
    if len(groups) < len(candidates):
        tables = problem.on(LEARNT, copies=False)
        own = {c.index: tables.error(c, None) for c in tables.candidates}
    found = shared_out(groups, damage.tolist(), own)
    return {k: found[k] for k in candidates}


def weigh_in_place(
    problem: Problem,
    judge: Judge,
    choices: Choices,
    weights: Mapping[int, float],
    progress: Progress,
) -> dict[int, float]:
    """Weights at a plan: what the objective gains when one quantizer is switched off while all others are on.

    Quantization errors of a low-bit network do not add up: a tensor's error counts for less behind another that has
    already done the damage.  The weight is the geometric mean with the old one, so that one noisy measurement does
    not turn the plan around.  Of very many, those are asked about that cost most by the old weights.

    Args:
        problem: candidates with tables.
        judge: the objective.
        choices: the plan.
        weights: the old weights, by index of the region.
        progress: called during the work.

    Returns:
        The new ones.
    """
    settings = problem.settings(choices)
    errors = {c.index: problem.error(c, choices.get(c.index)) for c in problem.candidates}
    candidates = most(problem.candidates, lambda c: weights[c.index] * errors[c.index])

    def without(c: Candidate) -> dict[int, Setting]:
        return {k: s for k, s in settings.items() if k != c.index}

    def tell(n: int) -> None:
        progress("weighing in place", n, len(candidates))

    judge.stand_on(settings, SOME)
    judge.ahead(map(without, candidates), SOME, settings, tell)
    now, _ = judge(settings, SOME)
    gains, predicted = [], []
    for n, c in enumerate(candidates):
        tell(n)
        gains.append(max(now - judge(without(c), SOME)[0], 0.0))
        predicted.append(errors[c.index])
    tell(len(candidates))
    floor = 0.02 * max(gains, default=0.0)
    fresh = [max(g, floor) / p if p > 0 else 0.0 for g, p in zip(gains, predicted, strict=True)]
    old = np.asarray([weights[c.index] for c in candidates])
    new = np.asarray(fresh)
    both = (old > 0) & (new > 0)
    if both.any():
        new = new * np.exp(np.mean(np.log(old[both])) - np.mean(np.log(new[both])))
    asked = zip(candidates, old, new, strict=True)
    return dict(weights) | {c.index: float(np.sqrt(o * w)) if o > 0 and w > 0 else float(o) for c, o, w in asked}
