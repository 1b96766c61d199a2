"""`onnx-ocs compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_ocs.cli.groups import Output, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, console, publishing, showing, stage_page

__all__ = ["COMPARE"]

First = Annotated[Path, typer.Argument(metavar="A.json", help="A report.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B.json", help="Another report.", show_default=False)]


def compare(first: First, second: Second, given: Given) -> None:
    """Show two reports side by side: quality, cost, and what differs at tensors and layers.

    ```
    onnx-ocs compare minmax.json percentile.json
    onnx-ocs compare minmax.json percentile.json --html both.html
    ```
    """
    _, out = begin(given)
    check_outputs({"--html": out.html}, others=[first, second])
    from onnx_ocs.report.comparison import compare_reports
    from onnx_ocs.report.reading import read_report
    from onnx_ocs.report.terminal_comparison import show_comparison

    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    found = compare_reports(read_report(first), read_report(second), names)
    with publishing(out.html) as transaction:
        if out.html is not None:
            from onnx_ocs.report.html import comparison_to_html

            stage_page(transaction, out.html, comparison_to_html(found))
        with showing():
            show_comparison(console(out.html), found)
        transaction.publish()


COMPARE = Verb(compare, (Output,), leaves=("--report", "--seed", "--quiet"))
