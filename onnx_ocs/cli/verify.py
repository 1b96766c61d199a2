"""`onnx-ocs verify`."""

from __future__ import annotations

import time

import typer

from onnx_ocs.cli.groups import Data, Format, Original, Output, Rewritten, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, console, publishing, showing, stage_reports

__all__ = ["VERIFY"]


def verify(original: Original, rewritten: Rewritten, given: Given) -> None:
    """Prove that a rewritten model is what it claims to be.

    ```
    onnx-ocs verify in.onnx out.onnx
    onnx-ocs verify in.onnx out.onnx --calib samples.npz --report report.json
    ```
    """
    start = time.perf_counter()
    data, out = begin(given)
    written = {"--report": out.report, "--html": out.html}
    check_outputs(written, (original, rewritten, data.float_model), data.calib)
    from onnx_ocs import api
    from onnx_ocs.report import terminal as table

    with publishing(out.report, out.html) as transaction:
        convert = given.make(Format).convert_qoperator
        result = api.verify(original, rewritten, data.calib, data.float_model, out.seed, data.limit, convert)
        stage_reports(transaction, out.report, out.html, result, f"{original.name} → {rewritten.name}")
        with showing():
            screen = console(out.report, out.html)
            if not out.quiet:
                table.show_rewrite(screen, result)
            table.show_verdict(screen, table.verdict(result, True, True, time.perf_counter() - start))
        transaction.publish()
    if result["verification"]["verdict"] != "PASSED":
        raise typer.Exit(2)


VERIFY = Verb(verify, (Data, Format, Output))
