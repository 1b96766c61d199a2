"""What the tensors' quantizers cost at the model's output: alone, and at a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_ocs.measurement.yardstick import Output, Yardstick
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.choices import Choices
from onnx_ocs.planning.objective import Judge, first_feeds
from onnx_ocs.planning.problem import Problem
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.region import Quantized, adjustable

__all__ = ["harmful", "weigh", "weigh_in_place"]

HARMLESS = 5e-3  # share of all tensors' damage below which a step alone is not worth looking at
WEIGHING_MACS = 4e10  # for all tensors together; a share of work that does not depend on the machine
SOME = slice(0, None, 3)  # of the feeds that plans are judged on


def harmful(
    board: Switchboard,
    regions: Sequence[Quantized],
    feed: Mapping[str, Array],
    progress: Callable[[str, int, int | None], None],
    outputs: Sequence[Output] | None = None,
) -> list[int]:
    """The tensors that no layer with a weight reads, and whose quantizers cost the outputs something each.

    Such tensors are many in some models, and a finer step helps few of them: a look at few samples tells which.
    """
    open_to_change = adjustable(regions)
    narrows = {k: narrow(r.quantizer) for k, r in open_to_change.items()}
    steps = [k for k, r in open_to_change.items() if not r.walk.weights]
    if not steps:
        return []
    damages = _damages(board, [{k: s} for k, s in narrows.items()], [feed], "screening tensors", progress, outputs)
    damage = dict(zip(narrows, damages, strict=True))
    return [k for k in steps if damage[k] > HARMLESS * sum(damages)]


def weigh(
    problem: Problem,
    board: Switchboard,
    feeds: Sequence[Mapping[str, Array]],
    progress: Callable[[str, int, int | None], None],
    outputs: Sequence[Output] | None = None,
) -> dict[int, float]:
    """Measure what each tensor's quantizer alone does to the outputs: squared error, by index of the region.

    Where several outputs count, or groups of channels, it is the share of all tensors' errors there, added up.
    """
    wanted = max(2, min(16, int(WEIGHING_MACS / max(problem.total * len(problem.candidates), 1))))
    alone = [{c.index: narrow(c.region.quantizer)} for c in problem.candidates]
    damages = _damages(board, alone, first_feeds(feeds, wanted), "weighing tensors", progress, outputs)
    return {c.index: damage for c, damage in zip(problem.candidates, damages, strict=True)}


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


def _damages(
    board: Switchboard,
    trials: Sequence[Mapping[int, Setting]],
    feeds: Sequence[Mapping[str, Array]],
    what: str,
    progress: Callable[[str, int, int | None], None],
    outputs: Sequence[Output] | None,
) -> list[float]:
    """Error at the outputs of each trial."""
    known = {o.name: o for o in outputs or ()}
    moved = [known.get(o, Output(o, o)) for o in board.reached if outputs is None or o in known]
    if not any(o.weight > 0 for o in moved):
        return [0.0] * len(trials)
    yardstick = Yardstick(moved, [board.run(f, {}) for f in feeds])
    found = []
    for n, trial in enumerate(trials):
        progress(what, n, len(trials))
        found.append(sum((yardstick.noise(k, board.run(f, trial)) for k, f in enumerate(feeds)), np.zeros(1)))
    progress(what, len(trials), len(trials))
    return yardstick.together(np.asarray(found)).tolist() if found else []
