"""`onnx-ocs rewrite`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnx_ocs.cli.groups import (
    Data,
    Format,
    In,
    Judged,
    Out,
    Output,
    Selecting,
    Targets,
    Time,
    begin,
    is_planned,
    judged,
    plan_options,
    warn_of_unused,
)
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import (
    check_outputs,
    console,
    exit_if_missed,
    publishing,
    show_progress,
    showing,
    stage_reports,
)
from onnx_ocs.cli.running import Running
from onnx_ocs.errors import UserError, VerificationError, printable
from onnx_ocs.options import option
from onnx_ocs.passes import DEFAULT, DEFAULT_BLIND, MOVES, PASSES, Regrid, Translate
from onnx_ocs.planning.options import LATENCY, PlanOptions
from onnx_ocs.report.format import readable
from onnx_ocs.translation.options import PANEL

if TYPE_CHECKING:
    from onnx_ocs.passes.registry import Auto
    from onnx_ocs.passmanager import Pass

__all__ = ["REWRITE"]

# What says how much is spent, and where: a plan file has said it already, and the paper's rule does not ask.
STEERING = (
    "--ratio", "--budget", "--max-latency", "--target-sqnr", "--target-agreement", "--target-metric", "--copies",
    "--align", "--select", "--rescale", "--stats", "--include", "--exclude",
)  # fmt: skip


def _listed() -> str:
    """The passes by name, each with the first line of its description."""
    return "; ".join(f"{n}: {(p.__doc__ or '').splitlines()[0].rstrip('.')}" for n, p in PASSES.items())


@dataclass(frozen=True)
class Steps:
    """What is run, in order."""

    passes: str | None = option(
        None,
        f"Passes to run, in order, separated by commas. {_listed()}; and those of other packages. auto: of "
        f"{', '.join(p.name for p in MOVES)} those that pay on samples that no fit has seen, within --max-latency.",
        panel="Passes",
        shown="regrid,translate,reconstruct with --calib, translate without",
    )

    def names(self, calibrated: bool, planned: bool = False) -> list[str]:
        """The passes' names; the default depends on whether there are samples, and a plan for the model as it is."""
        if self.passes is None:
            return [p.name for p in (DEFAULT if calibrated else DEFAULT_BLIND) if not (planned and p is Regrid)]
        from onnx_ocs.passes.registry import names_of

        return names_of(self.passes)


@dataclass(frozen=True)
class Ready:
    """A plan that is there already."""

    plan: Path | None = option(None, "Apply this plan.", metavar="P.json", panel=PANEL)


@dataclass(frozen=True)
class Proof:
    """Whether the result is verified."""

    verify: bool = option(True, "Prove the result with onnxruntime.", panel=Output.panel)


