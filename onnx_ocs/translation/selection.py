"""The paper's selection: the same share of channels in every tensor, those with most mass beyond the range.

A copy passes on what lies above it, so the i-th copy's mass is that of all slots from the i-th up: with one copy the
paper's sum in [X_clip, 2 X_clip] (OCS+, section 3), and never more for a later copy than for an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.estimate import estimate
from onnx_ocs.calibration.outliers import Outliers, measure
from onnx_ocs.calibration.stream import stream
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import HALF_COPIES, Quantized, Region, Unreadable
from onnx_ocs.translation import early
from onnx_ocs.translation.decision import Decision, Mode
from onnx_ocs.translation.kernels import behind_kernels, losing
from onnx_ocs.translation.together import agreed

__all__ = ["Selection", "aligned", "find_outliers"]


def aligned(copies: int, channels: int, align: int, most: int) -> int:
    """How many copies to make so that all channels together are a multiple: the next number up, else down.

    Args:
        copies: how many are wanted.
        channels: how many channels there are.
        align: what the sum of both is to be a multiple of.
        most: how many copies can be made.
    """
    up = copies + -(channels + copies) % align
    return max(up - align * max(0, -(-(up - most) // align)), 0)


@dataclass(frozen=True)
class Selection:
    """Which channels are widened, and where their copies are made.

    Attributes:
        ratio: mean number of copies a channel, the paper's k, the same in every tensor.
        copies: most copies a channel.
        mode: "early", "late", "auto": early wherever it is exact; "integer": as "auto", but nowhere where a layer would
            lose its integer kernel.
        halved: whether a channel and its copy get half of the value each (OCS); then both sides' outliers count.
        align: what the number of a tensor's channels, copies included, is to be a multiple of.
    """

    ratio: float
    copies: int
    mode: Mode
    halved: bool = False
    align: int = 1

    def decide(
        self, graph: Graph, regions: Sequence[Quantized], outliers: Mapping[int, Outliers]
    ) -> list[Decision | Refusal]:
        """What to do with every region; edits nothing.

        Args:
            graph: the graph, not edited.
            regions: its regions.
            outliers: mass beyond the range, by index of the region.

        Returns:
            For each region a decision, or why it is left alone.
        """
        held = behind_kernels(graph, regions) if self.mode == "integer" else set()
        decisions = [
            r.refusal
            if isinstance(r, Unreadable)
            else r.refusal or self._decide(graph, r, outliers[k], r.tensor in held)
            for k, r in enumerate(regions)
        ]
        decisions = [d for d in agreed(graph, decisions) if d is not None]
        if self.mode == "integer":
            lost = {id(d) for d in losing(graph.model, [d for d in decisions if isinstance(d, Decision)])}
            for k, d in enumerate(decisions):
                if id(d) in lost:
                    at = label(regions[k].nodes[0])
                    decisions[k] = Refusal("mode", "its copies would cost a layer its integer kernel", at)
        return decisions

    def _decide(self, graph: Graph, region: Region, outliers: Outliers, held: bool) -> Decision | Refusal:
        why: Refusal | None = None
        q, walk = region.quantizer, region.walk
        upper, lower = outliers.upper, outliers.lower
        if q.float_dtype != np.float32:  # i * X_clip is held ever less exactly
            upper, lower = upper[:, :HALF_COPIES], lower[:, :HALF_COPIES]
        if not self.halved:  # copies that nothing can reach are none
            upper, lower = (m[:, : int(n.max())] for m, n in zip((upper, lower), region.alive(), strict=True))
        if self.halved:
            if walk.integers_leave:
                at = label(region.nodes[0])
                return Refusal("integers_leave", "somebody else reads the integers, which halving would change", at)
            upper, lower = upper + lower, lower[:, :0]
        if self.mode != "late":
            if isinstance(region.early, Early):
                first = upper[:, : min(self.copies, region.early.copies)], lower[:, :0]
                if region.full and not self.halved:
                    first = _of_whole_ranges(region, outliers)
                chosen = self._select(region, *first)
                if isinstance(chosen, Refusal):
                    return chosen
                decision = Decision(region, "early", *chosen, self.halved)
                why = early.check(graph, region, decision.wide)
                if why is None:
                    return decision
            else:
                why = region.early
            if self.mode == "early" or held:
                assert why is not None
                late = "it would cost an integer kernel in late mode, and is " if held else ""
                return Refusal("mode", f"{late}not exact in early mode: {why.message} ({why.code})", why.node)
        chosen = self._select(region, upper, lower)
        return chosen if isinstance(chosen, Refusal) else Decision(region, "late", *chosen, self.halved)

    def _select(self, region: Region, upper: Array, lower: Array) -> tuple[Array, Array] | Refusal:
        """The slots (channel, side, copy) with most mass, ratio * C of them.

        Grouped readers need the same number in each group, with the ratio rounded to whole copies.
        """
        walk = region.walk
        at = label(region.nodes[0])
        channels = walk.channels
        groups = walk.groups
        above = (np.cumsum(m[:, ::-1], axis=1)[:, ::-1] for m in (upper, lower))
        mass = np.concatenate(list(above), axis=1)
        slots = mass.shape[1]
        if not np.any(mass > 0):
            return Refusal.of("no_outliers", at)
        quota = int(np.floor(self.ratio * channels / groups + 0.5))
        if quota < 1:
            return Refusal("ratio", f"ratio {self.ratio:g} of {channels // groups} channels leaves no copy", at)
        table = mass.reshape(groups, -1)
        quota = min(quota, table.shape[1])
        # a stable sort of -mass keeps earlier copies before later ones where masses are equal
        order = np.argsort(-table, axis=1, kind="stable")[:, :quota]
        taken = np.zeros(table.shape, bool)
        np.put_along_axis(taken, order, True, axis=1)
        if groups == 1:
            taken &= table > 0
            if self.align > 1:  # filled up with the next best: copies that hold nothing do no harm
                free = np.arange(slots) < upper.shape[1]
                score = np.where((mass > 0) | free, mass, -1.0)
                count = aligned(int(taken.sum()), channels, self.align, int((score >= 0).sum()))
                taken.reshape(-1)[:] = False
                taken.reshape(-1)[np.argsort(-score, axis=None, kind="stable")[:count]] = True
                if not count:
                    return Refusal(
                        "ratio", f"no number of copies makes {channels} channels a multiple of {self.align}", at
                    )
        taken = taken.reshape(channels, slots)
        n = upper.shape[1]
        return taken[:, :n].sum(1).astype(np.int64), taken[:, n:].sum(1).astype(np.int64)


def _of_whole_ranges(region: Region, outliers: Outliers) -> tuple[Array, Array]:
    """Mass that copies of a whole range save, which hold about what two others do."""
    pairs = (np.add.reduceat(m, np.arange(0, m.shape[1], 2), axis=1) for m in (outliers.upper, outliers.lower))
    upper, lower = (m[:, : int(n.max())] for m, n in zip(pairs, region.alive(full=True), strict=True))
    return upper, lower


def find_outliers(
    model: onnx.ModelProto, graph: Graph, regions: Sequence[Quantized], copies: int, context: Context
) -> dict[int, Outliers]:
    """Measure on the context's samples, or estimate where there are none.

    Raises:
        UserError: the model does not run on the samples.
    """
    if context.samples is None:
        return estimate(graph, regions, copies)
    wanted = [r for r in regions if isinstance(r, Region)]
    return measure(regions, copies, stream(model, regions, wanted, context))
