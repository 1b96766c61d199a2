"""translate: clipped outliers live on in extra channels (OCS+).

    a_hat = Q(a) + Q(relu(a - X_clip)) + ... + Q(relu(a - n * X_clip))       (OCS+, eq. 6)

is exactly the quantizer with the same step and the upper bound (n + 1) * (qmax - zero_point), and the readers add the
copies up by themselves when their weight is repeated along the input channels (eq. 10).  With n = 1 a b-bit
activation carries b + 1 bits.

Will not rewrite, and says why: tensors that no Conv/ConvTranspose/Gemm/MatMul with a constant weight reads; tensors
whose values cannot leave the quantizer's range; a ReLU6 folded into Q; float8, block-wise and run-time parameters;
what an earlier run has rewritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_ocs import early
from onnx_ocs.graph import Array, Graph, label
from onnx_ocs.outliers import Outliers
from onnx_ocs.quantizer import Refusal
from onnx_ocs.region import PRINCIPLE, Early, Region
from onnx_ocs.shapes import Shape
from onnx_ocs.widen import Decision, Widened, widen

__all__ = ["Translate"]


@dataclass(frozen=True)
class Translate:
    """Outlier translation.

    Attributes:
        ratio: mean number of copies a channel, the paper's k, the same in every tensor.
        copies: most copies a channel.
        mode: "early" (the producer makes the copies), "late" (made in float behind the activation), or "auto": early
            wherever it is exact, late elsewhere.
    """

    ratio: float = 0.5
    copies: int = 1
    mode: Literal["auto", "early", "late"] = "auto"

    name = "translate"
    version = "1"

    def decide(self, graph: Graph, regions: Sequence[Region], outliers: Mapping[int, Outliers]) -> list[Decision | Refusal]:
        """What to do with every region; pure.

        Args:
            graph: the graph, not edited.
            regions: its regions.
            outliers: mass beyond the range, by index of the region.

        Returns:
            For each region a decision, or why it is left alone.
        """
        return [
            r.refusal if r.refusal is not None else self._decide(graph, r, outliers[k]) for k, r in enumerate(regions)
        ]

    def rewrite(self, graph: Graph, shapes: Mapping[str, Shape], decisions: Sequence[Decision]) -> list[Widened]:
        """Apply accepted decisions to the graph."""
        return widen(graph, shapes, decisions)

    def _decide(self, graph: Graph, region: Region, outliers: Outliers) -> Decision | Refusal:
        why: Refusal | None = None
        if self.mode != "late":
            if isinstance(region.early, Early):
                upper = outliers.upper[:, : min(self.copies, region.early.copies)]
                chosen = self._select(region, upper, upper[:, :0], even=self.mode == "early")
                if isinstance(chosen, Refusal):
                    return chosen
                decision = Decision(region, "early", *chosen)
                why = early.check(graph, region, decision.wide)
                if why is None:
                    return decision
            else:
                why = region.early
            if self.mode == "early":
                assert why is not None
                return Refusal("mode", f"not exact in early mode: {why.message} ({why.code})", why.node)
        chosen = self._select(region, outliers.upper, outliers.lower, even=False)
        return chosen if isinstance(chosen, Refusal) else Decision(region, "late", *chosen)

    def _select(self, region: Region, upper: Array, lower: Array, even: bool) -> tuple[Array, Array] | Refusal:
        """The slots (channel, side, copy) with most mass, ratio * C of them.

        A later copy is worth nothing without the earlier ones, so masses are made non-increasing along the copies.
        Grouped readers need the same number in each group; `even` asks that of depthwise ones too (in early mode,
        where they would lose their integer kernel otherwise), with the ratio rounded to whole copies.
        """
        walk = region.walk
        assert walk is not None
        at = label(region.nodes[0])
        channels = walk.channels
        groups = channels if even and walk.depthwise else walk.groups
        mass = np.concatenate([np.minimum.accumulate(upper, axis=1), np.minimum.accumulate(lower, axis=1)], axis=1)
        slots = mass.shape[1]
        if not np.any(mass > 0):
            return Refusal("no_outliers", PRINCIPLE["no_outliers"], at)
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
        taken = taken.reshape(channels, slots)
        n = upper.shape[1]
        return taken[:, :n].sum(1).astype(np.int64), taken[:, n:].sum(1).astype(np.int64)
