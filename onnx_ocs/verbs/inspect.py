"""Inspect: every quantized activation, what it clips, and what could be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from onnx_ocs.calibration.context import Context, Progress, quiet
from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.outliers import Outliers
from onnx_ocs.calibration.samples import Samples, Source
from onnx_ocs.compensation.entries import branch_entry
from onnx_ocs.measurement.attribution import Loss, Share, find_loss
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.branches import read_branches
from onnx_ocs.records.history import history
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions, folded_bounds
from onnx_ocs.regions.flaws import flaws
from onnx_ocs.regions.region import Quantized
from onnx_ocs.regridding.run import found_killers
from onnx_ocs.report.plans import LossEntry, UnmendableEntry
from onnx_ocs.report.report import assemble
from onnx_ocs.report.verdict import advise
from onnx_ocs.targets.registry import complaints
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.entries import entry
from onnx_ocs.translation.selection import find_outliers
from onnx_ocs.verbs.checks import answers_for_the_model, load
from onnx_ocs.verbs.common import (
    Model,
    guess_notes,
    open_model,
    proof_samples,
    ranked_by,
    reference_model,
    sample_shapes,
    with_errors,
)

__all__ = ["inspect"]

UNMEASURED = "what each quantizer costs was not measured: onnxruntime does not run the model switch by switch"
WEIGHED = 16  # samples on which the weights' cost is measured


@answers_for_the_model
def inspect(
    model: Model,
    calib: Source | None = None,
    float_model: Model | None = None,
    passes: Sequence[Pass] = (),
    seed: int = 0,
    limit: int | None = None,
    progress: Progress = quiet,
    convert_qoperator: bool = False,
    judging: Judging = EVERYTHING,
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
        convert_qoperator: convert integer operators (QLinear..., ConvInteger, ...) to QDQ first, where that is exact.
        judging: which outputs count, and how much, where the loss is shared out.

    Returns:
        The report; regions have the status "candidate" or "refused".

    Raises:
        UserError: the model or the samples cannot be used.
    """
    opened = open_model(model, calib, limit, seed, convert_qoperator, judging)
    proto, samples = opened.model, opened.samples
    translate = next((p for p in passes if isinstance(p, Translate)), Translate())
    floats = None if float_model is None else load(float_model)
    bounded = folded_bounds(proto, floats)
    context = Context(samples, limit, seed, progress, floats=floats, bounded=bounded, judging=judging)
    return _inspected(proto, context, translate, opened.notes)


def _inspected(
    proto: onnx.ModelProto, context: Context, translate: Translate, opening: Sequence[str]
) -> dict[str, Any]:
    """The report on a model that was read."""
    samples, limit, floats = context.samples, context.limit, context.floats
    graph, shapes = Graph(proto), infer_shapes(proto)
    regions = find_regions(graph, shapes, bounded=context.bounded)
    entries = _entries(proto, graph, regions, translate, context)
    price = cost(proto, sample_shapes(proto, lambda: proof_samples(proto, samples, context.seed)))
    notes = [*opening, *_earlier(proto), *guess_notes(proto, context.bounded), *flaws(proto, floats)]
    notes += complaints(graph, translate.runtime)
    qualities, against, loss, grids = None, None, None, list[dict[str, Any]]()
    if samples is not None:
        reference, against = reference_model(proto, floats)
        now = compare(reference, [proto], samples, limit, judging=context.judging)[0]
        qualities = now, now
        grids = found_killers(proto, regions, reference, now, context)
        entries = with_errors(entries, proto, None, context)
        loss = find_loss(proto, graph, regions, shapes, context, price.macs)
        if loss is None:
            notes.append(UNMEASURED)
        else:
            entries = _with_shares(entries, loss)
            notes += _weights_cost(proto, floats, regions, samples, limit, loss)
    carried = [branch_entry(b) for b in read_branches(proto)]
    report = assemble(
        "inspect", context.seed, regions=entries, compensations=carried, grids=grids, costs=(price, price),
        qualities=qualities, reference=against, ranking=ranked_by(samples, limit), notes=notes,
    )  # fmt: skip
    if loss is not None:
        report["loss"] = _loss_entry(loss, regions)
    report["verdict"] = advise(report)
    return dict(report)


def _entries(
    model: onnx.ModelProto, graph: Graph, regions: Sequence[Quantized], translate: Translate, context: Context
) -> tuple[dict[str, Any], ...]:
    """One entry for each region: what could be done, or why nothing."""
    outliers = find_outliers(model, graph, regions, translate.copies, context)
    decisions = translate.selection.decide(graph, regions, outliers)
    return tuple(
        _entry(translate.name, r, d, outliers.get(k)) for k, (r, d) in enumerate(zip(regions, decisions, strict=True))
    )


def _entry(
    by: str, region: Quantized, decision: Decision | Refusal | None, outliers: Outliers | None
) -> dict[str, Any]:
    e = entry(by, region, decision if not isinstance(decision, Decision) else None)
    if isinstance(decision, Decision):
        e |= {"status": "candidate", "mode": decision.mode}
        e |= {"copies": decision.copies.tolist(), "copies_low": decision.copies_low.tolist()}
    if outliers is not None:
        e |= {"share_clipped": outliers.share_clipped, "range_used": outliers.range_used}
    return e


def _weights_cost(
    model: onnx.ModelProto,
    floats: onnx.ModelProto | None,
    regions: Sequence[Quantized],
    samples: Samples,
    limit: int | None,
    loss: Loss,
) -> list[str]:
    """A note where the weights cost more than all quantized activations together."""
    if floats is None:
        return []
    weights = compare(floats, [reference(model, regions)], samples, min(limit or WEIGHED, WEIGHED))[0].sqnr_db
    activations = loss.everything.sqnr_db
    if weights is None or (activations is not None and activations <= weights):
        return []
    told = "nothing" if activations is None else f"{activations:.1f} dB"
    return [
        f"the weights alone cost more ({weights:.1f} dB) than all quantized activations ({told}): reconstruct with "
        "--float mends weights, more weight bits or steps per channel would, too; copies do not"
    ]


def _earlier(model: onnx.ModelProto) -> list[str]:
    """A note about a file that was rewritten before."""
    before = history(model)
    return [f"this file has been rewritten: {', '.join(e.get('pass', '?') for e in before)}"] if before else []


def _with_shares(entries: Sequence[dict[str, Any]], loss: Loss) -> tuple[dict[str, Any], ...]:
    """The entries with what each quantizer costs by itself."""
    alone = {k: {"sqnr_alone_db": s.sqnr_db, "share_alone": s.share} for k, s in loss.alone.items()}
    return tuple({**e, **alone.get(k, {})} for k, e in enumerate(entries))


def _loss_entry(loss: Loss, regions: Sequence[Quantized]) -> LossEntry:
    return {
        "samples": loss.samples,
        "sqnr_all_db": loss.everything.sqnr_db,
        "share_all": loss.everything.share,
        "sqnr_mendable_db": loss.mendable.sqnr_db,
        "share_mendable": loss.mendable.share,
        "sqnr_unmendable_db": loss.unmendable.sqnr_db,
        "share_unmendable": loss.unmendable.share,
        "unmendable": [_unmendable(regions[k], loss.alone[k]) for k in loss.beyond],
    }


def _unmendable(region: Quantized, alone: Share) -> UnmendableEntry:
    why = region.refusal
    return {
        "tensor": region.tensor,
        "code": None if why is None else why.code,
        "sqnr_db": alone.sqnr_db,
        "share": alone.share,
    }
