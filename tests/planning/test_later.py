"""Late copies where a budget buys more of them than early ones, and these are worth an integer kernel."""

from __future__ import annotations

from typing import Any

import pytest
from wild import network, patches

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.planning import candidates, later, search
from onnx_ocs.planning.make import make_plan
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan


@pytest.fixture(autouse=True)
def no_step_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 8 bits a step that is eight times coarser costs little here, and nothing at run time."""
    for module in (candidates, search):
        monkeypatch.setattr(module, "COARSE", (3.0, 2.0))


def plan(**options: Any) -> tuple[Plan, dict[str, Any]]:
    model = network(True)
    context = Context(open_samples({"x": patches(32)}, model))
    asked = PlanOptions(**{"budget": 0.3, "effort": "full", **options})
    return make_plan(model, asked, context, network(False))


def hidden(made: Plan) -> Any:
    return next(r for r in made.regions if r.tensor == "conv2")


def test_a_tight_budget_buys_late_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    late, found = plan()
    assert hidden(late).mode == "late" and found["chosen"].endswith(", late")
    assert late.predicted["extra_macs"] <= 0.3 + 1e-9
    monkeypatch.setattr(later, "HALVED", 1e9)  # nothing is worth a kernel
    early, found = plan()
    assert hidden(early).mode == "early" and not found["chosen"].endswith(", late")
    assert hidden(early).copies.sum() < hidden(late).copies.sum()
    assert late.predicted["objective_after"] < early.predicted["objective_after"]


@pytest.mark.parametrize("options", [{"mode": "early"}, {"mode": "integer"}, {"budget": 0.0}])
def test_early_copies_stay(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The user says so, nothing may cost a kernel, or no copies are bought."""
    made, found = plan(**options)
    assert not found["chosen"].endswith(", late")
    assert all(r.mode != "late" or not r.copies.any() for r in made.regions if r.tensor == "conv2")
