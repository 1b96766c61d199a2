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
from typing import Any, ClassVar, Literal

import numpy as np
import onnx

from onnx_ocs import early
from onnx_ocs.errors import UserError
from onnx_ocs.graph import Array, Graph, label
from onnx_ocs.manager import Context, PassResult, history, stamp
from onnx_ocs.outliers import Outliers, find_outliers
from onnx_ocs.planner import early_or_late
from onnx_ocs.plans import Plan
from onnx_ocs.quantizer import Refusal
from onnx_ocs.region import HALF_COPIES, PRINCIPLE, Early, Region, find_regions
from onnx_ocs.rescale import check_rescale, rescale
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.stats import fingerprint
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
        plan: apply this plan instead; `ratio`, `copies` and `mode` are then not used.
    """

    ratio: float = 0.5
    copies: int = 1
    mode: Literal["auto", "early", "late"] = "auto"
    plan: Plan | None = None

    name: ClassVar[str] = "translate"
    version: ClassVar[str] = "1"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Translate what can be translated, in place.

        Args:
            model: the model.
            context: with calibration samples the outliers are measured, without they are estimated.

        Returns:
            One report entry for each quantized activation.
        """
        graph = Graph(model)
        if history(model):
            return PassResult(False, [entry(r, r.refusal) for r in find_regions(graph, {}, "already_translated")])
        shapes = infer_shapes(model)
        regions = find_regions(graph, shapes)
        if self.plan is not None:
            return self._apply(model, graph, regions, self.plan)
        outliers = find_outliers(model, graph, regions, self.copies, context)
        decisions = self.decide(graph, regions, outliers)
        accepted = [d for d in decisions if isinstance(d, Decision)]
        if not accepted:
            return PassResult(False, [entry(r, d) for r, d in zip(regions, decisions, strict=True)])
        widened = widen(graph, shapes, accepted)
        graph.commit(lambda node: stamp(node, self.name, self.version))
        return PassResult(True, entries(regions, decisions, widened))

    def _apply(self, model: onnx.ModelProto, graph: Graph, regions: Sequence[Region], plan: Plan) -> PassResult:
        """Apply a plan: first the steps, then the copies, each on a graph read afresh."""
        if plan.model and plan.model != fingerprint(model) and not history(model):
            raise UserError("the plan was made for another model: plan again")
        planned = dict(plan.match(regions))
        refused: dict[int, Refusal] = {}
        for k, p in planned.items():
            q = regions[k].quantizer
            if q is not None and not np.array_equal(q.scale, p.scale):
                why = check_rescale(graph, regions[k], p.scale)
                if why is not None:
                    refused[k] = why
                    continue
                rescale(graph, regions[k], p.scale)
        graph.commit(lambda node: stamp(node, self.name, self.version))
        fresh = Graph(model)
        shapes = infer_shapes(model)
        again = {(r.tensor, r.outputs): r for r in find_regions(fresh, shapes)}
        decisions: list[Decision | Refusal | None] = []
        for k, r in enumerate(regions):
            wanted = planned.get(k)
            code = "excluded"
            if wanted is None or k in refused:
                decisions.append(refused.get(k) or r.refusal or Refusal(code, PRINCIPLE[code], label(r.nodes[0])))
            elif wanted.copies.any() or wanted.copies_low.any():
                decisions.append(early_or_late(fresh, again[r.tensor, r.outputs], wanted))
            else:
                decisions.append(None)
        widened = widen(fresh, shapes, [d for d in decisions if isinstance(d, Decision)])
        fresh.commit(lambda node: stamp(node, self.name, self.version))
        changed = bool(planned.keys() - refused.keys())
        report = entries(regions, decisions, widened)
        done = {id(n): p for k, p in planned.items() if k not in refused for n in _carried(regions[k])}
        for k, r in enumerate(regions):
            followed = next((done[id(n)] for n in r.nodes if id(n) in done), None)
            if (
                followed is not None and report[k]["status"] == "refused"
            ):  # its step followed the tensor's that it carries on
                none = [0] * (report[k]["channels"] or 0)
                report[k] |= {"status": "applied", "mode": "carried", "reason": None}
                report[k] |= {"copies": none, "copies_low": none}
            if followed is not None:
                report[k]["scale"] = followed.scale.tolist()
        for k, p in planned.items():
            if k not in refused:
                report[k] |= {"status": "applied", "scale": p.scale.tolist()}
                if decisions[k] is None:
                    zeros = np.zeros_like(p.copies).tolist()
                    report[k] |= {"mode": "rescale", "copies": zeros, "copies_low": zeros, "reason": None}
        return PassResult(changed, report)

    def decide(
        self, graph: Graph, regions: Sequence[Region], outliers: Mapping[int, Outliers]
    ) -> list[Decision | Refusal]:
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

    def _decide(self, graph: Graph, region: Region, outliers: Outliers) -> Decision | Refusal:
        why: Refusal | None = None
        assert region.quantizer is not None
        if region.quantizer.float_dtype != np.float32:  # i * X_clip is held ever less exactly
            outliers = Outliers(outliers.upper[:, :HALF_COPIES], outliers.lower[:, :HALF_COPIES], outliers.measured)
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

        A copy passes on what lies above it, so the i-th copy's mass is that of all slots from the i-th up: with
        one copy the paper's sum in [X_clip, 2 X_clip], and never more for a later copy than for an earlier one.
        Grouped readers need the same number in each group; `even` asks that of depthwise ones too (in early mode,
        where they would lose their integer kernel otherwise), with the ratio rounded to whole copies.
        """
        walk = region.walk
        assert walk is not None
        at = label(region.nodes[0])
        channels = walk.channels
        groups = channels if even and walk.depthwise else walk.groups
        above = (np.cumsum(m[:, ::-1], axis=1)[:, ::-1] for m in (upper, lower))
        mass = np.concatenate(list(above), axis=1)
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


def _carried(region: Region) -> Sequence[onnx.NodeProto]:
    return () if region.walk is None else region.walk.carried


def entries(
    regions: Sequence[Region], decisions: Sequence[Decision | Refusal | None], widened: Sequence[Widened]
) -> list[dict[str, Any]]:
    """The report's entries; a region that only carries another's copies on counts as applied."""
    own = {id(w.decision): w for w in widened}
    carried = {t: w for w in widened for t in w.carried}
    return [
        entry(r, d, own.get(id(d)) if isinstance(d, Decision) else carried.get(r.tensor))
        for r, d in zip(regions, decisions, strict=True)
    ]


def entry(region: Region, decision: Decision | Refusal | None, widened: Widened | None = None) -> dict[str, Any]:
    """The report's entry for one region."""
    q, walk = region.quantizer, region.walk
    e: dict[str, Any] = {
        "status": "refused",
        "pass": Translate.name,
        "tensor": region.tensor,
        "quantizers": list(region.outputs),
        "axis": None if walk is None else walk.axis,
        "channels": None if walk is None else walk.channels,
        "activation": region.activation.kind,
        "producer": region.activation.producer,
        "scale_before": None if q is None else q.scale.tolist(),
        "scale": None if q is None else q.scale.tolist(),
        "zero_point": None if q is None else q.zero_point.tolist(),
        "qmin": None if q is None else q.qmin,
        "qmax": None if q is None else q.qmax,
        "x_clip": None if q is None else q.x_clip.tolist(),
        "copies": [],
        "copies_low": [],
        "mode": None,
        "consumers": [] if walk is None else [label(n) for n in walk.weights],
        "reason": None,
    }
    if isinstance(decision, Decision) and widened is not None:
        e |= {
            "status": "applied",
            "copies": decision.copies.tolist(),
            "copies_low": decision.copies_low.tolist(),
            "mode": decision.mode,
            "consumers": widened.consumers,
        }
    elif widened is not None:
        assert widened.decision.region.quantizer is not None
        _, wide = next(widened.quantized[o] for o in region.outputs if o in widened.quantized)
        e["scale"] = widened.decision.region.quantizer.scale.tolist()
        up, low = wide.copies()
        e |= {
            "status": "applied",
            "axis": wide.axis,
            "channels": wide.narrow,
            "copies": up.tolist(),
            "copies_low": low.tolist(),
            "mode": "carried",
        }
    elif isinstance(decision, Refusal):
        e["reason"] = decision.as_dict()
    return e
