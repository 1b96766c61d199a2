"""`onnx-ocs plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnx_ocs.cli.groups import Data, Format, In, Judged, Output, Targets, Time, begin, is_planned, plan_options
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
from onnx_ocs.errors import UserError
from onnx_ocs.options import option, required
from onnx_ocs.planning.options import PlanOptions

__all__ = ["PLAN"]


@dataclass(frozen=True)
class Planned:
    """Where the plan goes, and what else is measured."""

    output: Path = required("Where the plan goes.", flag="--out", short="-o", metavar="P.json", panel="Options")
    sweep: str | None = option(None, "Also show gain against extra MACs.", metavar="0.05,0.1,0.2")

    panel: ClassVar[str] = Output.panel

    @property
    def budgets(self) -> list[float]:
        """The sweep's budgets.

        Raises:
            UserError: they are no numbers, or out of range.
        """
        try:
            found = [float(b) for b in self.sweep.split(",")] if self.sweep else []
        except ValueError:
            found = [-1.0]
        if not all(0 <= b <= 32 for b in found):
            raise UserError(f"--sweep {self.sweep}: give numbers separated by commas, such as 0.05,0.1,0.2")
        return found


def plan(model: In, given: Given) -> None:
    """Plan steps and copies within a budget, and write the plan as JSON.

    ```
    onnx-ocs plan in.onnx -o plan.json --calib samples.npz --budget 0.1
    onnx-ocs plan in.onnx -o plan.json --calib samples.npz --sweep 0.05,0.1,0.2,0.4 --html plan.html
    ```
    """
    data, out = begin(given)
    wanted = given.make(Planned)
    written = {"-o": wanted.output, "--html": out.html, "--stats": given.value("--stats")}
    check_outputs(written, (model, data.float_model), data.calib)
    is_planned(given, data.calib)  # complains about options that do not go together
    options, budgets = plan_options(given), wanted.budgets
    judging, executor = given.make(Judged).judging, given.make(Running).choice(data.calib)
    assert data.calib is not None  # --calib is needed
    from onnx_ocs import api
    from onnx_ocs.report import terminal_plans as plans


    with publishing(*written.values()) as transaction:
        with show_progress(False) as progress:
            made, found = api.plan(
                model, data.calib, options, data.float_model, out.seed, data.limit, budgets, progress, transaction,
                given.make(Format).convert_qoperator, judging, executor,
            )  # fmt: skip
        transaction.file(wanted.output, made.to_json().encode())
        if out.html is not None:
            from onnx_ocs.report.report import assemble

            shown = {"plan": {**made.predicted, **found}, "target": found.get("target")}
            stage_reports(transaction, None, out.html, {**assemble("plan", out.seed), **shown}, model.name)
        with showing():
            plans.show_plan(console(out.html), made.predicted, found)
            if "target" in found:
                plans.show_target(console(out.html), found["target"])
        transaction.publish()
    exit_if_missed(found)


KINDS = (Data, Running, Format, Judged, PlanOptions, Time, Targets, Planned, Output)
PLAN = Verb(plan, KINDS, leaves=("--report", "--quiet"), needs=("--calib",))
