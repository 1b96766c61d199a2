"""A report is put together without changing what it is made from, and is JSON whatever the numbers are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onnx_ocs.measurement.channels import Group
from onnx_ocs.measurement.cost import Cost
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.report.report import assemble, to_json


def region(**more: Any) -> dict[str, Any]:
    return {"tensor": "t", "scale": 0.5, "zero_point": 2, "qmax": 255, "copies": [0, 2], **more}


def quality(db: float | None, agreement: float | None) -> Quality:
    groups = (Group((0, 1), db), Group((2,), 1.0))
    outputs = (
        OutputQuality("a", "scores", db, agreement, 8, groups, (3,)),
        OutputQuality("b", "labels", None, agreement, 8),
    )
    return Quality(db, agreement, 8, outputs)


def test_one_row_for_each_output() -> None:
    report = assemble("rewrite", 0, qualities=(quality(10.0, 0.5), quality(20.0, 0.75)), reference="float model")
    a, b = report["outputs"]
    assert (a["sqnr_before_db"], a["sqnr_after_db"], a["agreement_before"], a["agreement_after"]) == (10, 20, 0.5, 0.75)
    assert a["groups"][0] == {"channels": [0, 1], "sqnr_before_db": 10.0, "sqnr_after_db": 20.0}
    assert a["constant_channels"] == a["constant_channels_before"] == [3]
    assert (b["kind"], b["sqnr_after_db"], b["agreement_after"], b["samples"]) == ("labels", None, 0.75, 8)
    q = report["quality"]
    assert (q["sqnr_after_db"], q["agreement_before"], q["samples"], q["reference"]) == (20.0, 0.5, 8, "float model")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (region(), 3 * 253 * 0.5),
        (region(scale=[0.5, 0.25], zero_point=[2, 0]), [3 * 253 * 0.5, 3 * 255 * 0.25]),
        (region(copies=[]), 253 * 0.5),
        (region(scale=None), None),
        (region(qmax=None), None),
    ],
)
def test_x_clip_after(entry: dict[str, Any], expected: Any) -> None:
    before = dict(entry)
    report = assemble("rewrite", 0, regions=[entry])
    assert report["regions"][0]["x_clip_after"] == expected and entry == before


def test_cost_and_time() -> None:
    costs = Cost(1, 2, 3, 4, 5), Cost(6, 7, 8, 9, None)
    report = assemble("rewrite", 0, costs=costs, latency=Compared(2.0, 3.0, 1.5, 0.1), limit=1.6)
    assert report["cost"]["macs_before"] == 1 and report["cost"]["integer_kernels_after"] is None
    timed = {"before_ms": 2.0, "after_ms": 3.0, "ratio": 1.5, "tolerance": 0.1, "limit": 1.6, "runtime": "onnxruntime"}
    assert report["latency"] == timed
    empty = assemble("plan", 0)
    assert empty["cost"] == {} and set(empty["latency"].values()) == {None} and empty["outputs"] == []


def test_numbers_that_json_has_no_word_for() -> None:
    text = to_json({"a": [float("inf"), (float("-inf"), 1.5)], "b": {"c": float("nan")}})
    assert json.loads(text) == {"a": [None, [None, 1.5]], "b": {"c": None}} and text.endswith("\n")
