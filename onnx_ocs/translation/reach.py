"""What a target lets be made of a region: which copies it has operators for.

`Reaching` is the selection that keeps to it; the planner asks `beyond` before it counts on copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_ocs.calibration.outliers import Outliers
from onnx_ocs.errors import UserError
from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import FOLD_ONLY, Quantized, Region
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.targets.rules import Rules
from onnx_ocs.translation.decision import Decision, Mode
from onnx_ocs.translation.selection import Selection

__all__ = ["Reaching", "beyond", "mode_for"]


def beyond(region: Region, mode: str, rules: Rules) -> Refusal | None:
    """Why a target does not allow copies of a region.

    Args:
        region: the region.
        mode: "early" or "late", where the copies would be made.
        rules: the target's.

    Returns:
        The reason; None where it allows them.
    """
    at, walk = label(region.nodes[0]), region.walk
    q = region.quantizer
    bounded = q.dtype.kind == "i" and (q.qmin, q.qmax) != (-128, 127)  # others lose their sign, or are joined behind
    if mode == "late" and bounded and not rules.signed_late:
        return Refusal("target", f"{rules.name} computes copies of signed values made in float otherwise", at)
    clipped = (q.qmin, q.qmax) != integer_range(q.dtype)  # others are joined behind their quantizers
    if mode == "late" and q.scale.size > 1 and clipped and not rules.channel_late:
        return Refusal("target", f"{rules.name} does not load copies of an activation with a step for each channel", at)
    if rules.floats:
        return None
    if mode == "late":
        return Refusal("target", f"{rules.name} has no float operators, in which late copies are made", at)
    if walk.folded or walk.depthwise:
        node, why = walk.folded[0] if walk.folded else (walk.weights[0], "a depthwise layer reads it")
        told = f"{rules.name} has no float operators, in which copies are added up for '{label(node)}' ({why})"
        return Refusal("target", told, at)
    return None


def mode_for(mode: Mode, rules: Rules) -> Mode:
    """The mode for a target: where it has no float operators, copies are early or there are none.

    Raises:
        UserError: late copies are asked for.
    """
    if rules.floats:
        return mode
    if mode == "late":
        raise UserError(f"--mode late makes copies in float, and the target {rules.name} has no float operators")
    return "early"


@dataclass(frozen=True)
class Reaching(Selection):
    """A selection that makes nothing that a target does not allow.

    Attributes:
        runtime: the target.
    """

    runtime: Runtime = "ort"

    def decide(
        self, graph: Graph, regions: Sequence[Quantized], outliers: Mapping[int, Outliers]
    ) -> list[Decision | Refusal]:
        """What to do with every region, as `Selection.decide` says; refused where it is beyond the target's reach."""
        rules = rules_of(self.runtime)
        kept = replace(self, mode=mode_for(self.mode, rules))
        found = super(Reaching, kept).decide(graph, regions, outliers)
        return [self._within(d, rules, kept.mode != self.mode) for d in found]

    def _within(self, found: Decision | Refusal, rules: Rules, forced: bool) -> Decision | Refusal:
        """What was decided, or why the target does not allow it."""
        if isinstance(found, Decision):
            return beyond(found.region, found.mode, rules) or found
        if not rules.floats and found.code == FOLD_ONLY:
            told = f"{rules.name} has no float operators, in which copies are folded back"
            return Refusal("target", told, found.node)
        if forced and found.code == "mode":
            told = f"{rules.name} has no float operators for late copies: {found.message}"
            return Refusal("target", told, found.node)
        return found
