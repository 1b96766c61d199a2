"""Copies of peaks first: a plan of the default limit that no table of 15 copies reaches, and when it is not taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from massive import nets, values

from onnx_ocs import PlanOptions
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.planning.budget import Spending
from onnx_ocs.planning.make import make_plan


def planned(**options: Any) -> tuple[Any, dict[str, Any]]:
    floats, quantized = nets(np.random.default_rng(0))
    context = Context(open_samples({"x": values(np.random.default_rng(0), 32)}, quantized))
    return make_plan(quantized, PlanOptions(**options), context, floats)


def test_they_are_taken_where_they_are_better() -> None:
    made, found = planned(budget=8.0)
    (region,) = made.regions
    assert found["chosen"].startswith("peaks") and region.copies[7] > 15
    tried = found["candidates"]
    assert all(found["after"][0] <= c["objective"] for c in tried.values())
    assert tried[found["chosen"]]["sqnr_db"] > 5 + max(c["sqnr_db"] for n, c in tried.items() if "peaks" not in n)


def test_a_budget_that_is_too_small_for_them_is_kept() -> None:
    made, found = planned(budget=0.11)  # seven of 64 channels
    assert made.predicted["extra_macs"] <= 0.11 and sum(r.copies.sum() for r in made.regions) == 7
    assert found["after"][0] < found["before"][0]


def test_what_is_over_a_limit_when_it_is_measured_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spending, "allowed", lambda *_: False)
    assert not planned(budget=8.0)[1]["chosen"].startswith("peaks")


def test_without_peaks_nothing_is_tried() -> None:
    floats, quantized = nets(np.random.default_rng(0))
    x = np.random.default_rng(0).normal(size=(32, 8, 64)).astype(np.float32) * 60
    context = Context(open_samples({"x": x}, quantized))
    _, found = make_plan(onnx.ModelProto.FromString(quantized.SerializeToString()), PlanOptions(0.1), context, floats)
    assert not any("peaks" in name for name in found["candidates"])
