"""What the planner may change: regions whose copies or steps it chooses, what that costs, and how far it may go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnx_ocs.calibration.histogram import Histogram
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.planning.distortion import Readers, readers
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.qdq.intervals import clip_bounds
from onnx_ocs.qdq.layers import read_layer
from onnx_ocs.regions.function import Function, counts_beyond, function_behind
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import HALF_COPIES, STEP_ONLY, Quantized, Region, adjustable
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.translation import early as early_mode
from onnx_ocs.translation.decision import Decision, Mode
from onnx_ocs.translation.kernels import behind_kernels, losing
from onnx_ocs.translation.reach import beyond

__all__ = ["COARSE", "COARSER", "Candidate", "factors", "find_candidates", "room"]

STEPS = 24  # steps that are tried for a region
COARSER = 1.3  # the largest of them, against the old one
COARSE = (8.0, 7.0, 6.0, 5.2, 4.5, 3.9, 3.4, 3.0, 2.6, 2.25, 1.95, 1.7, 1.5)  # beyond, on trial: where a lot is clipped


@dataclass(frozen=True, eq=False)
class Candidate:
    """A region that may be given copies or another step.

    Attributes:
        index: of the region.
        region: the region.
        readers: how its readers weigh errors.
        mode: "early" or "late".
        macs: MACs that one copy costs.
        shares: by id of the reader, which share of its input one copy adds; empty where only the step may change.
        steps: the steps that may be chosen, factors of the old one, float64.
        limit: the largest value that copies may express (early mode behind a bound).
        uniform: whether all channels must get the same number of copies.
        damage: error at the model's output when this tensor alone is quantized as it is; measured later.
        folds: whether it may get copies that no reader takes, and that are folded back (`onnx_ocs.planning.foldable`).
        start: what the first of these costs besides.
        function: the one function that reads the tensor, behind which errors count (`onnx_ocs.regions.function`).
    """

    index: int
    region: Region
    readers: Readers
    mode: Literal["early", "late"]
    macs: float
    shares: Mapping[int, float]
    steps: Array
    limit: float = np.inf
    uniform: bool = False
    damage: float = 0.0
    folds: bool = False
    start: float = 0.0
    function: Function | None = None

    @property
    def full(self) -> bool:
        """Whether each copy holds a whole range."""
        return self.mode == "early" and self.region.full

    @cached_property
    def own(self) -> int:
        """Which of the steps is the file's."""
        return int(np.flatnonzero(self.steps == 1)[0])


def find_candidates(
    graph: Graph,
    regions: Sequence[Quantized],
    base: Mapping[int, int],
    statistics: Statistics,
    options: PlanOptions,
) -> list[Candidate]:
    """All regions that a plan may change.

    Args:
        graph: the graph, not edited.
        regions: its regions.
        base: MACs of every node, by id.
        statistics: histograms; a region without is left out.
        options: mode, limits, and what the user lets be changed.
    """
    carried = {id(n) for r in adjustable(regions).values() for n in r.walk.carried}
    seen = {k for half in statistics.halves for k, h in half.items() if h.exponent is not None}
    held = behind_kernels(graph, regions) if options.mode == "integer" else set()
    found = []
    for k, r in ((k, r) for k, r in enumerate(regions) if isinstance(r, Region)):
        useful = r.refusal is None or r.refusal.code in STEP_ONLY
        if useful and options.allows(r.tensor) and k in seen and not any(id(n) in carried for n in r.nodes):
            c = _candidate(graph, base, k, r, options, r.tensor in held, [half[k] for half in statistics.halves])
            if r.fold_only:  # it may be counted by channel
                c = replace(c, readers=Readers.equal(len(statistics.halves[0][k].counts)))
            far = c.shares and beyond(r, c.mode, rules_of(options.runtime)) is not None
            found.append(_step_alone(c) if far else c)
    if options.mode == "integer":
        tried = {c.index: _one_copy(c) for c in found if c.shares}
        lost = {id(d) for d in losing(graph.model, list(tried.values()))}
        # only their steps can be changed
        found = [_step_alone(c) if id(tried.get(c.index)) in lost else c for c in found]
    return found if options.rescale else [c for c in found if c.shares]


def _step_alone(c: Candidate) -> Candidate:
    """A candidate that gets no copies."""
    return replace(c, shares={}, macs=0.0)


def _one_copy(c: Candidate) -> Decision:
    """A copy of every channel of a candidate."""
    one = np.ones(c.region.walk.channels, np.int64)
    return Decision(c.region, c.mode, one, 0 * one)


