"""Inspect: every quantized activation, what it clips, and what could be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Source
from onnx_ocs.compensation.entries import branch_entry
from onnx_ocs.measurement.attribution import Loss, find_loss
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass
from onnx_ocs.records.branches import read_branches
from onnx_ocs.records.history import history
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized
from onnx_ocs.report.report import assemble
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.entries import entry
from onnx_ocs.translation.selection import find_outliers
from onnx_ocs.verbs.checks import answers_for_the_model, check_graph, check_qdq, load
from onnx_ocs.verbs.common import (
    Model,
    Progress,
    add_errors,
    quiet,
    ranked_by,
    reference_model,
    sample_shapes,
    samples_for,
)

__all__ = ["inspect"]


@answers_for_the_model
def inspect(
    model: Model,
    calib: Source | None = None,
    float_model: Model | None = None,
    passes: Sequence[Pass] = (),
    seed: int = 0,
    limit: int | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """What could be rewritten, and why not: one entry for each quantized activation.

    Args:
        model: a QDQ model or its path; not changed.
        calib: calibration samples; without them the outliers are estimated.
        float_model: the float model, as the reference of the quality figures (with `calib`).
        passes: the passes to plan for; default: translate.
        seed: of everything random.
        limit: most calibration samples.
        progress: called during long work.

    Returns:
        The report; regions have the status "candidate" or "refused".

    Raises:
        UserError: the model or the samples cannot be used.
    """
    proto = load(model)
    inside = check_qdq(proto)
    check_graph(proto)
    translate = next((p for p in passes if isinstance(p, Translate)), Translate())
    samples = None if calib is None else samples_for(proto, calib, seed)
    graph, shapes = Graph(proto), infer_shapes(proto)
    regions = find_regions(graph, shapes)
    context = Context(samples, limit, seed, progress)
    outliers = find_outliers(proto, graph, regions, translate.copies, context)
    before = history(proto)
    entries = []
    for k, (r, d) in enumerate(zip(regions, translate.selection.decide(graph, regions, outliers), strict=True)):
        e = entry(translate.name, r, d if not isinstance(d, Decision) else None)
        if isinstance(d, Decision):
            e |= {"status": "candidate", "mode": d.mode}
            e |= {"copies": d.copies.tolist(), "copies_low": d.copies_low.tolist()}
        if k in outliers:
            o = outliers[k]
            e |= {"share_clipped": o.share_clipped, "range_used": o.range_used}
        entries.append(e)
    shapes_in = sample_shapes(samples) if samples is not None else None
    price = cost(proto, shapes_in)
    notes = list(inside)
    if before:
        notes.append(f"this file has been rewritten: {', '.join(e.get('pass', '?') for e in before)}")
    qualities, against = None, None
    if samples is not None:
        ref, against = reference_model(proto, float_model)
        now = compare(ref, [proto], samples, limit)[0]
        qualities = (now, now)
        add_errors(entries, proto, None, context)
    carried = [branch_entry(b) for b in read_branches(proto)]
    report = assemble(
        "inspect",
        seed,
        entries,
        (price, price),
        qualities,
        against,
        ranked_by(samples),
        notes=notes,
        compensations=carried,
    )
    loss = None if samples is None else find_loss(proto, graph, regions, shapes, context, price.macs)
    if loss is not None:
        for k, share in loss.alone.items():
            entries[k] |= {"sqnr_alone_db": share.sqnr_db, "share_alone": share.share}
        report["loss"] = _loss_entry(loss, regions)
    elif samples is not None:
        notes.append("what each quantizer costs was not measured: onnxruntime does not run the model switch by switch")
    return report


def _loss_entry(loss: Loss, regions: Sequence[Quantized]) -> dict[str, Any]:
    groups = {"all": loss.everything, "mendable": loss.mendable, "unmendable": loss.unmendable}
    entry: dict[str, Any] = {"samples": loss.samples}
    for name, share in groups.items():
        entry |= {f"sqnr_{name}_db": share.sqnr_db, f"share_{name}": share.share}
    entry["unmendable"] = []
    for k in loss.beyond:
        why = regions[k].refusal
        one = {"tensor": regions[k].tensor, "code": None if why is None else why.code}
        entry["unmendable"].append(one | {"sqnr_db": loss.alone[k].sqnr_db, "share": loss.alone[k].share})
    return entry
