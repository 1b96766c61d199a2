"""Arguments and options that belong to the command line, not to a pass or the planner, and what they ask for."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.cli.options import Given
from onnx_ocs.cli.outputs import start_logging
from onnx_ocs.errors import UserError
from onnx_ocs.options import option
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import LATENCY, PlanOptions
from onnx_ocs.runtime.memory import allow_memory
from onnx_ocs.targets.choice import pace_of, time_of
from onnx_ocs.translation.options import PANEL

__all__ = [
    "Data",
    "Format",
    "In",
    "Judged",
    "Original",
    "Out",
    "Output",
    "Rewritten",
    "Selecting",
    "Targets",
    "Time",
    "begin",
    "is_planned",
    "judged",
    "plan_options",
    "warn_of_unused",
]

_LOG = logging.getLogger(__name__)
KINDS: tuple[Literal["sqnr", "agreement", "metric"], ...] = ("sqnr", "agreement", "metric")
NO_LIMIT = 1.0  # the budget of a target: twice the model's MACs
MEASURED = (
    "--budget",
    "--max-latency",
    "--target-sqnr",
    "--target-agreement",
    "--target-metric",
    "--rescale",
    "--stats",
)  # only plans have these

In = Annotated[Path, typer.Argument(metavar="IN", help="A quantized (QDQ) ONNX model.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.", show_default=False)]
Original = Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model before.", show_default=False)]
Rewritten = Annotated[Path, typer.Argument(metavar="REWRITTEN", help="The model after.", show_default=False)]


@dataclass(frozen=True)
class Data:
    """What is measured on."""

    calib: str | None = option(
        None,
        "Calibration samples: an .npz (keys are input names, first axis is the sample), a folder of .npz or of "
        "test_data_set_*, or package.module:function (which runs your code).",
        metavar="SRC",
    )
    float_model: Path | None = option(None, "The float model, as the reference.", flag="--float", metavar="FP.onnx")
    limit: int | None = option(None, "Use at most so many samples.", flag="--samples", metavar="N", low=1, shown="all")
    memory: float | None = option(
        None,
        "Most memory for what is kept and computed at once, in GB; the result is the same.",
        metavar="GB",
        low=0.1,
        high=1e6,
        shown="half of what is free, at most 0.5",
    )

    panel: ClassVar[str] = "Data"


@dataclass(frozen=True)
class Format:
    """What is done about a file that is not in the QDQ format."""

    convert_qoperator: bool = option(
        False,
        "Convert QLinear..., ConvInteger and MatMulInteger operators to QDQ first, where that is exact; proven with "
        "onnxruntime, operator by operator.",
    )

    panel: ClassVar[str] = Data.panel


@dataclass(frozen=True)
class Judged:
    """What is good."""

    outputs: tuple[str, ...] = option(
        (),
        "How much a graph output counts; 1 where nothing is said. Every output counts, relative to its own energy.",
        flag="--output",
        metavar="NAME=WEIGHT",
    )
    exclude_outputs: tuple[str, ...] = option(
        (), "A graph output that does not count: it may get worse.", flag="--exclude-output", metavar="NAME"
    )
    metric: str | None = option(
        None,
        "Your own figure, larger is better: package.module:function (which runs your code) of outputs, the reference's "
        "outputs and labels. It decides between plans, on what is kept, and on targets.",
        metavar="MODULE:FUNCTION",
    )

    panel: ClassVar[str] = "Data"

    @property
    def judging(self) -> Judging:
        """What plans, gates and targets go by.

        Raises:
            UserError: a weight is no number, or the metric cannot be imported.
        """
        weights = dict(_weight(o) for o in self.outputs)
        metric = None
        if self.metric is not None:
            from onnx_ocs.measurement.metric import load_metric

            metric = load_metric(self.metric)
        return Judging(weights, self.exclude_outputs, metric)


def _weight(text: str) -> tuple[str, float]:
    """A name and its weight; a name may have "=" in it."""
    name, _, weight = text.rpartition("=")
    try:
        if name:
            return name, float(weight)
    except ValueError:
        pass
    raise UserError(f"--output {text}: give NAME=WEIGHT, such as boxes=2")


@dataclass(frozen=True)
class Selecting:
    """How copies are spread."""

    select: Literal["mass", "error"] | None = option(
        None,
        "mass: the same share of channels in every tensor, those with the largest sum of activations in "
        "[X_clip, 2 X_clip] (the paper's); error: planned over the whole model by measured error.",
        shown="error with --calib, mass without",
    )

    panel: ClassVar[str] = PANEL


@dataclass(frozen=True)
class Targets:
    """The spellings of a plan's target."""

    target_sqnr: float | None = option(
        None,
        "Find the cheapest plan whose output SQNR on the calibration samples is at least this; --budget (then "
        "1.0) or --ratio is the most that may be spent. Exit code 3 where nothing reaches it: the best is written.",
        metavar="DB",
    )
    target_agreement: float | None = option(
        None,
        "The same for the share of calibration samples with the reference's answer (0..1).",
        metavar="P",
        low=0.0,
        high=1.0,
    )
    target_metric: float | None = option(None, "The same for what --metric gives.", metavar="X")

    panel: ClassVar[str] = PANEL

    @property
    def target(self) -> Target | None:
        """The target, if there is one.

        Raises:
            UserError: there are two, or it is no number.
        """
        given = [k for k in KINDS if getattr(self, f"target_{k}") is not None]
        if not given:
            return None
        if len(given) > 1:
            raise UserError(f"{' and '.join(f'--target-{k}' for k in given)}: give one of them")
        wanted = getattr(self, f"target_{given[0]}")
        if not math.isfinite(wanted):
            raise UserError(f"--target-{given[0]} {wanted}: give a number{' of decibels' * (given[0] == 'sqnr')}")
        return Target(given[0], wanted)


