"""`onnx-ocs report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_ocs.cli.groups import Output, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, console, publishing, showing, stage_reports

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_ocs.report.schema import Report

__all__ = ["REPORT"]

Written = Annotated[Path, typer.Argument(metavar="R.json", help="What --report has written.", show_default=False)]


def report(written: Written, given: Given) -> None:
    """Show a report again, as a table or as a page.

    ```
    onnx-ocs report report.json
    onnx-ocs report report.json --html report.html
    ```
    """
    _, out = begin(given)
    check_outputs({"--html": out.html}, others=[written])
    from onnx_ocs.report.reading import read_report

    found = read_report(written)
    with publishing(out.html) as transaction:
        stage_reports(transaction, None, out.html, dict(found), found.get("title", written.name))
        with showing():
            _show(console(out.html), found, out.quiet)
        transaction.publish()


def _show(screen: Console, found: Report, quiet: bool) -> None:
    """What the verb that wrote the report has shown."""
    from onnx_ocs.report import terminal as table
    from onnx_ocs.report import terminal_plans as plans
    from onnx_ocs.report.reading import was_changed

    plan, verb = found.get("plan"), found["verb"]
    if verb == "inspect":
        table.show_inspection(screen, found)
        return
    if verb == "plan":
        if plan is not None and "objective_after" in plan:
            plans.show_plan(screen, plan, plan)
    elif not quiet:
        table.show_rewrite(screen, found)
    if plan is not None and "probes" in plan.get("target", {}) and not quiet:
        plans.show_target(screen, plan["target"])
    if verb != "plan":
        table.show_verdict(screen, table.verdict(found, was_changed(found), found["verification"] is not None))


REPORT = Verb(report, (Output,), leaves=("--report", "--seed"))
