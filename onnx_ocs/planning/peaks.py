"""Copies for a few channels whose values are hundreds of times the rest: hundreds of them, and none for the others.

In decoders one or two channels hold values thousands of times those of the others, at one token (massive activations,
Sun et al., arXiv 2402.17762).  A step for all leaves the others none.  The planner's tables go up to a few copies for
every channel.  Here the step is divided by d, and each channel gets the copies that its own values need:

    copies_c = ceil(largest_c / (s / d * levels)) - 1

Nothing is cut that was not.  What d brings is asked at the model's outputs, tensor by tensor, the most harmful first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_ocs.calibration.histogram import Histogram
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.candidates import Candidate, room
from onnx_ocs.planning.choices import Choice, Choices
from onnx_ocs.planning.objective import WORTH, Judge
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.probes.switchboard import Setting
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.translation.options import MOST

__all__ = ["Ladder", "find_ladders", "peaked"]

HALVINGS = 10  # of the step
EIGHTH = 8  # a few channels are far beyond the rest where an eighth of the step takes copies of an eighth of them
PATIENCE = 2  # rungs in a row that bring nothing, after which nobody climbs further

Settings = Callable[[Choices], Mapping[int, Setting]]


@dataclass(frozen=True, eq=False)
class Ladder:
    """What may be done with one tensor: the step halved again and again, and the copies that each step needs.

    Attributes:
        candidate: the tensor.
        rungs: the choices, the coarsest step first.
    """

    candidate: Candidate
    rungs: tuple[Choice, ...]


def find_ladders(
    graph: Graph, candidates: Sequence[Candidate], statistics: Statistics, options: PlanOptions
) -> tuple[Ladder, ...]:
    """Those of a problem's candidates in which a few channels are far beyond the rest.

    Args:
        graph: the graph, not edited.
        candidates: all that may change.
        statistics: histograms, by channel.
        options: where steps must stay, nothing may be spent, or fewer copies are allowed than usual, there are none.
    """
    usual = PlanOptions()
    if not options.rescale or options.budget == 0 or options.target is not None or options.copies < usual.copies:
        return ()
    found = []
    for c in candidates:
        one_step = c.region.quantizer.scale.size == 1
        if not c.shares or c.uniform or c.full or not one_step:
            continue
        h = statistics.histogram(c.index, None)  # merged: asked for where it can matter alone
        if len(h.counts) == c.region.walk.channels and np.isfinite(h.high):
            rungs = tuple(_rungs(graph, c, h))
            few = [r for r in rungs if EIGHTH * r.count <= len(h.counts)]
            if any(float(r.scale) * EIGHTH <= float(c.region.quantizer.scale) * (1 + 1e-6) for r in few):
                found.append(Ladder(c, rungs))
    return tuple(found)


def _rungs(graph: Graph, c: Candidate, h: Histogram) -> list[Choice]:
    """The steps that the readers' biases allow, up to as many copies as there are channels."""
    q, found = c.region.quantizer, list[Choice]()
    width = float(h.edges[1] - h.edges[0])
    seen = h.counts > 0
    none = ~seen.any(1)
    high = np.where(none, 0.0, np.minimum(h.edges[-1 - seen[:, ::-1].argmax(1)] + width, h.high))
    low = np.where(none, 0.0, np.maximum(h.edges[seen.argmax(1)], h.low))
    for k in range(1, HALVINGS + 1):
        scale = (q.scale / 2**k).astype(q.float_dtype).astype(np.float64)
        up = _needed(high, float(scale) * float(np.max(q.qmax - q.zero_point)))
        down = _needed(-low, float(scale) * float(np.max(q.zero_point - q.qmin)))
        rooms = room(replace(c, steps=np.asarray([0.5**k])), 0, MOST)
        if up.max() > rooms[0] or down.max() > rooms[1] or up.sum() + down.sum() > len(up):
            break
        if check_rescale(graph, c.region, scale) is not None:
            break
        if up.any() or down.any():
            found.append(Choice(scale, up, down))
    return found


def _needed(largest: Array, span: float) -> Array:
    """How many copies bring each channel's largest value into a range; more than allowed where there is no range."""
    if span <= 0:
        return np.where(largest > 0, MOST + 1, 0).astype(np.int64)
    return np.clip(np.ceil(largest / span - 1e-6).astype(np.int64) - 1, 0, MOST + 1)


def peaked(ladders: Sequence[Ladder], judge: Judge, settings: Settings, within: Callable[[Choices], bool]) -> Choices:
    """What is best done with such tensors, and nothing else.

    Args:
        ladders: the tensors.
        judge: the objective on samples that no plan is made from; each of its halves must agree.
        settings: what choices are on the switchboard.
        within: whether choices keep to the budget.

    Returns:
        Choices for those tensors that gain; a step that is halved again must gain as much as any plan must.
    """
    found: Choices = {}
    least = tuple(judge.halves(settings(found)))
    for ladder in sorted(ladders, key=lambda p: -p.candidate.damage):
        judge.stand_on(settings(found))
        missed = 0
        for rung in ladder.rungs:
            trial = {**found, ladder.candidate.index: rung}
            if missed == PATIENCE or not within(trial):
                break
            now = tuple(judge.halves(settings(trial)))
            gains = all(n <= b * (1 - WORTH) for n, b in zip(now, least, strict=True))
            missed = 0 if gains else missed + 1
            found, least = (trial, now) if gains else (found, least)
    return found
