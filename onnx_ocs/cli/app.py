"""The command line: `python -m onnx_ocs inspect | rewrite | verify`.

Exit codes: 0 done (also when there was nothing to rewrite); 1 the user's error, one clear message; 2 verification
failed, nothing was written; 3 the target was missed, the best was written.  Heavy imports wait until a verb runs.
"""

from __future__ import annotations

import logging
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_ocs.cli.options import (
    Align,
    BudgetOption,
    Calib,
    Copies,
    Effort,
    EffortOption,
    Exclude,
    Float,
    Form,
    Html,
    In,
    Include,
    Jobs,
    Limit,
    Mode,
    ModeOption,
    Objective,
    ObjectiveOption,
    Quiet,
    Ratio,
    Report,
    Rescale,
    Seed,
    Select,
    SelectOption,
    Stats,
    TargetAgreement,
    TargetSqnr,
    plan_options,
)
from onnx_ocs.cli.outputs import check_outputs, console, progress_bar, write_outputs
from onnx_ocs.errors import PassError, UserError, VerificationError

__all__ = ["app", "main"]

app = typer.Typer(
    name="onnx_ocs",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from onnx_ocs.report.environment import package_version

        typer.echo(f"onnx_ocs {package_version('onnx-ocs')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is going on.")] = False,
) -> None:
    """Give a quantized ONNX model one more bit where it matters: clipped outliers live on in extra channels.

    ```
    onnx-ocs inspect in.onnx --calib samples.npz             what is clipped, and what could be done
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz    all that is needed
    onnx-ocs VERB --help                                     more examples, and all options
    ```

    `python -m onnx_ocs` is the same.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")


@app.command()
def inspect(
    model: In,
    calib: Calib = None,
    float_model: Float = None,
    limit: Limit = None,
    ratio: Ratio = None,
    copies: Copies = None,
    align: Align = 1,
    mode: ModeOption = Mode.auto,
    report: Report = None,
    html: Html = None,
    seed: Seed = 0,
) -> None:
    """Show every quantized activation: where it is, what it clips, and what could be done.

    ```
    onnx-ocs inspect model.onnx
    onnx-ocs inspect model.onnx --calib samples.npz --float float.onnx --html report.html
    ```
    """
    check_outputs({"--report": report, "--html": html}, model, calib, float_model)
    from onnx_ocs import api
    from onnx_ocs.passes.translate import Translate
    from onnx_ocs.report import terminal as table

    with progress_bar(False) as progress:
        translate = Translate(0.5 if ratio is None else ratio, copies or 1, mode.value, align)
        result = api.inspect(model, calib, float_model, [translate], seed, limit, progress)
    table.show_inspection(console(), result)
    write_outputs(report, html, result, model.name)


@app.command()
def rewrite(
    model: In,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.", show_default=False)],
    calib: Calib = None,
    float_model: Float = None,
    limit: Limit = None,
    passes: Annotated[
        str,
        typer.Option(
            help="Passes to run, in order, separated by commas: translate, compensate, split (OCS by halving, the "
            "baseline), and those of other packages.",
            rich_help_panel="Passes",
        ),
    ] = "translate",
    nbc_budget: Annotated[
        float,
        typer.Option(min=0.0, max=32.0, help="Most extra MACs of all branches.", rich_help_panel="Compensation"),
    ] = 0.1,
    nbc_form: Annotated[
        list[Form] | None,
        typer.Option(help="Forms of a branch's weights, besides a bias. Default: all.", rich_help_panel="Compensation"),
    ] = None,
    nbc_linear: Annotated[
        bool,
        typer.Option("--nbc-linear", help="Linear branches only (alpha = beta = 0).", rich_help_panel="Compensation"),
    ] = False,
    ratio: Ratio = None,
    budget: BudgetOption = None,
    target_sqnr: TargetSqnr = None,
    target_agreement: TargetAgreement = None,
    copies: Copies = None,
    align: Align = 1,
    select: SelectOption = None,
    rescale: Rescale = None,
    mode: ModeOption = Mode.auto,
    objective: ObjectiveOption = Objective.auto,
    effort: EffortOption = Effort.auto,
    include: Include = None,
    exclude: Exclude = None,
    stats: Stats = None,
    jobs: Jobs = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="P.json", help="Apply this plan.", rich_help_panel="Translation"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove the result with onnxruntime.", rich_help_panel="Output")
    ] = True,
    report: Report = None,
    html: Html = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Rewrite a quantized model, verify it, and say what it costs and gains.

    ```
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz --float float.onnx --budget 0.05 --html report.html
    onnx-ocs rewrite in.onnx out.onnx --calib my_package.data:batches --report report.json --quiet
    onnx-ocs rewrite in.onnx out.onnx --plan plan.json
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz --passes translate,compensate
    ```
    """
    start = time.perf_counter()
    check_outputs({"--report": report, "--html": html}, model, output, calib, float_model, plan_file, stats)
    from onnx_ocs import api
    from onnx_ocs.passes.translate import Translate
    from onnx_ocs.planning.plan import Plan
    from onnx_ocs.report import terminal as table
    from onnx_ocs.verbs.rewrite import make_passes

    options = None
    targets = target_sqnr, target_agreement
    steered = None if align == 1 else align
    limits = ratio, budget, *targets, copies, steered, select, rescale, stats, jobs, include, exclude
    if plan_file is not None and any(v is not None for v in limits):
        raise UserError("--plan says all that is to be done: leave the options that make a plan")
    names = [p.strip() for p in passes.split(",") if p.strip()]
    if "split" in names and (plan_file is not None or any(v is not None for v in limits[1:])):
        raise UserError(
            "the pass 'split' follows the paper's rule, with --ratio and --mode: leave all that makes a plan"
        )
    if plan_file is None and "split" not in names:
        options = plan_options(
            calib,
            ratio,
            budget,
            targets,
            copies,
            align,
            select,
            rescale,
            mode,
            objective,
            effort,
            include,
            exclude,
            stats,
            jobs,
        )
    given_options: dict[str, Any] = {"ratio": 0.5 if ratio is None else ratio, "copies": copies or 1, "align": align}
    given_options |= {"mode": mode.value, "budget": nbc_budget, "linear": nbc_linear}
    if nbc_form:
        given_options["forms"] = tuple(f.value.replace("-", " ") for f in nbc_form)
    chosen = make_passes(names, **given_options)
    if plan_file is not None:
        given = Plan.read(plan_file)
        chosen = [Translate(plan=given) if isinstance(p, Translate) else p for p in chosen]
    try:
        with progress_bar(quiet) as progress:
            result = api.rewrite(
                model,
                output,
                calib=calib,
                float_model=float_model,
                passes=chosen,
                options=options,
                verify=verify,
                seed=seed,
                limit=limit,
                progress=progress,
            )
    except VerificationError as e:
        write_outputs(report, html, e.args[1], f"{model.name} → {output.name}")
        typer.echo(f"FAILED: {e.args[0]}. {output} was not written.", err=True)
        raise typer.Exit(2) from None
    write_outputs(report, html, result.report, f"{model.name} → {output.name}")
    if not quiet:
        table.show_rewrite(console(), result.report)
        if "target" in result.report:
            table.show_target(console(), result.report["plan"]["target"])
    table.show_verdict(console(), table.verdict(result.report, result.changed, verify, time.perf_counter() - start))
    _check_target(result.report)


