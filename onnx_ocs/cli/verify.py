"""`onnx-ocs verify`."""

from __future__ import annotations

import time

import typer

from onnx_ocs.cli.groups import Data, Original, Output, Rewritten, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, console, write_outputs

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
    check_outputs({"--report": out.report, "--html": out.html}, original, rewritten, data.calib, data.float_model)
    from onnx_ocs import api
    from onnx_ocs.report import terminal as table

    result = api.verify(original, rewritten, data.calib, data.float_model, out.seed, data.limit)
    write_outputs(out.report, out.html, result, f"{original.name} → {rewritten.name}")
    if not out.quiet:
        table.show_rewrite(console(), result)
    table.show_verdict(console(), table.verdict(result, True, True, time.perf_counter() - start))
    if result["verification"]["verdict"] != "PASSED":
        raise typer.Exit(2)


VERIFY = Verb(verify, (Data, Output))