def _reach(region: Region, seen: Sequence[Histogram], function: Function | None) -> float:
    """The largest value that was seen and counts, as a share of what the quantizer can express on its side."""
    q, found = region.quantizer, 0.0
    sides = (1, max(h.high for h in seen), q.x_clip), (-1, -min(h.low for h in seen), q.x_low)
    for sign, far, ends in sides:
        end = float(ends.max())
        if end > 0 and np.isfinite(far) and counts_beyond(function, sign * end, sign * far):
            found = max(found, far / end)
    return found


def _candidate(
    graph: Graph, base: Mapping[int, int], k: int, r: Region, options: PlanOptions, held: bool,
    seen: Sequence[Histogram],
) -> Candidate:  # fmt: skip
    mode: Mode = options.mode
    function = function_behind(graph, r)
    found = factors(graph, r, options.copies, _reach(r, seen, function)) if options.rescale else ()
    steps = np.unique(np.append(found, 1.0))
    alone = Candidate(
        k, r, Readers.equal(), "early" if mode == "early" else "late", 0.0, {}, steps, r.ceiling, function=function
    )
    if not r.walk.weights:
        return alone
    alone = replace(alone, readers=readers(graph, r))
    shares = {id(n): _share(graph, r, n) for n in r.walk.weights}
    macs = sum(base[n] * share for n, share in shares.items())
    one = np.ones(r.walk.channels, np.int64)
    full = replace(alone, macs=macs, shares=shares, uniform=r.walk.groups > 1)
    if (
        mode != "late"
        and isinstance(r.early, Early)
        and (early_mode.check(graph, r, Decision(r, "early", one, 0 * one).wide) is None)
    ):
        macs += base[id(r.early.layer)] / r.walk.channels
        limit = np.inf
        if r.early.copies < 1 << 19:  # an explicit bound: (n + 1) * X_clip must stay below it at any step
            limit = (r.early.copies + 1) * float(r.quantizer.x_clip.max())
        return replace(full, mode="early", macs=macs, limit=min(limit, r.ceiling))
    if mode == "early" or held:  # only its step can be changed
        return replace(alone, mode="early")
    return replace(full, mode="late")


def _share(graph: Graph, r: Region, node: NodeProto) -> float:
    """Which share of a reader's input one copy of a region's channel adds."""
    k = next(i for i, n in enumerate(r.walk.weights) if n is node)
    layer = read_layer(graph, node)
    inner = r.walk.columns[k].size / r.walk.channels
    return inner / (r.walk.columns[k].size if layer is None else layer.inputs)


def factors(graph: Graph, region: Region, copies: int, reach: float = np.inf) -> Array:
    """Steps that may be chosen, as factors of the old one: finer ones as far as the readers' biases allow.

    Args:
        graph: the graph, not edited.
        region: the region.
        copies: most copies a channel, which a finer step may need to keep the range.
        reach: by how much the largest value that was seen exceeds the old range: no step clips less than one that
            just holds it.
    """
    q = region.quantizer
    if q.scale.size > 1 or check_rescale(graph, region, q.scale * COARSER) is not None:
        return np.ones(0)
    coarse = [f for f in COARSE if f <= reach * COARSER]
    found = np.append(coarse, np.geomspace(COARSER, 1 / (copies + 1), STEPS))
    clip = graph.producer.get(region.tensor)
    if clip is not None and is_op(clip, "Clip"):
        # beyond its bounds a coarser step only rounds more, and costs a kernel: onnxruntime computes layer, Clip
        # and quantizer in one as long as the quantizer clips as much as the Clip does
        low, high = clip_bounds(graph, clip)
        top, bottom = float(q.x_clip.max()), float(q.x_low.max())
        ends = max(1.0, high / top if top > 0 else 1.0, -low / bottom if bottom > 0 else 1.0)
        found = found[found <= ends * (1 + 1e-6)]
    if all(check_rescale(graph, region, q.scale * f) is None for f in found[[0, -1]]):
        return found
    return np.asarray([f for f in found if check_rescale(graph, region, q.scale * f) is None])


def room(c: Candidate, step: int, copies: int) -> tuple[int, int]:
    """Most copies on the upper and the lower side at one step."""
    q = c.region.quantizer
    top = float(q.x_clip.max()) * float(c.steps[step])
    most = copies if q.float_dtype == np.float32 else min(copies, HALF_COPIES)
    most = most if c.shares or c.folds else 0
    up = most if top > 0 else 0
    if c.limit < np.inf:
        up = min(up, int(c.limit / top * (1 + 1e-6)) - 1) if top > 0 else 0
    both = c.mode == "late" or c.full
    low = most if both and bool(np.any(q.x_low > 0)) and c.region.bounds[0] < 0 else 0
    alive = [int(n.max()) for n in c.region.alive(q.scale * c.steps[step], c.full)]
    return min(up, alive[0]), min(low, alive[1])
