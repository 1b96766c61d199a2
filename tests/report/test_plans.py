"""The types of plans and targets say what planner and goal write."""

from __future__ import annotations

import pytest

from onnx_ocs.planning.goal import Target
from onnx_ocs.report.plans import CandidateEntry, PointEntry, TargetEntry
from onnx_ocs.report.schema import json_schema

DEFS = json_schema()["$defs"]


@pytest.mark.parametrize("target", [Target("sqnr", 12.0), Target("agreement", 0.9)])
def test_targets(target: Target) -> None:
    assert {*target.outcome(0.5)} == {*DEFS[TargetEntry.__name__]["required"]}


def test_a_point_of_a_sweep_is_a_candidate_with_its_budget() -> None:
    assert {*PointEntry.__annotations__} - {*CandidateEntry.__annotations__} == {"budget", "chosen"}
