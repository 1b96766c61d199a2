"""`onnx-ocs inspect`."""

from __future__ import annotations

from onnx_ocs.cli.groups import Data, In, Output, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, console, show_progress, write_outputs
from onnx_ocs.passes.translate import Translate

__all__ = ["INSPECT"]


def inspect(model: In, given: Given) -> None:
    """Show every quantized activation: where it is, what it clips, and what could be done.

    ```
    onnx-ocs inspect model.onnx
    onnx-ocs inspect model.onnx --calib samples.npz --float float.onnx --html report.html
    ```
    """
    data, out = begin(given)
    check_outputs({"--report": out.report, "--html": out.html}, model, data.calib, data.float_model)
    from onnx_ocs import api
    from onnx_ocs.report import terminal as table

    with show_progress(False) as progress:
        result = api.inspect(
            model, data.calib, data.float_model, [given.make(Translate)], out.seed, data.limit, progress
        )
    table.show_inspection(console(), result)
    write_outputs(out.report, out.html, result, model.name)


INSPECT = Verb(inspect, (Data, Translate, Output), leaves=("--quiet",))
