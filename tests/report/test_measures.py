"""The types of what is measured say what the measurements write."""

from __future__ import annotations

from onnx_ocs.measurement.cost import Cost
from onnx_ocs.report.environment import environment
from onnx_ocs.report.measures import CostEntry, EnvironmentEntry, LevelEntry, OracleEntry, VerificationEntry
from onnx_ocs.report.schema import json_schema
from onnx_ocs.verification.difference import Difference
from onnx_ocs.verification.verdict import Verification

DEFS = json_schema()["$defs"]


def test_cost() -> None:
    cost = Cost(1, 2, 3, 4, None)
    assert {*cost.as_dict("before"), *cost.as_dict("after")} == {*CostEntry.__annotations__}
    assert DEFS["CostEntry"]["required"] == [], "a plan has none"


def test_verification() -> None:
    found = Verification(optimized=Difference(), original=Difference()).as_dict()
    assert {*found} == {*VerificationEntry.__annotations__}
    assert {*found["oracle"]} | {"refitted_layers"} == {*OracleEntry.__annotations__}
    for level in (*found["levels"], found["oracle"]["original_between_levels"]):
        assert {*level} == {*LevelEntry.__annotations__}


def test_environment() -> None:
    assert {*environment(3)} == {*EnvironmentEntry.__annotations__}
