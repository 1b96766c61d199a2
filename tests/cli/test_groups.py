"""What the options that the verbs share ask for: a plan or the paper's selection, its budget, its target."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.cli.groups import Judged, is_planned, plan_options, warn_of_unused
from onnx_ocs.cli.options import Given
from onnx_ocs.cli.rewrite import REWRITE
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Translate
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.targets import choice
from onnx_ocs.targets.choice import SLACK, time_of


def given(**values: Any) -> Given:
    return Given(REWRITE.flags, values)


@pytest.mark.parametrize(
    ("values", "calib", "wanted"),
    [
        ({}, None, False),
        ({}, "c.npz", True),
        ({"select": "mass"}, "c.npz", False),
        ({"select": "error"}, "c.npz", True),
        ({"ratio": 0.2, "copies": 2, "mode": "late"}, None, False),
        ({"rescale": False}, None, False),
    ],
)
def test_when_there_is_a_plan(values: dict[str, Any], calib: str | None, wanted: bool) -> None:
    assert is_planned(given(**values), calib) is wanted


@pytest.mark.parametrize(
    ("values", "calib", "message"),
    [
        ({"ratio": 0.1, "budget": 0.1}, "c.npz", "--ratio and --budget both say how much to spend: give one of them"),
        ({"target_sqnr": 9.0, "target_agreement": 0.9}, "c.npz", "--target-sqnr and --target-agreement: give one"),
        ({"target_metric": 0.5, "target_sqnr": 9.0}, "c.npz", "--target-sqnr and --target-metric: give one of them"),
        ({"target_metric": 0.5}, "c.npz", "--target-metric needs a metric: give --metric package.module:function"),
        ({"target_metric": float("nan")}, "c.npz", "--target-metric nan: give a number"),
        ({"target_sqnr": float("nan")}, "c.npz", "--target-sqnr nan: give a number of decibels"),
        ({"target_sqnr": float("inf")}, None, "--target-sqnr inf: give a number of decibels"),
        ({"select": "error"}, None, "--select error needs --calib"),
        ({"budget": 0.1}, None, "--budget needs --calib: the plan is measured on samples"),
        ({"budget": 0.0}, None, "--budget needs --calib: the plan is measured on samples"),
        ({"budget": 0.1, "select": "mass"}, "c.npz", "--budget is for --select error"),
        ({"target_sqnr": 9.0}, None, "--target-sqnr needs --calib"),
        ({"target_agreement": 0.0}, None, "--target-agreement needs --calib"),
        ({"max_latency": "1.2"}, None, "--max-latency needs --calib"),
        ({"rescale": True}, None, "--rescale needs --calib"),
        ({"stats": Path("s.npz")}, None, "--stats needs --calib"),
        ({"include": ["a"]}, None, "--include and --exclude are for plans"),
        ({"exclude": ["a"], "select": "mass"}, "c.npz", "--include and --exclude are for plans"),
    ],
)
def test_options_that_do_not_go_together(values: dict[str, Any], calib: str | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        is_planned(given(**values), calib)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, PlanOptions(max_latency=1.1)),
        ({"max_latency": "none"}, PlanOptions()),
        ({"max_latency": "1.25"}, PlanOptions(budget=None, max_latency=1.25)),
        ({"max_latency": "1.25", "budget": 0.3}, PlanOptions(budget=0.3, max_latency=1.25)),
        ({"max_latency": "2", "ratio": 0.5}, PlanOptions(budget=None, ratio=0.5, max_latency=2.0)),
        ({"max_latency": "2", "target_sqnr": 20.0}, PlanOptions(1.0, max_latency=2.0, target=Target("sqnr", 20.0))),
        ({"budget": 0.3}, PlanOptions(budget=0.3, pace=SLACK)),
        ({"budget": 0.3, "max_latency": "none"}, PlanOptions(budget=0.3)),
        ({"budget": 0.0}, PlanOptions(budget=0.0)),
        ({"ratio": 0.0}, PlanOptions(budget=None, ratio=0.0)),
        ({"target_sqnr": 20.0}, PlanOptions(budget=1.0, target=Target("sqnr", 20.0))),
        ({"target_agreement": 0.0}, PlanOptions(budget=1.0, target=Target("agreement", 0.0))),
        ({"target_sqnr": 20.0, "budget": 0.2}, PlanOptions(budget=0.2, target=Target("sqnr", 20.0))),
        ({"target_sqnr": 20.0, "ratio": 0.2}, PlanOptions(budget=None, ratio=0.2, target=Target("sqnr", 20.0))),
        ({"include": ["a", "b*"], "rescale": False}, PlanOptions(max_latency=1.1, include=("a", "b*"), rescale=False)),
        ({"stats": Path("s.npz")}, PlanOptions(max_latency=1.1, stats=Path("s.npz"))),
    ],
)
def test_what_the_planner_is_asked(values: dict[str, Any], wanted: PlanOptions) -> None:
    assert plan_options(given(**values)) == wanted


@pytest.mark.parametrize("values", [{}, {"budget": 0.3}, {"ratio": 0.5}, {"max_latency": "1.5"}, {"target_sqnr": 9.0}])
@pytest.mark.parametrize("spend", [False, True])
def test_a_runtime_is_no_quality(values: dict[str, Any], spend: bool) -> None:
    """Both are targets: `--target qnn` and `--target-sqnr 9`."""
    without, found = (plan_options(given(**more, **values), spend) for more in ({}, {"target": "qnn"}))
    assert found == replace(without, runtime="qnn", pace=None), "nobody times files for it"


def test_a_budget_for_openvino_bounds_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: object())
    assert plan_options(given(budget=0.25, target="openvino")).max_latency == time_of("openvino", 0.25)
    for said, wanted in (("none", None), ("1.2", 1.2)):
        assert plan_options(given(budget=0.25, target="openvino", max_latency=said)).max_latency == wanted


@pytest.mark.parametrize("value", ["0.9", "much", "nan", "inf", ""])
def test_a_limit_of_time_is_a_ratio(value: str) -> None:
    with pytest.raises(UserError, match=r"give a ratio of 1 or more, such as 1\.25, or none"):
        plan_options(given(max_latency=value))


def test_what_is_ignored_is_said(caplog: pytest.LogCaptureFixture) -> None:
    some = given(ratio=0.2, effort="full", nbc_budget=0.3, copies=2)
    some.make(Translate)
    with caplog.at_level(logging.WARNING, "onnx_ocs"):
        warn_of_unused(some)
    assert caplog.messages == [
        "--effort is ignored: no plan is made",
        "--nbc-budget is ignored: 'compensate' does not run",
    ]


def test_what_is_judged() -> None:
    asked = given(output=["boxes=2", "a=b=0.5"], exclude_output=["aux"]).make(Judged).judging
    assert asked == Judging({"boxes": 2.0, "a=b": 0.5}, ("aux",))
    assert given().make(Judged).judging == EVERYTHING
    found = given(metric="os.path:join").make(Judged).judging.metric
    assert found is os.path.join
    assert plan_options(given(target_metric=0.5, metric="os.path:join")).target == Target("metric", 0.5)


@pytest.mark.parametrize("text", ["boxes", "=2", "boxes=", "boxes=two"])
def test_a_weight_is_a_number(text: str) -> None:
    with pytest.raises(UserError, match=f"--output {text}: give NAME=WEIGHT, such as boxes=2"):
        _ = given(output=[text]).make(Judged).judging