@dataclass(frozen=True)
class Time:
    """How long the rewritten file may take."""

    max_latency: str | None = option(
        None,
        "The most time that the result may take, as a ratio to the input's, such as 1.25; 'none' for no limit. A plan "
        "with copies is timed in turns with the input, and cut back until it holds. Alone it says how much is spent; "
        "with --budget or --ratio both do. Files for OpenVINO are timed there, where it is installed, all others in "
        "onnxruntime.",
        metavar="X",
        shown="1.1; with --budget 1.15 times what the multiply-accumulates that are made say, in onnxruntime for "
        "plans only that are far beyond; with --ratio or --target-* none",
    )

    panel: ClassVar[str] = PANEL

    def limit(self, otherwise: float | None) -> float | None:
        """The ratio, or what holds where nothing is said; None for no limit.

        Raises:
            UserError: it is no number from 1 on.
        """
        if self.max_latency is None:
            return otherwise
        if self.max_latency == "none":
            return None
        try:
            found = float(self.max_latency)
        except ValueError:
            found = 0.0
        if not 1 <= found < math.inf:
            raise UserError(f"--max-latency {self.max_latency}: give a ratio of 1 or more, such as 1.25, or none")
        return found


@dataclass(frozen=True)
class Output:
    """What a verb shows and writes."""

    report: Path | None = option(None, "Write the JSON report.", metavar="R.json")
    html: Path | None = option(None, "Write the report as one HTML page (extra: report).", metavar="R.html")
    seed: int = option(0, "Seed of everything random.")
    quiet: bool = option(False, "Print the verdict only.", short="-q")
    verbose: int = option(0, "Log what is going on; twice: in detail.", short="-v", metavar="[-vv]", counted=True)

    panel: ClassVar[str] = "Output"


def begin(given: Given) -> tuple[Data, Output]:
    """The options that every verb has; the log starts as they say."""
    data, out = given.make(Data), given.make(Output)
    allow_memory(data.memory)
    if out.verbose:
        start_logging(out.verbose)
    return data, out


def judged(given: Given, calib: object) -> Judging:
    """What is good.

    Args:
        given: the options.
        calib: the calibration samples; None without.

    Raises:
        UserError: there are no samples to judge on.
    """
    found = given.make(Judged).judging
    if calib is None and found != EVERYTHING:
        raise UserError("--output, --exclude-output and --metric need --calib: outputs are judged on samples")
    return found


def is_planned(given: Given, calib: str | None) -> bool:
    """Whether a plan is asked for, and not the paper's selection.

    Args:
        given: the options; `Selecting` is used up.
        calib: the calibration samples.

    Raises:
        UserError: options that do not go together.
    """
    if given.value("--ratio") is not None and given.value("--budget") is not None:
        raise UserError("--ratio and --budget both say how much to spend: give one of them")
    _target(given)
    select = given.make(Selecting).select or ("mass" if calib is None else "error")
    if select == "error":
        if calib is None:
            raise UserError("--select error needs --calib: the plan is measured on samples")
        return True
    for flag in MEASURED:
        value = given.value(flag)
        if value is not None and value is not False:  # a budget of 0 is a budget
            why = "needs --calib" if calib is None else "is for --select error"
            raise UserError(f"{flag} {why}: the plan is measured on samples")
    if given.value("--include") or given.value("--exclude"):
        raise UserError("--include and --exclude are for plans: give --calib and --select error")
    return False


def plan_options(given: Given, spend: bool = False) -> PlanOptions:
    """What the planner is asked for.

    A budget is one way to limit the cost: a ratio, a target or the time alone takes its place.

    Args:
        given: the options.
        spend: whether time may be spent where nothing says how much; else steps alone are planned, which add nothing.

    Raises:
        UserError: the target needs a metric, and there is none.
    """
    target, timed = _target(given), given.make(Time)
    planned = given.make(PlanOptions, target=target)
    if given.value("--budget") is not None:
        said = timed.max_latency is not None
        pace = None if said else pace_of(planned.runtime, planned.budget, target is not None)
        return replace(planned, max_latency=timed.limit(time_of(planned.runtime, planned.budget)), pace=pace)
    if given.value("--ratio") is not None:
        return replace(planned, budget=None, max_latency=timed.limit(None))
    if target is not None:
        return replace(planned, budget=NO_LIMIT, max_latency=timed.limit(None))
    limit = timed.limit(LATENCY)
    if spend and limit is None:
        return replace(planned, budget=NO_LIMIT)
    if (spend or timed.max_latency is not None) and limit is not None:  # time alone says how much is spent
        return replace(planned, budget=None, max_latency=limit)
    return replace(planned, max_latency=limit)


def _target(given: Given) -> Target | None:
    target = given.make(Targets).target
    if target is not None and target.kind == "metric" and given.value("--metric") is None:
        raise UserError("--target-metric needs a metric: give --metric package.module:function")
    return target


def warn_of_unused(given: Given) -> None:
    """Say of each option that was given, but that nothing is made with, why it is ignored."""
    for f in given.unused():
        name = getattr(f.owner, "name", None)
        _LOG.warning("%s is ignored: %s", f.name, "no plan is made" if name is None else f"'{name}' does not run")
