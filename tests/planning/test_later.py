"""Late copies where a budget buys more of them than early ones, and these are worth an integer kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from zoo import Net, Style

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.planning import later
from onnx_ocs.planning.make import make_plan
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan


def network(quantized: bool) -> onnx.ModelProto:
    """A layer whose quantizer is its ReLU and clips two channels at a sixth, between two others; or its float twin."""
    n, r = Net(Style(), x=(3, 16, 16)), np.random.default_rng(7)

    def layer(x: str, rows: int, columns: int, size: float, wild: tuple[int, int] = (1, 1)) -> str:
        w = r.normal(0, size, (rows, columns, 3, 3))
        w[2] *= wild[0]
        w[5] *= wild[1]
        name = f"w{rows}{columns}"
        return n.op("Conv", x, n.weight(name, w)[0] if quantized else n.const(name, w), pads=[1] * 4)

    def behind(x: str, step: float, zero: str = "low") -> str:
        return n.qdq(x, zero, scale=step / 255) if quantized else n.op("Relu", x) if zero == "low" else x

    first = behind(layer(behind("x", 6, "mid"), 8, 3, 0.4), 6.1)
    second = behind(layer(first, 8, 8, 0.3, (6, 4)), 5)
    return n.model(n.op("Flatten", n.op("GlobalAveragePool", layer(second, 6, 8, 0.3))))


def patches(count: int) -> np.ndarray[Any, Any]:
    """Samples with large areas of one value, whose sums reach far."""
    r = np.random.default_rng(3)
    large, small = r.standard_normal((count, 3, 4, 4)), r.standard_normal((count, 3, 16, 16))
    return np.asarray(large.repeat(4, 2).repeat(4, 3) + 0.3 * small, np.float32)


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
