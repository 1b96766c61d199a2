"""The types of the entries say what the passes write."""

from __future__ import annotations

import zoo

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.report.entries import CompensationEntry, Reason, RegionEntry
from onnx_ocs.report.schema import json_schema
from onnx_ocs.translation.entries import entry

DEFS = json_schema()["$defs"]


def test_regions() -> None:
    model = zoo.build("conv_relu_conv")[0]
    regions = find_regions(Graph(model), infer_shapes(model))
    for e in (entry("translate", r, r.refusal) for r in regions):
        assert {*e, "x_clip_after"} == {*DEFS[RegionEntry.__name__]["required"]}


def test_reasons() -> None:
    refusal = Refusal("never_clipped", "why", "node")
    assert {*refusal.as_dict()} == {*DEFS[Reason.__name__]["required"]}


def test_a_branch_that_a_file_carries_lacks_what_only_fitting_knows() -> None:
    optional = {*CompensationEntry.__annotations__} - {*DEFS[CompensationEntry.__name__]["required"]}
    assert optional == {"channels", "macs"}
