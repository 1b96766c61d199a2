"""The table of outputs: on the terminal, on the page, and only where it tells more than the one figure."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from onnx_ocs.report.outputs import output_rows
from onnx_ocs.report.report import assemble
from onnx_ocs.report.terminal import show_inspection, show_rewrite


def output(name: str = "y", kind: str = "values", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "sqnr_before_db": 10.0, "sqnr_after_db": None, "agreement_before": None,
        "agreement_after": None, "constant_channels_before": [], "constant_channels": [], "groups": [], "samples": 4,
    } | more  # fmt: skip


GROUPS = [{"channels": [*range(4)], "sqnr_before_db": 1.0, "sqnr_after_db": 2.0}] * 2


def test_one_output_needs_no_table() -> None:
    assert output_rows([]) == [] and output_rows([output()]) == []


def test_rows() -> None:
    labels = output("l", "labels", agreement_before=0.5, agreement_after=0.75)
    assert output_rows([output(), labels]) == [{**output(), "dead": ""}, {**labels, "dead": ""}]
    whole, group, _ = output_rows([output(groups=GROUPS)])
    assert (whole["name"], whole["sqnr_after_db"]) == ("y", None)
    assert (group["name"], group["sqnr_after_db"], group["kind"]) == ("y, channels 0..3", 2.0, "")


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        ([2], "2"),
        ([4, 5, 6, 9], "4..6, 9"),
        ([*range(0, 20, 2)], "0, 2, 4, 6, 8, 10, 12, 14, …"),
        ([*range(4, 84)], "4..83"),
    ],
)
def test_dead_channels(channels: list[int], told: str) -> None:
    (row,) = output_rows([output(constant_channels=channels)])
    assert row["dead"] == told


def shown(show: Any, verb: Any, outputs: list[Any]) -> str:
    report: Any = {**assemble(verb, 0), "outputs": outputs}
    report["quality"] = {**report["quality"], "reference": "float model", "samples": 4}
    console = Console(file=io.StringIO(), width=100)
    show(console, report)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_on_the_terminal() -> None:
    two = [output("boxes"), output("scores", constant_channels=[3, 4], groups=GROUPS)]
    for text in (shown(show_rewrite, "rewrite", two), shown(show_inspection, "inspect", two)):
        assert all(word in text for word in ("Outputs", "boxes", "10.0 → exact", "3..4", "scores, channels 0..3"))
    assert "Outputs" not in shown(show_rewrite, "rewrite", two[:1])


def test_on_the_page() -> None:
    pytest.importorskip("jinja2")
    from onnx_ocs.report.html import to_html

    page = to_html({**assemble("rewrite", 0), "outputs": [output("boxes"), output("<b>", constant_channels=[3])]}, "t")
    assert "<h2>Outputs</h2>" in page and "boxes" in page and "&lt;b&gt;" in page and "<b><" not in page
    assert "<h2>Outputs</h2>" not in to_html(assemble("rewrite", 0), "t")