def rewrite(model: In, destination: Out, given: Given) -> None:
    """Rewrite a quantized model, verify it, and say what it costs and gains.

    ```
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz --float float.onnx --budget 0.05 --html report.html
    onnx-ocs rewrite in.onnx out.onnx --calib my_package.data:batches --report report.json --quiet
    onnx-ocs rewrite in.onnx out.onnx --plan plan.json
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz --passes translate,compensate
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz --passes auto --max-latency 1.25
    ```
    """
    start = time.perf_counter()
    data, out = begin(given)
    plan = given.make(Ready).plan
    names, auto = _moves(given.make(Steps).names(data.calib is not None, plan is not None), plan, data.calib)
    verify, convert = given.make(Proof).verify, given.make(Format).convert_qoperator
    written = {"OUT": destination, "--report": out.report, "--html": out.html, "--stats": given.value("--stats")}
    check_outputs(written, (model, data.float_model), data.calib, [plan])
    options = _plan_options(given, names, plan, data.calib, auto)
    passes = _passes(given, names, plan, auto)
    judging, executor = judged(given, data.calib), given.make(Running).choice(data.calib)
    runtime = given.value("--target")
    warn_of_unused(given)
    from onnx_ocs import api
    from onnx_ocs.report import terminal as table
    from onnx_ocs.report import terminal_plans as plans

    title = f"{model.name} → {destination.name}"
    with publishing(destination, out.report, out.html, given.value("--stats")) as transaction:
        try:
            with show_progress(out.quiet) as progress:
                result = api.rewrite(
                    model, destination, calib=data.calib, float_model=data.float_model, passes=passes, options=options,
                    verify=verify, seed=out.seed, limit=data.limit, progress=progress, transaction=transaction,
                    convert_qoperator=convert, judging=judging, executor=executor, runtime=runtime,
                )  # fmt: skip
        except VerificationError as e:
            stage_reports(transaction, out.report, out.html, e.args[1], title)
            transaction.publish()
            typer.echo(printable(f"FAILED: {readable(e.args[0])}. {destination} was not written."), err=True)
            raise typer.Exit(2) from None
        stage_reports(transaction, out.report, out.html, result.report, title)
        with showing():
            screen = console(out.report, out.html)
            if not out.quiet:
                table.show_rewrite(screen, result.report)
                if "probes" in result.report.get("plan", {}).get("target", {}):
                    plans.show_target(screen, result.report["plan"]["target"])
            seconds = time.perf_counter() - start
            table.show_verdict(screen, table.verdict(result.report, result.changed, verify, seconds))
        transaction.publish()
    exit_if_missed(result.report)


def _moves(names: list[str], plan: Path | None, calib: str | None) -> tuple[list[str], bool]:
    """The passes that may run, and whether which of them do is to be found.

    Raises:
        UserError: that is asked for, and cannot be found.
    """
    from onnx_ocs.passes.registry import moves_of

    moves, auto = moves_of(names)
    if auto and plan is not None:
        raise UserError("--plan says what is to be done, --passes auto finds it: give one of them")
    if auto and calib is None:
        raise UserError("--passes auto needs --calib: what it tries is judged on samples")
    return moves, auto


def _plan_options(
    given: Given, names: Sequence[str], plan: Path | None, calib: str | None, auto: bool
) -> PlanOptions | None:
    """What the planner is asked for; None where nothing is planned.

    Raises:
        UserError: options that do not go together.
    """
    said = [f for f in STEERING if given.value(f) is not None]
    if plan is not None and said:
        raise UserError("--plan says all that is to be done: leave the options that make a plan")
    if "split" in names:
        if plan is not None or any(f != "--ratio" for f in said):
            raise UserError(
                "the pass 'split' follows the paper's rule, with --ratio and --mode: leave all that makes a plan"
            )
        return None
    planned = plan is None and is_planned(given, calib)
    if auto and not planned:
        raise UserError("--passes auto plans by measured error: leave --select mass")
    if not planned or Translate.name not in names:
        return None
    return plan_options(given, spend=auto)


def _passes(given: Given, names: Sequence[str], plan: Path | None, auto: bool) -> list[Pass] | Auto:
    """The passes with their options; a plan takes the place of what `Translate` would choose."""
    from onnx_ocs.passes.registry import Auto, find_pass, make_passes

    options: dict[str, Any] = {}
    for name in names:
        kind = find_pass(name)
        if plan is None or kind is not Translate:
            options |= {f"{name}.{field}": value for field, value in given.of(kind).items()}
    if options.get(f"{Regrid.name}.bits16"):
        options[f"{Regrid.name}.max_latency"] = given.make(Time).limit(LATENCY)
    if plan is not None:
        from onnx_ocs.planning.plan import Plan

        options |= {f"{Translate.name}.plan": Plan.read(plan)}
    made = make_passes(names, options)
    return Auto(tuple(made)) if auto else made


KINDS = (
    Data, Running, Format, Judged, Steps, Selecting, PlanOptions, Time, Targets, Ready, *PASSES.values(), Proof, Output,
)  # fmt: skip
REWRITE = Verb(rewrite, KINDS)
