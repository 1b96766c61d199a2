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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import PassResult
from onnx_ocs.planning.plan import Plan, early_or_late
from onnx_ocs.records.history import history, stamp
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.translation.apply import apply
from onnx_ocs.translation.decision import Decision, Mode
from onnx_ocs.translation.entries import entries
from onnx_ocs.translation.rescale import rescale
from onnx_ocs.translation.selection import Selection
from onnx_ocs.translation.widen import widen

__all__ = ["Translate"]


@dataclass(frozen=True)
class Translate:
    """Outlier translation.

    Attributes:
        ratio: mean number of copies a channel, the paper's k, the same in every tensor.
        copies: most copies a channel.
        mode: "early" (the producer makes the copies), "late" (made in float behind the activation), or "auto": early
            wherever it is exact, late elsewhere; "integer": as "auto", but nowhere where a layer would lose its integer
            kernel.
        align: what the number of a tensor's channels, copies included, is to be a multiple of.
        plan: apply this plan instead; the other options are then not used.
    """

    ratio: float = 0.5
    copies: int = 1
    mode: Mode = "auto"
    align: int = 1
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
        if self.plan is None or history(model):
            return apply(model, context, self.selection, self)
        graph = Graph(model)
        return self._apply(model, graph, find_regions(graph, infer_shapes(model)), self.plan)

    @property
    def selection(self) -> Selection:
        """Which channels are widened where there is no plan."""
        return Selection(self.ratio, self.copies, self.mode, align=self.align)

    def _apply(self, model: onnx.ModelProto, graph: Graph, regions: Sequence[Region], plan: Plan) -> PassResult:
        """Apply a plan: first the steps, then the copies, each on a graph read afresh."""
        if plan.model and plan.model != fingerprint(model) and not history(model):
            raise UserError("the plan was made for another model: plan again")
        planned = dict(plan.match(regions))
        refused: dict[int, Refusal] = {}
        rescaled: set[int] = set()
        for k, p in planned.items():
            q = regions[k].quantizer
            if q is not None and not np.array_equal(q.scale, p.scale):
                why = check_rescale(graph, regions[k], p.scale)
                if why is not None:
                    refused[k] = why
                    continue
                rescale(graph, regions[k], p.scale)
                rescaled.add(k)
        graph.commit(lambda node: stamp(node, self.name, self.version))
        fresh = Graph(model)
        shapes = infer_shapes(model)
        again = {(r.tensor, r.outputs): r for r in find_regions(fresh, shapes)}
        decisions: list[Decision | Refusal | None] = []
        for k, r in enumerate(regions):
            wanted = planned.get(k)
            code = "excluded" if r.tensor in plan.excluded else "not_planned"
            if wanted is None or k in refused:
                decisions.append(refused.get(k) or r.refusal or Refusal.of(code, label(r.nodes[0])))
            elif wanted.copies.any() or wanted.copies_low.any():
                decision: Decision | Refusal | None = early_or_late(fresh, again[r.tensor, r.outputs], wanted)
                if isinstance(decision, Refusal):
                    if k in rescaled:
                        decision = None  # its step alone
                    else:
                        refused[k] = decision
                decisions.append(decision)
            else:
                decisions.append(None)
        widened = widen(fresh, shapes, [d for d in decisions if isinstance(d, Decision)])
        fresh.commit(lambda node: stamp(node, self.name, self.version))
        changed = bool(planned.keys() - refused.keys())
        report = entries(self.name, regions, decisions, widened)
        done = {id(n): (p, regions[k]) for k, p in planned.items() if k not in refused for n in _carried(regions[k])}
        for k, r in enumerate(regions):
            followed = next((done[id(n)] for n in r.nodes if id(n) in done), None)
            if (
                followed is not None and report[k]["status"] == "refused"
            ):  # its step followed the tensor's that it carries on
                none = [0] * (report[k]["channels"] or 0)
                report[k] |= {"status": "applied", "mode": "carried", "reason": None}
                report[k] |= {"copies": none, "copies_low": none}
            if followed is not None:
                p, by = followed
                assert r.quantizer is not None and by.quantizer is not None
                report[k]["scale"] = (p.scale * (r.quantizer.scale / by.quantizer.scale)).tolist()
        for k, p in planned.items():
            if k not in refused:
                report[k] |= {"status": "applied", "scale": p.scale.tolist()}
                if decisions[k] is None:
                    zeros = np.zeros_like(p.copies).tolist()
                    report[k] |= {"mode": "rescale", "copies": zeros, "copies_low": zeros, "reason": None}
        return PassResult(changed, report)


def _carried(region: Region) -> Sequence[onnx.NodeProto]:
    return () if region.walk is None else region.walk.carried
