"""Apply a plan: first the steps, then the copies, each on a graph read afresh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.planning.plan import Plan, early_or_late
from onnx_ocs.records.history import history, stamp
from onnx_ocs.refusals import PRINCIPLE, Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.entries import entries
from onnx_ocs.translation.rescale import rescale
from onnx_ocs.translation.widen import widen

__all__ = ["apply_plan"]


def apply_plan(model: onnx.ModelProto, plan: Plan, by: Pass) -> PassResult:
    """Change the steps and make the copies that a plan asks for, in place.

    Args:
        model: the model.
        plan: what is to be done.
        by: the pass that does it; its name and version are written on all that is edited.

    Returns:
        One report entry for each quantized activation.

    Raises:
        UserError: the plan was made for another model.
    """
    graph = Graph(model)
    regions = find_regions(graph, infer_shapes(model))
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
    graph.commit(lambda node: stamp(node, by.name, by.version))
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
    fresh.commit(lambda node: stamp(node, by.name, by.version))
    changed = bool(planned.keys() - refused.keys())
    report = entries(by.name, regions, decisions, widened)
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
