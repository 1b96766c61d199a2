"""The verb rewrite: prepare, run the passes, judge, prove, publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Source
from onnx_ocs.errors import UserError, VerificationError
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.latency import latencies
from onnx_ocs.measurement.quality import Quality, compare
from onnx_ocs.model import files
from onnx_ocs.model.tensors import all_tensors, is_external
from onnx_ocs.passes.registry import find_pass
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass, run_passes
from onnx_ocs.planning.make import make_plan
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.report.report import assemble
from onnx_ocs.verbs.checks import answers_for_the_model, check_graph, check_qdq, check_runs, load
from onnx_ocs.verbs.common import (
    VERIFIED_SAMPLES,
    Model,
    Progress,
    add_errors,
    quiet,
    ranked_by,
    reference_model,
    sample_shapes,
    samples_for,
)
from onnx_ocs.verbs.plan import _by_plan, _measure
from onnx_ocs.verbs.verify import _fed
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import verify as verify_models

__all__ = ["RewriteResult", "make_passes", "rewrite"]

LOSS_DB = 0.01  # a rewrite that loses more than this on the calibration data, and agreement too, is not applied


@dataclass(frozen=True)
class RewriteResult:
    """What `rewrite` did.

    Attributes:
        model: the rewritten model, or the input itself when there was nothing to rewrite.
        changed: whether anything was rewritten.
        report: the report (schema `onnx_ocs.report/1`).
        verification: the result; None when verification was switched off.
        path: the file that was written; None without `output`.
    """

    model: onnx.ModelProto
    changed: bool
    report: dict[str, Any]
    verification: Verification | None
    path: Path | None = None


@answers_for_the_model
def rewrite(
    model: Model,
    output: str | Path | None = None,
    calib: Source | None = None,
    float_model: Model | None = None,
    passes: Sequence[Pass] | None = None,
    options: PlanOptions | None = None,
    verify: bool = True,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress = quiet,
) -> RewriteResult:
    """Rewrite a QDQ model, verify the result, and report cost and gain.

    Args:
        model: the model or its path; not changed.
        output: where to write the result; only after the verification has passed, atomically.
        calib: calibration samples: a source as on the command line, an onnxruntime CalibrationDataReader, an iterable
            of feed dicts, or a dict of arrays (input name -> samples on the first axis).
        float_model: the float model, as the reference of the quality figures and what branches are fitted to.
        passes: what to run, in order; default: `Translate()`.
        options: plan steps and copies within a budget first (needs `calib`), for the `Translate` among the passes.
        verify: whether to verify.
        seed: of everything random.
        limit: most calibration samples.
        progress: called during long work with (what, done, total).

    Returns:
        The result; its model is the input when there was nothing to rewrite.

    Raises:
        UserError: the input or the options cannot be used.
        VerificationError: the result is not what it should be; nothing was written.  Its second argument is the
            report.
        PassError: a pass failed; nothing was written.
    """
    with ExitStack() as stack:
        return _rewrite(model, output, calib, float_model, passes, options, verify, seed, limit, progress, stack)


def _rewrite(
    model: Model,
    output: str | Path | None,
    calib: Source | None,
    float_model: Model | None,
    passes: Sequence[Pass] | None,
    options: PlanOptions | None,
    verify: bool,
    seed: int,
    limit: int | None,
    progress: Progress,
    stack: ExitStack,
) -> RewriteResult:
    if output is not None:
        files.check_writable(output, model if isinstance(model, (str, Path)) else None)
    original = load(model)
    inside = check_qdq(original)
    check_graph(original)
    if verify:
        check_runs(original)
    samples = None if calib is None else samples_for(original, calib, seed)
    chosen: list[Pass] = list(passes) if passes is not None else [Translate()]
    planned: dict[str, Any] = {}
    float_proto = None if float_model is None else load(float_model)
    context = Context(samples, limit, seed, progress, floats=float_proto)
    if options is not None and samples is not None and any(isinstance(p, Translate) for p in chosen):
        measure = _measure(original, chosen, context, float_proto)
        made, planned = make_plan(original, options, context, float_proto, measure=measure)
        chosen = _by_plan(chosen, made)
    new, results = run_passes(original, chosen, context)
    regions = [e for r in results.values() for e in r.regions]
    compensations = [e for r in results.values() for e in r.compensations]
    notes = inside + [n for r in results.values() for n in r.notes]
    changed = new is not original
    path = None if isinstance(model, onnx.ModelProto) else Path(model)
    staged = files.stage(new, output, path) if changed and output is not None else None
    if staged is not None:  # what has side files is written before it is verified: sessions map them from there
        stack.enter_context(closing(staged))
        new = files.load_model(staged.model)
    qualities, against = None, None
    if samples is not None:
        ref, against = reference_model(original, float_proto)
        models = [original, new] if changed else [original]
        total = samples.count() if limit is None else min(limit, samples.count())
        progress("comparing", 0, total)
        got = compare(ref, models, samples, limit, tick=_ticker(progress, "comparing", total))
        qualities = (got[0], got[-1])
        if changed and _loses(*qualities):
            notes.append(
                f"the rewrite lost on the calibration data ({_db(got[0])} -> {_db(got[1])}), so it was not applied"
            )
            new, changed, qualities = original, False, (got[0], got[0])
            for e in (*regions, *compensations):
                if e["status"] == "applied":
                    e["status"] = "refused"
                    e["reason"] = {"code": "loses", "message": notes[-1], "node": e.get("tensor", e.get("block"))}
        add_errors(regions, original, new if changed else None, context)
    elif float_model is not None:
        notes.append("--float is used with --calib only: there are no samples to compare the models on")
    checked, latency = None, None
    if verify and changed:
        progress("verifying", 0, None)
        fed = _fed(original, samples, seed)
        checked = verify_models(original, new, fed, VERIFIED_SAMPLES, seed)
        progress("measuring latency", 0, None)
        latency = latencies([original, new], next(fed.batches(1, 1)))
    shapes_in = None if samples is None else sample_shapes(samples)
    before = cost(original, shapes_in)
    costs = (before, cost(new, shapes_in) if changed else before)
    lost = (costs[0].integer_kernels or 0) - (costs[1].integer_kernels or 0)
    weighed = planned.get("kernels")
    if lost > 0:
        notes.append(
            f"{lost} of {costs[0].integer_kernels} layers with integer kernels in onnxruntime "
            f"{'has' if lost == 1 else 'have'} none or a slow one now, which costs more time than multiply-accumulates "
            f"say; the mode 'integer' makes no copies there"
            + (f", for {weighed['gain_db']:.2f} dB less of the objective" if weighed and not weighed["kept"] else "")
        )
    if weighed and weighed["kept"]:
        notes.append(f"copies were left out: {weighed['why']}")
    if not changed:
        notes.append("nothing was rewritten: the output is the input")
    ranking = ranked_by(samples)
    if planned:
        ranking = f"planned by measured error: {planned['chosen']} ({samples.description if samples else ''})"
    report = assemble(
        "rewrite", seed, regions, costs, qualities, against, ranking, checked, notes, compensations, latency
    )
    if planned:
        report["plan"] = planned
        if options is not None and options.target is not None and qualities is not None:
            report["target"] = options.target.outcome(options.target.value(qualities[1]))
            if not report["target"]["reached"]:
                report["notes"].append(report["target"]["shortfall"])
    if checked is not None and checked.verdict != "PASSED":
        raise VerificationError("; ".join(checked.failures), report)
    if output is not None:
        if changed and staged is not None:
            staged.publish(files.write_bytes)
            new = files.load_model(output)
        elif changed or path is None or any(is_external(t) for t in all_tensors(new)):
            files.save_model(new, output, path)
        else:
            files.write_bytes(output, path.read_bytes())  # the input, byte for byte
    return RewriteResult(new, changed, report, checked, None if output is None else Path(output))


def _loses(before: Quality, after: Quality) -> bool:
    worse = after.sqnr_db is not None and (before.sqnr_db is None or after.sqnr_db < before.sqnr_db - LOSS_DB)
    agrees = after.agreement is not None and before.agreement is not None and after.agreement > before.agreement
    return worse and not agrees


def _db(q: Quality) -> str:
    return "identical" if q.sqnr_db is None else f"{q.sqnr_db:.2f} dB"


def _ticker(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def tick(n: int) -> None:
        nonlocal done
        done += n
        progress(what, done, total)

    return tick


def make_passes(names: Sequence[str], **options: Any) -> list[Pass]:
    """Passes by name, with the options that each of them has.

    Raises:
        UserError: there is no such pass (`onnx_ocs.passes.registry` says which there are).
    """
    made: list[Pass] = []
    if {"translate", "split"} <= {*names}:
        raise UserError("the passes 'translate' and 'split' widen the same tensors: run each on the original")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the pass '{name}' is named twice: a second run would change nothing")
        kind = find_pass(name)
        fields = getattr(kind, "__dataclass_fields__", ())
        made.append(kind(**{k: v for k, v in options.items() if k in fields}))
    return made
