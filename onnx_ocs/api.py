"""The verbs as functions: inspect (`onnx_ocs.inspection`), plan, rewrite, verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs import io
from onnx_ocs.calibration import Samples, Source, input_specs, random_samples
from onnx_ocs.cost import cost
from onnx_ocs.errors import UserError, VerificationError
from onnx_ocs.graph import Graph
from onnx_ocs.inspection import inspect
from onnx_ocs.latency import latencies
from onnx_ocs.manager import Context, Pass, run_passes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.plan_options import PlanOptions
from onnx_ocs.planning import make_plan
from onnx_ocs.plans import Plan
from onnx_ocs.quality import Quality, compare
from onnx_ocs.region import find_regions
from onnx_ocs.registry import find_pass
from onnx_ocs.report import assemble
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.target import Target
from onnx_ocs.tensors import all_tensors, is_external
from onnx_ocs.verbs import (
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
from onnx_ocs.verification import Verification
from onnx_ocs.verification import verify as verify_models
from onnx_ocs.wellformed import answers_for_the_model, check_graph, check_qdq, check_runs, load

__all__ = ["PlanOptions", "RewriteResult", "Target", "inspect", "plan", "rewrite", "verify"]

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
def plan(
    model: Model,
    calib: Source,
    options: PlanOptions | None = None,
    float_model: Model | None = None,
    seed: int = 0,
    limit: int | None = None,
    budgets: Sequence[float] = (),
    progress: Progress = quiet,
) -> tuple[Plan, dict[str, Any]]:
    """Plan steps and copies within a budget, measured on calibration data.

    Args:
        model: the QDQ model or its path; not changed.
        calib: calibration samples.
        options: budget and limits.
        float_model: the float model, as the reference.
        seed: of everything random.
        limit: most samples.
        budgets: further budgets, for a sweep of gain against cost.
        progress: called during long work.

    Returns:
        The plan, and what was measured on the way.

    Raises:
        UserError: the model or the samples cannot be used.
    """
    proto = load(model)
    check_qdq(proto)
    check_graph(proto)
    samples = samples_for(proto, calib, seed)
    float_proto = None if float_model is None else load(float_model)
    context = Context(samples, limit, seed, progress, floats=float_proto)
    measure = _measure(proto, [Translate()], context, float_proto)
    return make_plan(proto, options or PlanOptions(), context, float_proto, budgets, measure)


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
        io.check_writable(output, model if isinstance(model, (str, Path)) else None)
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
    staged = io.stage(new, output, path) if changed and output is not None else None
    if staged is not None:  # what has side files is written before it is verified: sessions map them from there
        stack.enter_context(closing(staged))
        new = io.load_model(staged.model)
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
            staged.publish(io.write_bytes)
            new = io.load_model(output)
        elif changed or path is None or any(is_external(t) for t in all_tensors(new)):
            io.save_model(new, output, path)
        else:
            io.write_bytes(output, path.read_bytes())  # the input, byte for byte
    return RewriteResult(new, changed, report, checked, None if output is None else Path(output))


@answers_for_the_model
def verify(
    original: Model,
    rewritten: Model,
    calib: Source | None = None,
    float_model: Model | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, Any]:
    """Verify a rewritten model against its original.

    Args:
        original: the model before, or its path.
        rewritten: the model after, or its path.
        calib: samples; without them seeded random inputs.
        float_model: reference of the quality figures.
        seed: of everything random.
        limit: most samples for the quality figures.

    Returns:
        The report; `report["verification"]["verdict"]` is "PASSED" or "FAILED".

    Raises:
        UserError: a model or the samples cannot be used.
    """
    before, after = load(original), load(rewritten)
    check_qdq(before)
    check_graph(before)
    check_runs(before)
    samples = None if calib is None else samples_for(before, calib, seed)
    fed = _fed(before, samples, seed)
    checked = verify_models(before, after, fed, VERIFIED_SAMPLES, seed)
    qualities, against = None, None
    if samples is not None and checked.verdict == "PASSED":
        ref, against = reference_model(before, float_model)
        first, second = compare(ref, [before, after], samples, limit)
        qualities = (first, second)
    shapes_in = None if samples is None else sample_shapes(samples)
    costs = cost(before, shapes_in), cost(after, shapes_in)
    latency = latencies([before, after], next(fed.batches(1, 1))) if checked.verdict == "PASSED" else None
    return assemble("verify", seed, (), costs, qualities, against, None, checked, latency=latency)


def _fed(model: onnx.ModelProto, samples: Samples | None, seed: int) -> Samples:
    """What models are verified and timed on: the samples, or seeded random ones."""
    return random_samples(model, VERIFIED_SAMPLES, seed, _input_ranges(model)) if samples is None else samples


def _input_ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """For random inputs: what the quantizers that read a graph input directly can express."""
    graph = Graph(model)
    ranges = {}
    floats = {s.name for s in input_specs(model) if s.dtype.kind == "f"}
    for r in find_regions(graph, infer_shapes(model)):
        if r.tensor in floats and r.quantizer is not None:
            ranges[r.tensor] = (-float(r.quantizer.x_low.max()), float(r.quantizer.x_clip.max()))
    return ranges


def _by_plan(passes: Sequence[Pass], made: Plan) -> list[Pass]:
    return [replace(p, plan=made) if isinstance(p, Translate) else p for p in passes]


def _measure(
    model: onnx.ModelProto, passes: Sequence[Pass], context: Context, float_model: onnx.ModelProto | None
) -> Callable[[Plan], Quality]:
    """How good a plan's model is, as the report will say it: rewritten, and run on all samples."""
    against = cache(lambda: reference_model(model, float_model)[0])

    def measure(made: Plan) -> Quality:
        assert context.samples is not None
        new, _ = run_passes(model, _by_plan(passes, made), replace(context, progress=quiet))
        context.progress("measuring plans", 0, None)
        return compare(against(), [new], context.samples, context.limit)[0]

    return measure


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
        UserError: there is no such pass (`onnx_ocs.registry` says which there are).
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
