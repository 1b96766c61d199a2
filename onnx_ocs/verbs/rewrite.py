"""The verb rewrite: prepare, run the passes, judge, prove, publish.

Each step takes what the steps before have found and returns a new `Outcome`; nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import onnx

from onnx_ocs.calibration.context import Context, Progress, quiet
from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.samples import Source
from onnx_ocs.errors import VerificationError
from onnx_ocs.execution.choice import Choice, engine
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.latency import compared
from onnx_ocs.measurement.quality import compare, gained
from onnx_ocs.model import files
from onnx_ocs.model.publishing import Transaction
from onnx_ocs.model.spill import spilling
from onnx_ocs.model.tensors import has_side_files
from onnx_ocs.passes import DEFAULT, DEFAULT_BLIND
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.registry import Auto, as_passes, make_passes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass, PassResult, run_passes
from onnx_ocs.planning.make import make_plan
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.regions.find import folded_bounds
from onnx_ocs.report.plans import PlanEntry, TargetEntry
from onnx_ocs.report.report import assemble, on_target
from onnx_ocs.report.schema import Report
from onnx_ocs.report.verdict import advise
from onnx_ocs.runtime.memory import give_back
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.targets.timing import timing_of
from onnx_ocs.verbs.automatic import Chosen, automatic
from onnx_ocs.verbs.checks import answers_for_the_model, load
from onnx_ocs.verbs.common import (
    VERIFIED_SAMPLES,
    Model,
    first_sample,
    guess_notes,
    open_model,
    ranked_by,
    sample_shapes,
    with_errors,
)
from onnx_ocs.verbs.gain import no_better, without_gain
from onnx_ocs.verbs.inputs import check_outputs
from onnx_ocs.verbs.limits import kernel_notes, time_notes, what_is_left
from onnx_ocs.verbs.on_target import seen_on_target
from onnx_ocs.verbs.outcome import Outcome, Prepared, Why, in_part, taken_back
from onnx_ocs.verbs.parts import parts_of
from onnx_ocs.verbs.plan import Measured, by_plan, unsaid
from onnx_ocs.verbs.targeted import check_kept, check_passes, fitting, runtime_of, said_before
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import verify as verify_models

__all__ = ["RewriteResult", "make_passes", "rewrite"]


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
    passes: Sequence[Pass | str] | str | Auto | None = None,
    options: PlanOptions | None = None,
    verify: bool = True,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress = quiet,
    transaction: Transaction | None = None,
    convert_qoperator: bool = False,
    judging: Judging = EVERYTHING,
    executor: Choice = None,
    runtime: Runtime | None = None,
) -> RewriteResult:
    """Rewrite a QDQ model, verify the result, and report cost and gain.

    Args:
        model: the model or its path; not changed.
        output: where to write the result; only after the verification has passed, atomically.
        calib: calibration samples: as on the command line, a CalibrationDataReader, feed dicts, or a dict of arrays.
        float_model: the float model, as the reference of the quality figures and what branches are fitted to.
        passes: passes or their names, in order, or "auto" (those that pay); default: as on the command line.
        options: what is planned first (needs `calib`); default: as on the command line, for a `Translate` by name.
        verify: whether to verify.
        seed: of everything random.
        limit: most calibration samples.
        progress: called during long work with (what, done, total).
        transaction: what else is written: the result is staged there, and the caller publishes all.
        convert_qoperator: convert integer operators (QLinear..., ConvInteger, ...) to QDQ first, where that is exact.
        judging: which outputs count, how much, and the user's metric.
        executor: who computes what is a sum over samples (`onnx_ocs.execution.choice`); the result is the same.
        runtime: what the file is for; default: as passes or options say.

    Returns:
        The result; its model is the input when there was nothing to rewrite.

    Raises:
        UserError: the input or the options cannot be used.
        VerificationError: the result is not what it should be; nothing was written.  Its second argument: the report.
        PassError: a pass failed; nothing was written.
    """
    check_outputs({"OUT": output}, (model, float_model), calib)
    with spilling(output is not None and transaction is None), ExitStack() as stack, engine(executor) as workers:
        files_of_run = stack.enter_context(Transaction()) if transaction is None else transaction
        context = Context(None, limit, seed, progress, write=files_of_run.file, judging=judging, engine=workers)
        ready = replace(_prepare(model, calib, float_model, verify, convert_qoperator, context), runtime=runtime)
        chosen = _chosen(ready, passes, options)
        outcome = _prove(ready, _made(ready, chosen, output, files_of_run), chosen, verify)
        report = dict(_report(ready, outcome, chosen))
        if (checked := outcome.verification) is not None and checked.verdict != "PASSED":
            files_of_run.discard(output or "")
            raise VerificationError("; ".join(checked.failures), report)
        _stage_input(ready, outcome, output, files_of_run)
        if transaction is None:
            files_of_run.publish()
    written = outcome.model if output is None or transaction is not None else outcome.published(output)
    return RewriteResult(written, outcome.changed, report, checked, None if output is None else Path(output))


def _prepare(
    model: Model,
    calib: Source | None,
    float_model: Model | None,
    verify: bool,
    convert_qoperator: bool,
    context: Context,
) -> Prepared:
    """Read and check all that is given."""
    opened = open_model(model, calib, context.limit, context.seed, convert_qoperator, context.judging, verify)
    original = opened.model
    floats = None if float_model is None else load(float_model)
    path = None if isinstance(model, onnx.ModelProto) else Path(model)
    context = replace(context, samples=opened.samples, floats=floats, bounded=folded_bounds(original, floats))
    notes = (*opened.notes, *guess_notes(original, context.bounded))
    return Prepared(original, path, context, notes, opened.converted)


def _chosen(ready: Prepared, passes: Sequence[Pass | str] | str | Auto | None, options: PlanOptions | None) -> Chosen:
    """The passes, run; the default ones where nothing is said, those that pay where they are to be found."""
    default = DEFAULT_BLIND if ready.context.samples is None else DEFAULT
    found = as_passes([p() for p in default] if passes is None else passes)
    if isinstance(found, Auto):
        return automatic(ready, found, options, _run)
    if options is None and ready.context.samples is not None:
        options = unsaid(passes, found)
    return Chosen(found, options, _run(ready, found, options), options)


def _run(ready: Prepared, passes: Sequence[Pass], options: PlanOptions | None, onto: Outcome | None = None) -> Outcome:
    """Plan where that is asked for, and run the passes; on top of an outcome, if there is one."""
    original, context = ready.original, ready.context
    runtime = runtime_of(passes, options, ready.runtime)
    onto = onto or Outcome(original, False, notes=(*ready.notes, *said_before(original, runtime)))
    passes = fitting(passes, runtime, options)
    check_passes(passes, runtime)
    planned, made = onto.planned, onto.plan
    new, results = onto.model, dict[str, PassResult]()
    if options is not None and context.samples is not None and any(isinstance(p, Translate) for p in passes):
        first = next(k for k, p in enumerate(passes) if isinstance(p, Translate))
        new, results = run_passes(new, passes[:first], context)  # the plan is made for what these leave
        passes = passes[first:]
        measure = Measured(new, passes, context, original)
        left = options.max_latency if new is onto.model else what_is_left(ready, new, results, options)
        wanted = replace(options, max_latency=left, refitted=any(isinstance(p, Reconstruct) for p in passes))
        made, planned = make_plan(new, wanted, context, context.floats, measure=measure)
        new, more = measure.carried_out(made)
    else:
        new, more = run_passes(new, passes, context, original=original)
    check_kept(original, new, runtime)
    done = [*results.values(), *more.values()]
    return Outcome(
        model=new,
        changed=new is not original,
        regions=(*onto.regions, *(e for r in done for e in r.regions)),
        compensations=(*onto.compensations, *(e for r in done for e in r.compensations)),
        reconstructions=(*onto.reconstructions, *(e for r in done for e in r.reconstructions)),
        grids=(*onto.grids, *(e for r in done for e in r.grids)),
        notes=(*onto.notes, *(n for r in done for n in r.notes)),
        planned=planned,
        plan=made,
        sure=onto.sure or any(r.sure for r in done),
    )


def _made(ready: Prepared, chosen: Chosen, output: str | Path | None, transaction: Transaction) -> Outcome:
    """The rewritten model, staged and judged; where it loses, what of it does not."""
    outcome = _stage(ready, chosen.outcome, output, transaction)
    outcome = _judge(ready, outcome, runtime_of(chosen.passes, chosen.asked, ready.runtime))
    why = no_better(ready, outcome)
    if why is not None:
        transaction.discard(output or "")
        spared = _spared(ready, outcome, why, chosen.passes, chosen.options)
        outcome = _stage(ready, spared, output, transaction)
    return _with_errors(ready, without_gain(ready, outcome))


def _stage(ready: Prepared, outcome: Outcome, output: str | Path | None, transaction: Transaction) -> Outcome:
    """The result is written before it is verified: a full disk is found early, and sessions map side files."""
    if output is None or not outcome.changed:
        return outcome
    staged = transaction.model(outcome.model, output, ready.path)
    return outcome if staged is None else replace(outcome, model=files.load_model(staged))


def _stage_input(ready: Prepared, outcome: Outcome, output: str | Path | None, transaction: Transaction) -> None:
    """Where nothing was rewritten, the result is the input, byte for byte."""
    if output is None or outcome.changed:
        return
    transaction.discard(output)
    if ready.path is None or ready.converted or has_side_files(ready.original):
        transaction.model(ready.original, output, ready.path)
    else:
        transaction.file(output, ready.path.read_bytes())


def _judge(ready: Prepared, outcome: Outcome, runtime: Runtime) -> Outcome:
    """Compare both models with the reference on all samples, and on some in the runtime that they are for."""
    original, context = ready.original, ready.context
    if context.samples is None:
        if context.floats is None:
            return outcome
        return outcome.noting("--float is used with --calib only: there are no samples to compare the models on")
    reference, against = ready.reference
    models = [original, outcome.model] if outcome.changed else [original]
    give_back()
    total = context.total()
    context.progress("comparing", 0, total)
    tick = _ticker(context.progress, "comparing", total)
    found = compare(reference, models, context.samples, context.limit, tick, context.judging, context.engine)
    return seen_on_target(ready, replace(outcome, qualities=(found[0], found[-1]), against=against), runtime)


def _spared(
    ready: Prepared, outcome: Outcome, why: Why, passes: Sequence[Pass], options: PlanOptions | None
) -> Outcome:
    """The best part of a rewrite that is no better as a whole; nothing where no part is, either."""
    best: tuple[float, Outcome] | None = None
    passes = passes if outcome.plan is None else by_plan(passes, outcome.plan)
    for dropped, fewer, other in parts_of(passes, options, outcome.regions):
        part = _judge(ready, _run(ready, fewer, other), runtime_of(passes, options, ready.runtime))
        if not part.changed or part.qualities is None or no_better(ready, part) is not None:
            continue
        gain = gained(*part.qualities)
        if gain > 0 and (best is None or gain > best[0]):
            best = gain, in_part(outcome, part, dropped, why)
    return taken_back(ready, outcome, why) if best is None else best[1]


def _with_errors(ready: Prepared, outcome: Outcome) -> Outcome:
    """The outcome with each tensor's own error."""
    if ready.context.samples is None:
        return outcome
    give_back()
    found = with_errors(outcome.regions, ready.original, outcome.model if outcome.changed else None, ready.context)
    return replace(outcome, regions=found)


