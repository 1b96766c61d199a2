"""What the tensors' quantizers cost at the model's output: alone, and at a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.allocate import Choice, Planner
from onnx_ocs.planning.objective import Judge, first_feeds
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.region import Region

__all__ = ["harmful", "weigh", "weigh_in_place"]

HARMLESS = 5e-3  # share of all tensors' damage below which a step alone is not worth looking at
WEIGHING_MACS = 4e10  # for all tensors together; a share of work that does not depend on the machine
SOME = slice(0, None, 3)  # of the feeds that plans are judged on


def harmful(
    board: Switchboard,
    regions: Sequence[Region],
    feed: Mapping[str, Array],
    progress: Callable[[str, int, int | None], None],
) -> list[int]:
    """The tensors that no layer with a weight reads, and whose quantizers cost the output something each.

    Such tensors are many in some models, and a finer step helps few of them: a look at few samples tells which.
    """
    narrows = {k: narrow(r.quantizer) for k, r in enumerate(regions) if r.quantizer is not None and r.adjustable}
    steps = [k for k in narrows if (walk := regions[k].walk) is not None and not walk.weights]
    if not steps:
        return []
    damages = _damages(board, [{k: s} for k, s in narrows.items()], [feed], "screening tensors", progress)
    damage = dict(zip(narrows, damages, strict=True))
    return [k for k in steps if damage[k] > HARMLESS * sum(damages)]


def weigh(
    planner: Planner,
    board: Switchboard,
    feeds: Sequence[Mapping[str, Array]],
    progress: Callable[[str, int, int | None], None],
) -> None:
    """Measure what each tensor's quantizer alone does to the output."""
    wanted = max(2, min(16, int(WEIGHING_MACS / max(planner.total * len(planner.candidates), 1))))
    alone = [{c.index: narrow(q)} for c in planner.candidates if (q := c.region.quantizer) is not None]
    damages = _damages(board, alone, first_feeds(feeds, wanted), "weighing tensors", progress)
    for c, damage in zip(planner.candidates, damages, strict=True):
        c.damage = damage


def weigh_in_place(
    planner: Planner, judge: Judge, choices: Mapping[int, Choice], progress: Callable[[str, int, int | None], None]
) -> None:
    """Weights at the plan: what the objective gains when one quantizer is switched off while all others are on.

    Quantization errors of a low-bit network do not add up: a tensor's error counts for less behind another that has
    already done the damage.  The weight is the geometric mean with the old one, so that one noisy measurement does
    not turn the plan around.
    """
    settings = planner.settings(choices)
    judge.stand_on(settings, SOME)
    now, _ = judge(settings, SOME)
    gains, predicted = [], []
    for n, c in enumerate(planner.candidates):
        progress("weighing in place", n, len(planner.candidates))
        off = {k: s for k, s in settings.items() if k != c.index}
        gains.append(max(now - judge(off, SOME)[0], 0.0))
        predicted.append(planner.at(c, choices.get(c.index)))
    progress("weighing in place", len(planner.candidates), len(planner.candidates))
    floor = 0.02 * max(gains, default=0.0)
    fresh = [max(g, floor) / p if p > 0 else 0.0 for g, p in zip(gains, predicted, strict=True)]
    old = np.asarray([c.weight for c in planner.candidates])
    new = np.asarray(fresh)
    both = (old > 0) & (new > 0)
    if both.any():
        new = new * np.exp(np.mean(np.log(old[both])) - np.mean(np.log(new[both])))
    for c, o, w in zip(planner.candidates, old, new, strict=True):
        c.weight = float(np.sqrt(o * w)) if o > 0 and w > 0 else float(o)


def _damages(
    board: Switchboard,
    trials: Sequence[Mapping[int, Setting]],
    feeds: Sequence[Mapping[str, Array]],
    what: str,
    progress: Callable[[str, int, int | None], None],
) -> list[float]:
    """Squared error at the output of each trial."""
    references = [board.run(f, {}).astype(np.float64) for f in feeds]
    found = []
    for n, trial in enumerate(trials):
        progress(what, n, len(trials))
        outputs = (board.run(f, trial) for f in feeds)
        found.append(sum(float(((out - ref) ** 2).sum()) for out, ref in zip(outputs, references, strict=True)))
    progress(what, len(trials), len(trials))
    return found
