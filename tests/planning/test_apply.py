"""Apply a plan: what is planned is done, what is not planned is left, what cannot be done is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Translate
from onnx_ocs.planning.apply import apply_plan
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.regions.find import find_regions


def planned(model: onnx.ModelProto, tensor: str, factor: float, copies: int, mode: str = "early") -> PlannedRegion:
    """A new step for a tensor, and so many copies of every channel."""
    r = next(r for r in find_regions(Graph(model), infer_shapes(model)) if r.tensor == tensor)
    assert r.quantizer is not None and r.walk is not None
    counts = np.full(r.walk.channels, copies, np.int64)
    return PlannedRegion(r.tensor, r.outputs, r.quantizer.scale * factor, counts, 0 * counts, mode)


def scales(model: onnx.ModelProto) -> list[float]:
    """The steps of all activation quantizers."""
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return [float(values[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]


@pytest.mark.parametrize(
    ("factor", "copies", "mode"), [(1.0, 1, "early"), (0.5, 0, "rescale"), (0.5, 1, "early"), (1.0, 0, "rescale")]
)
def test_steps_and_copies(factor: float, copies: int, mode: str) -> None:
    model = zoo.build("conv_relu_conv")[0]
    before = scales(model)
    plan = Plan(fingerprint(model), (planned(model, "relu1", factor, copies),))
    result = apply_plan(model, plan, Translate(plan=plan))
    assert result.changed
    entries = {e["tensor"]: e for e in result.regions}
    e = entries.pop("relu1")
    assert (e["status"], e["mode"], e["reason"]) == ("applied", mode, None)
    assert {*e["copies"]} == {copies}
    assert e["scale"] == pytest.approx(e["scale_before"] * factor)
    assert all(e["status"] == "refused" for e in entries.values())
    assert scales(model) == pytest.approx([before[0], before[1] * factor], rel=1e-6)


@pytest.mark.parametrize(("factor", "status", "mode"), [(1.0, "refused", None), (0.5, "applied", "rescale")])
def test_copies_that_cannot_be_made_early(factor: float, status: str, mode: str | None) -> None:
    """A region whose producer cannot make the copies gets its new step alone, or is refused."""
    model = zoo.build("add_map")[0]
    plan = Plan("", (planned(model, "relu1", factor, 1, "early only"),))
    result = apply_plan(model, plan, Translate(plan=plan))
    e = next(e for e in result.regions if e["tensor"] == "relu1")
    assert (result.changed, e["status"], e["mode"]) == (factor != 1.0, status, mode)
    assert (e["reason"] or {}).get("code") == ("mode" if status == "refused" else None)


def test_copies_that_hold_nothing_are_left_out() -> None:
    """The plan of an earlier version may ask for copies beyond a Clip."""
    model = zoo.build("clip_free")[0]
    plan = Plan(fingerprint(model), (planned(model, "clip1", 1.0, 9, "late"),))
    entries = {e["tensor"]: e for e in apply_plan(model, plan, Translate(plan=plan)).regions}
    assert {*entries["clip1"]["copies"]} == {5}
    model = zoo.build("clip_free")[0]
    factor = 6 / 1.0172090982086957
    plan = Plan(fingerprint(model), (planned(model, "clip1", factor, 2, "late"),))
    entry = next(e for e in apply_plan(model, plan, Translate(plan=plan)).regions if e["tensor"] == "clip1")
    assert (entry["mode"], {*entry["copies"]}) == ("rescale", {0})  # its step alone


def test_a_plan_for_another_model() -> None:
    model = zoo.build("conv_relu_conv")[0]
    bytes_before = model.SerializeToString(deterministic=True)
    plan = Plan("0" * 64, (planned(model, "relu1", 1.0, 1),))
    with pytest.raises(UserError, match="the plan was made for another model"):
        apply_plan(model, plan, Translate(plan=plan))
    unknown = Plan("", (replace(planned(model, "relu1", 1.0, 1), tensor="nobody"),))
    with pytest.raises(UserError):
        apply_plan(model, unknown, Translate(plan=unknown))
    assert model.SerializeToString(deterministic=True) == bytes_before


def test_nothing_planned_changes_nothing() -> None:
    model = zoo.build("conv_relu_conv")[0]
    result = apply_plan(model, Plan("", ()), Translate(plan=Plan("", ())))
    assert not result.changed
    assert {e["status"] for e in result.regions} == {"refused"}
    assert "not_planned" in {e["reason"]["code"] for e in result.regions}