def _prove(ready: Prepared, outcome: Outcome, chosen: Chosen, verify: bool) -> Outcome:
    """Verify the rewritten model, if there is one, and time both in the target's runtime."""
    if not verify or not outcome.changed:
        return outcome
    original, context = ready.original, ready.context
    give_back()
    context.progress("verifying", 0, None)
    checked = verify_models(original, outcome.model, ready.fed, VERIFIED_SAMPLES, context.seed)
    context.progress("measuring latency", 0, None)
    on = timing_of(runtime_of(chosen.passes, chosen.asked, ready.runtime))
    latency = compared(original, outcome.model, first_sample(original, ready.fed), on=on)
    return replace(outcome, verification=checked, latency=latency)


def _report(ready: Prepared, outcome: Outcome, chosen: Chosen) -> Report:
    """The report; it says all that is known, also of a rewrite that is not written."""
    samples, planned, options = ready.context.samples, outcome.planned, chosen.asked
    shapes = sample_shapes(ready.original, lambda: ready.fed)
    before = cost(ready.original, shapes)
    costs = before, cost(outcome.model, shapes) if outcome.changed else before
    notes = [*outcome.notes, *kernel_notes(costs, planned.get("kernels"), outcome.grids), *time_notes(outcome, options)]
    if not outcome.changed:
        notes.append(f"nothing was rewritten: the output is the {'converted ' * ready.converted}input")
    made_before = any(isinstance(p, Translate) and p.plan is not None for p in chosen.passes)
    ranking = ranked_by(samples, ready.context.limit, planned.get("chosen"), made_before)
    report = assemble(
        "rewrite", ready.context.seed, regions=outcome.regions, compensations=outcome.compensations,
        reconstructions=outcome.reconstructions, grids=outcome.grids, costs=costs, latency=outcome.latency,
        limit=None if options is None else options.max_latency, qualities=outcome.qualities,
        reference=outcome.against, ranking=ranking, verification=outcome.verification, notes=notes,
    )  # fmt: skip
    if planned:
        report["plan"] = cast(PlanEntry, dict(planned))
    if chosen.trials is not None:
        report["trials"] = chosen.trials
    asked = options is not None and options.target
    if (planned or chosen.trials) and asked and outcome.qualities is not None:
        report["target"] = target = cast(TargetEntry, asked.outcome(asked.value(outcome.qualities[1])))
        if target["shortfall"]:
            report["notes"].append(target["shortfall"])
    if (there := outcome.on_target) is not None and there.after is not None and outcome.changed:
        report["on_target"] = on_target(there.runtime, there.before, there.after)
    rules = rules_of(runtime_of(chosen.passes, options, ready.runtime))
    report["verdict"] = advise(report, None if options is None else options.budget, rules.floats)
    return report


def _ticker(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def tick(n: int) -> None:
        nonlocal done
        done += n
        progress(what, done, total)

    return tick
