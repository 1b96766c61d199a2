"""Apply a plan: first the steps, then the copies, each on a graph read afresh."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.planning.plan import Plan, PlannedRegion, early_or_late
from onnx_ocs.records.history import rewritten, stamp
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region, adjustable
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.entries import entries
from onnx_ocs.translation.rescale import rescale
from onnx_ocs.translation.together import agreed
from onnx_ocs.translation.widen import widen

__all__ = ["apply_plan"]


def apply_plan(
    model: onnx.ModelProto,
    plan: Plan,
    by: Pass,
    bounded: Bounded | None = None,
    signed: bool = False,
    original: onnx.ModelProto | None = None,
) -> PassResult:
    """Change the steps and make the copies that a plan asks for, in place.

    Args:
        model: the model.
        plan: what is to be done.
        by: the pass that does it; its name and version are written on all that is edited.
        bounded: which tensors the float model bounds at 6.
        signed: whether signed integers must keep their sign.
        original: the model before the run, whose biases are taken where a step has changed since.

    Returns:
        One report entry for each quantized activation.

    Raises:
        UserError: the plan was made for another model.
    """
    if plan.model and plan.model != fingerprint(model) and not rewritten(model):
        raise UserError("the plan was made for another model: plan again")
    graph = EditableGraph(model)
    regions = find_regions(graph, infer_shapes(model), bounded=bounded)
    planned = dict(plan.match(regions))
    changeable = adjustable(regions)
    refused = _rescale(graph, changeable, planned, None if original is None else Graph(original))
    graph.commit(lambda node: stamp(node, by.name, by.version))
    fresh, shapes = EditableGraph(model), infer_shapes(model)
    now = find_regions(fresh, shapes, bounded=bounded)
    decisions = _decide(fresh, now, regions, planned, refused, plan.excluded)
    widened = widen(fresh, shapes, [d for d in decisions if isinstance(d, Decision)], signed)
    fresh.commit(lambda node: stamp(node, by.name, by.version))
    done = {k: p for k, p in planned.items() if k not in refused}
    report = entries(by.name, regions, decisions, widened)
    _tell_steps(report, regions, changeable, done, decisions)
    return PassResult(bool(done), report)


def _rescale(
    graph: EditableGraph,
    regions: Mapping[int, Region],
    planned: Mapping[int, PlannedRegion],
    original: Graph | None,
) -> dict[int, Refusal]:
    """Change the steps; the regions where that cannot be done, with the reason."""
    refused: dict[int, Refusal] = {}
    for k, p in planned.items():
        if not _new_step(regions[k], p):
            continue
        why = check_rescale(graph, regions[k], p.scale)
        if why is not None:
            refused[k] = why
        else:
            rescale(graph, regions[k], p.scale, original)
    return refused


def _new_step(region: Region, planned: PlannedRegion) -> bool:
    return not np.array_equal(region.quantizer.scale, planned.scale)


def _decide(
    graph: Graph,
    now: Sequence[Quantized],
    regions: Sequence[Quantized],
    planned: Mapping[int, PlannedRegion],
    refused: dict[int, Refusal],
    excluded: Collection[str],
) -> list[Decision | Refusal | None]:
    """What each region gets: copies, nothing or a step alone (None), or a refusal, which is added to `refused`."""
    fresh = {r.key: r for r in now if isinstance(r, Region)}
    decisions: list[Decision | Refusal | None] = []
    for k, r in enumerate(regions):
        p = planned.get(k)
        found: Decision | Refusal | None = None
        if p is None or k in refused:
            code = "excluded" if r.tensor in excluded else "not_planned"
            found = refused.get(k) or r.refusal or Refusal.of(code, label(r.nodes[0]))
        elif p.copies.any() or p.copies_low.any():
            found = early_or_late(graph, fresh[r.key], p.alive(fresh[r.key]))
        decisions.append(found)
    decisions = agreed(graph, decisions)
    for k, p in planned.items():
        r, d = regions[k], decisions[k]
        if isinstance(d, Refusal) and k not in refused:
            if isinstance(r, Region) and _new_step(r, p):
                decisions[k] = None  # its step alone
            else:
                refused[k] = d
    return decisions


def _tell_steps(
    report: Sequence[dict[str, Any]],
    regions: Sequence[Quantized],
    changeable: Mapping[int, Region],
    done: Mapping[int, PlannedRegion],
    decisions: Sequence[Decision | Refusal | None],
) -> None:
    """Put the new steps into the report's entries, and those of tensors that carry a re-scaled one on."""
    by_node = {id(n): (p, changeable[k].quantizer) for k, p in done.items() for n in changeable[k].walk.carried}
    for e, r in zip(report, regions, strict=True):
        followed = next((by_node[id(n)] for n in r.nodes if id(n) in by_node), None)
        if followed is None or r.quantizer is None:
            continue
        if e["status"] == "refused":  # its step followed the tensor's that it carries on
            none = [0] * (e["channels"] or 0)
            e |= {"status": "applied", "mode": "carried", "reason": None, "copies": none, "copies_low": none}
        p, first = followed
        e["scale"] = (p.scale * (r.quantizer.scale / first.scale)).tolist()
    for k, p in done.items():
        report[k] |= {"status": "applied", "scale": p.scale.tolist()}
        if decisions[k] is None:
            zeros = np.zeros_like(p.copies).tolist()
            report[k] |= {"mode": "rescale", "copies": zeros, "copies_low": zeros, "reason": None}
