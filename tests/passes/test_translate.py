"""The pass translate: what its options and its plan do to a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from regions_of import graph_and_regions
from zoo import Style, multiplied

from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.passes import Translate
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.records.history import history


def entries(model: onnx.ModelProto, options: Translate) -> dict[str, dict[str, Any]]:
    result = api.rewrite(model, passes=[options], verify=False)
    return {e["tensor"]: e for e in result.report["regions"]}


@pytest.mark.parametrize(("ratio", "copies", "most"), [(0.25, 1, 2), (0.5, 1, 4), (1.0, 2, 8), (2.0, 2, 16)])
def test_a_mean_number_of_copies(ratio: float, copies: int, most: int) -> None:
    found = entries(zoo.build("conv_relu_conv")[0], Translate(ratio, copies))["relu1"]
    assert found["status"] == "applied" and 0 < sum(found["copies"]) <= most
    assert max(found["copies"]) <= copies
    if ratio < 1:
        assert sum(found["copies"]) == most


@pytest.mark.parametrize(("mode", "made"), [("auto", "early"), ("early", "early"), ("late", "late")])
def test_where_copies_are_made(mode: Any, made: str) -> None:
    model, _ = zoo.build("conv_relu_conv")
    result = api.rewrite(model, passes=[Translate(mode=mode)], verify=False)
    assert {e["tensor"]: e["mode"] for e in result.report["regions"]}["relu1"] == made
    ops = {n.op_type for n in result.model.graph.node}
    assert ({"Gather", "Concat", "Sub"} <= ops) == (made == "late")


def planned(model: onnx.ModelProto, tensor: str, factor: float, copies: int, mode: str = "late") -> PlannedRegion:
    r = graph_and_regions(model)[1][tensor]
    assert r.quantizer is not None and r.walk is not None
    up = np.full(r.walk.channels, copies)
    return PlannedRegion(r.tensor, r.outputs, r.quantizer.scale * factor, up, 0 * up, mode)


@pytest.mark.parametrize(
    ("factor", "copies", "mode"), [(0.5, 0, "rescale"), (0.5, 1, "late"), (1.0, 1, "late"), (2.0, 0, "rescale")]
)
def test_a_plan_says_steps_and_copies(factor: float, copies: int, mode: str) -> None:
    model, _ = zoo.build("residual")
    region = planned(model, "relu2", factor, copies)
    found = entries(model, Translate(ratio=1.0, plan=Plan("", (region,))))
    e = found.pop("relu2")
    assert (e["status"], e["mode"], e["copies"]) == ("applied", mode, [copies] * 8)
    assert e["scale"] == pytest.approx(e["scale_before"] * factor)
    for other in found.values():  # the other options are not used
        assert other["status"] == "refused" and other["scale"] == other["scale_before"]


def test_a_step_is_carried_on() -> None:
    """Two quantizers on one grid: both get the step, and the second one's entry says so."""
    model, _ = zoo.build("requantized")
    found = entries(model, Translate(plan=Plan("", (planned(model, "relu1", 0.5, 0),))))
    assert found["relu1"]["mode"] == "rescale" and found["maxpool1"]["mode"] == "carried"
    assert found["maxpool1"]["scale"] == found["relu1"]["scale"] == pytest.approx(found["relu1"]["scale_before"] / 2)
    assert found["maxpool1"]["copies"] == [0] * 8


def test_a_step_behind_a_factor_is_multiplied() -> None:
    net, outputs = multiplied(Style())
    model = net.model(*outputs)
    found = entries(model, Translate(plan=Plan("", (planned(model, "relu1", 0.5, 0),))))
    carried = found["mul1"]
    assert carried["status"] == "applied" and carried["scale"] == pytest.approx(carried["scale_before"] / 2)


def test_a_plan_that_asks_for_nothing_changes_nothing() -> None:
    model, _ = zoo.build("residual")
    result = api.rewrite(model, passes=[Translate(plan=Plan("", ()))], verify=False)
    assert not result.changed and result.model is model


def test_a_plan_for_another_model_is_refused() -> None:
    model, _ = zoo.build("residual")
    other = Plan(fingerprint(zoo.build("conv_relu_conv")[0]), (planned(model, "relu1", 0.5, 0),))
    with pytest.raises(UserError, match="the plan was made for another model: plan again"):
        api.rewrite(model, passes=[Translate(plan=other)], verify=False)


def test_a_second_run_changes_nothing() -> None:
    model, _ = zoo.build("conv_relu_conv")
    new = api.rewrite(model, verify=False).model
    before = new.SerializeToString()
    for options in (Translate(ratio=1.0), Translate(plan=Plan("", (planned(model, "relu1", 0.5, 1),)))):
        result = options.run(new, Context())
        assert not result.changed and new.SerializeToString() == before
        assert {e["reason"]["code"] for e in result.regions} == {"already_translated"}
    assert [e["pass"] for e in history(new)] == ["translate"]


def test_a_plan_is_noted_by_its_digest() -> None:
    model, _ = zoo.build("conv_relu_conv")
    plan = Plan("", (planned(model, "relu1", 0.5, 1),))
    (entry,) = history(api.rewrite(model, passes=[Translate(plan=plan)], verify=False).model)
    assert entry["options"] == {"plan": plan.digest()}
