"""The options of the command line, each in one place, and what they ask the planner for: the verbs share them."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_ocs.errors import UserError

__all__ = [
    "Align",
    "BudgetOption",
    "Calib",
    "Copies",
    "Effort",
    "EffortOption",
    "Exclude",
    "Float",
    "Form",
    "Html",
    "In",
    "Include",
    "Jobs",
    "Limit",
    "Mode",
    "ModeOption",
    "Objective",
    "ObjectiveOption",
    "Quiet",
    "Ratio",
    "Report",
    "Rescale",
    "Seed",
    "Select",
    "SelectOption",
    "Stats",
    "TargetAgreement",
    "TargetSqnr",
    "plan_options",
]

if TYPE_CHECKING:
    from onnx_ocs.planning.options import PlanOptions


class Mode(StrEnum):
    """Where the copies are made."""

    auto = "auto"
    early = "early"
    late = "late"
    integer = "integer"


class Select(StrEnum):
    """How copies are spread."""

    mass = "mass"
    error = "error"


class Form(StrEnum):
    """What a branch's weights look like."""

    diagonal = "diagonal"
    grouped = "grouped"
    low_rank = "low-rank"
    dense = "dense"


class Effort(StrEnum):
    """How long a plan is worked on."""

    auto = "auto"
    quick = "quick"
    full = "full"


class Objective(StrEnum):
    """What decides between plans."""

    auto = "auto"
    sqnr = "sqnr"
    kl = "kl"


In = Annotated[Path, typer.Argument(metavar="IN", help="A quantized (QDQ) ONNX model.", show_default=False)]
Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="SRC",
        help="Calibration samples: an .npz (keys are input names, first axis is the sample), a folder of .npz or of "
        "test_data_set_*, or package.module:function (which runs your code).",
        rich_help_panel="Data",
    ),
]
Float = Annotated[
    Path | None,
    typer.Option("--float", metavar="FP.onnx", help="The float model, as the reference.", rich_help_panel="Data"),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--samples",
        metavar="N",
        min=1,
        help="Use at most so many samples.",
        show_default="all",
        rich_help_panel="Data",
    ),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="R.json", help="Write the JSON report.", rich_help_panel="Output")
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="R.html", help="Write the report as one HTML page (extra: report).", rich_help_panel="Output"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict only.", rich_help_panel="Output")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel="Output")]
Ratio = Annotated[
    float | None,
    typer.Option(
        metavar="K",
        min=0.0,
        max=32.0,
        help="Mean number of copies a channel, the paper's k.",
        show_default="0.5 for mass; error: see --budget",
        rich_help_panel="Translation",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        min=0.0,
        max=32.0,
        help="Share of extra MACs over the whole model, such as 0.1 for 10 %.",
        show_default="0.1 with --calib",
        rich_help_panel="Translation",
    ),
]
TargetSqnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="Find the cheapest plan whose output SQNR on the calibration samples is at least this; --budget (then "
        "1.0) or --ratio is the most that may be spent. Exit code 3 where nothing reaches it: the best is written.",
        rich_help_panel="Translation",
    ),
]
TargetAgreement = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        min=0.0,
        max=1.0,
        help="The same for the share of calibration samples with the reference's answer (0..1).",
        rich_help_panel="Translation",
    ),
]
Copies = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=31,
        help="Most copies a channel.",
        show_default="mass: 1, error: 15",
        rich_help_panel="Translation",
    ),
]
Align = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=1024,
        help="Make as many copies that the channels of a tensor are a multiple of N, as some hardware wants them.",
        rich_help_panel="Translation",
    ),
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        help="early: the producer makes the copies (exact behind ReLU); late: made in float behind any activation; "
        "auto: early wherever it is exact; integer: as auto, but nowhere where a layer would lose its integer kernel "
        "in onnxruntime.",
        rich_help_panel="Translation",
    ),
]
SelectOption = Annotated[
    Select | None,
    typer.Option(
        help="mass: the same share of channels in every tensor, those with the largest sum of activations in "
        "[X_clip, 2 X_clip] (the paper's); error: planned over the whole model by measured error.",
        show_default="error with --calib, mass without",
        rich_help_panel="Translation",
    ),
]
Rescale = Annotated[
    bool | None,
    typer.Option(
        "--rescale/--no-rescale",
        help="Whether steps may be re-chosen for the wider range.",
        show_default="rescale with --select error",
        rich_help_panel="Translation",
    ),
]
ObjectiveOption = Annotated[
    Objective,
    typer.Option(
        help="What decides between plans: sqnr, divergence of class scores (kl), or auto: both for scores.",
        rich_help_panel="Translation",
    ),
]
EffortOption = Annotated[
    Effort,
    typer.Option(
        help="full: compare fifteen plans, then weigh tensors again at the best one and leave out what does not help; "
        "quick: the best of five; auto: quick for models so large that plans are judged on few samples.",
        rich_help_panel="Translation",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Change only tensors of this name.", rich_help_panel="Translation"),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Leave tensors of this name.", rich_help_panel="Translation"),
]
Stats = Annotated[
    Path | None,
    typer.Option("--stats", metavar="FILE.npz", help="Keep calibration statistics here.", rich_help_panel="Data"),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="Processes that calibrate; the result is the same.",
        show_default="1",
        rich_help_panel="Data",
    ),
]


def plan_options(
    calib: str | None,
    ratio: float | None,
    budget: float | None,
    targets: tuple[float | None, float | None],
    copies: int | None,
    align: int,
    select: Select | None,
    rescale: bool | None,
    mode: Mode,
    objective: Objective,
    effort: Effort,
    include: list[str] | None,
    exclude: list[str] | None,
    stats: Path | None,
    jobs: int | None,
) -> PlanOptions | None:
    """What the planner is asked for; None where the paper's selection is.

    Raises:
        UserError: options that do not go together.
    """
    if ratio is not None and budget is not None:
        raise UserError("--ratio and --budget both say how much to spend: give one of them")
    sqnr, agreement = targets
    if sqnr is not None and agreement is not None:
        raise UserError("--target-sqnr and --target-agreement: give one of them")
    if sqnr is not None and not math.isfinite(sqnr):
        raise UserError(f"--target-sqnr {sqnr}: give a number of decibels")
    if select is None:
        select = Select.mass if calib is None else Select.error
    if select is Select.mass:
        for name, value in (
            ("--budget", budget),
            ("--target-sqnr", sqnr),
            ("--target-agreement", agreement),
            ("--rescale", rescale or None),
            ("--stats", stats),
            ("--jobs", jobs),
        ):
            if value is not None:
                why = "needs --calib" if calib is None else "is for --select error"
                raise UserError(f"{name} {why}: the plan is measured on samples")
        if include or exclude:
            raise UserError("--include and --exclude are for plans: give --calib and --select error")
        return None
    if calib is None:
        raise UserError("--select error needs --calib: the plan is measured on samples")
    from onnx_ocs.planning.goal import Target
    from onnx_ocs.planning.options import PlanOptions

    target = None if sqnr is None else Target("sqnr", sqnr)
    if agreement is not None:
        target = Target("agreement", agreement)
    return PlanOptions(
        budget=budget if budget is not None or ratio is not None else 0.1 if target is None else 1.0,
        ratio=ratio,
        target=target,
        copies=copies or 15,
        align=align,
        rescale=rescale is not False,
        mode=mode.value,
        objective=objective.value,
        effort=effort.value,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        stats=stats,
        jobs=jobs or 1,
    )