def _check_target(found: dict[str, Any]) -> None:
    """Exit with 3 where a target was missed."""
    if not found.get("target", {"reached": True})["reached"]:
        typer.echo(f"MISSED: {found['target']['shortfall']}.", err=True)
        raise typer.Exit(3)


@app.command()
def plan(
    model: In,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="P.json", help="Where the plan goes.")],
    calib: Annotated[str, typer.Option("--calib", metavar="SRC", help="Calibration samples.", rich_help_panel="Data")],
    float_model: Float = None,
    limit: Limit = None,
    ratio: Ratio = None,
    budget: BudgetOption = None,
    target_sqnr: TargetSqnr = None,
    target_agreement: TargetAgreement = None,
    copies: Copies = None,
    align: Align = 1,
    rescale: Rescale = None,
    mode: ModeOption = Mode.auto,
    objective: ObjectiveOption = Objective.auto,
    effort: EffortOption = Effort.auto,
    include: Include = None,
    exclude: Exclude = None,
    stats: Stats = None,
    jobs: Jobs = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="0.05,0.1,0.2", help="Also show gain against extra MACs.", rich_help_panel="Output"),
    ] = None,
    html: Html = None,
    seed: Seed = 0,
) -> None:
    """Plan steps and copies within a budget, and write the plan as JSON.

    ```
    onnx-ocs plan in.onnx -o plan.json --calib samples.npz --budget 0.1
    onnx-ocs plan in.onnx -o plan.json --calib samples.npz --sweep 0.05,0.1,0.2,0.4 --html plan.html
    ```
    """
    check_outputs({"-o": output, "--html": html}, model, calib, float_model, stats)
    from onnx_ocs import api
    from onnx_ocs.model.files import write_text
    from onnx_ocs.report import terminal as table

    options = plan_options(
        calib, ratio, budget, (target_sqnr, target_agreement), copies, align, Select.error, rescale, mode, objective,
        effort, include, exclude, stats, jobs,
    )  # fmt: skip
    try:
        budgets = [float(b) for b in sweep.split(",")] if sweep else []
        if not all(0 <= b <= 32 for b in budgets):
            raise ValueError
    except ValueError:
        raise UserError(f"--sweep {sweep}: give numbers separated by commas, such as 0.05,0.1,0.2") from None
    with progress_bar(False) as progress:
        made, found = api.plan(model, calib, options, float_model, seed, limit, budgets, progress)
    write_text(output, made.to_json())
    if html is not None:
        from onnx_ocs.report.report import assemble

        shown = {"plan": {**made.predicted, **found}, "target": found.get("target")}
        write_outputs(None, html, {**assemble("plan", seed), **shown}, model.name)
    table.show_plan(console(), made.predicted, found)
    if "target" in found:
        table.show_target(console(), found["target"])
    _check_target(found)


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model before.", show_default=False)],
    rewritten: Annotated[Path, typer.Argument(metavar="REWRITTEN", help="The model after.", show_default=False)],
    calib: Calib = None,
    float_model: Float = None,
    limit: Limit = None,
    report: Report = None,
    html: Html = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Prove that a rewritten model is what it claims to be.

    ```
    onnx-ocs verify in.onnx out.onnx
    onnx-ocs verify in.onnx out.onnx --calib samples.npz --report report.json
    ```
    """
    start = time.perf_counter()
    check_outputs({"--report": report, "--html": html}, original, rewritten, calib, float_model)
    from onnx_ocs import api
    from onnx_ocs.report import terminal as table

    result = api.verify(original, rewritten, calib, float_model, seed, limit)
    write_outputs(report, html, result, f"{original.name} → {rewritten.name}")
    if not quiet:
        table.show_rewrite(console(), result)
    table.show_verdict(console(), table.verdict(result, True, True, time.perf_counter() - start))
    if result["verification"]["verdict"] != "PASSED":
        raise typer.Exit(2)


def main() -> None:
    """Run the command line; the user's mistakes become one line and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe that takes ASCII only is no reason to fail
    try:
        code = app(prog_name="onnx-ocs", standalone_mode=False)  # the script's name: shell completion is for it
        if code == 130:  # typer's word for Ctrl-C
            raise KeyboardInterrupt
    except (UserError, PassError) as e:
        code = _complain(str(e))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("Interrupted: nothing was written.", err=True)
        code = 130
    except Exception as e:
        # typer's own usage errors, which would exit with 2: that means "verification failed" here
        message = getattr(e, "format_message", None)
        if message is None:
            raise
        code = 0 if type(e).__name__ == "NoArgsIsHelpError" else _complain(message())
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    typer.echo("Error: " + " ".join(message.split()), err=True)
    return 1
