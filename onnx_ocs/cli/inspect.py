"""`onnx-ocs inspect`."""

from __future__ import annotations

from onnx_ocs.cli.groups import Data, Format, In, Judged, Output, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, console, publishing, show_progress, showing, stage_reports
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
    check_outputs({"--report": out.report, "--html": out.html}, (model, data.float_model), data.calib)
    from onnx_ocs import api
    from onnx_ocs.report import terminal as table

    with publishing(out.report, out.html) as transaction:
        with show_progress(False) as progress:
            result = api.inspect(
                model, data.calib, data.float_model, [given.make(Translate)], out.seed, data.limit, progress,
                given.make(Format).convert_qoperator, given.make(Judged).judging,
            )  # fmt: skip
        stage_reports(transaction, out.report, out.html, result, model.name)
        with showing():
            table.show_inspection(console(out.report, out.html), result)
        transaction.publish()


INSPECT = Verb(inspect, (Data, Format, Judged, Translate, Output), leaves=("--metric", "--quiet"))
