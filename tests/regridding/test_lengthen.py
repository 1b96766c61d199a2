"""The worst quantizers get 16 bits: proven, told, behind other passes and before them, within the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from feeds import inputs

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.measurement.quality import compare, losing
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Reconstruct, Regrid, Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.grids import Sixteen, read_edits
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding import lengthen, worst

DATA = Path(__file__).resolve().parents[1] / "data"
ALL = Regrid(bits16=True, zero_points=False, unsigned=False, max_latency=None)


def applied(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [g for g in report["grids"] if g["edit"] == "bits16" and g["status"] == "applied"]


@pytest.mark.parametrize("case", ["residual", "qcdq4", "uint4"])
def test_outputs_come_back(case: str) -> None:
    """On samples that the pass has not seen; proven, and told what was done."""
    model, _ = zoo.build(case)
    result = rewrite(model, calib=inputs(model, 32), passes=[ALL])
    assert result.verification is not None and not result.verification.failures
    done = applied(result.report)
    assert done and result.verification.regridded >= len(done)
    for e in done:
        assert e["type"] == ("int16" if e["type_before"].startswith("int") else "uint16")
        assert e["range"][0] <= e["range_before"][0] + e["scale"] and e["range"][1] >= e["range_before"][1] - e["scale"]
    unseen = open_samples(inputs(model, 16, seed=7), model)
    truth = reference(model, find_regions(Graph(model), infer_shapes(model)))
    before, after = compare(truth, [model, result.model], unseen)
    assert losing(before, after) is None
    assert (after.sqnr_db or 99) > (before.sqnr_db or 0) + 3


def test_with_all_other_passes() -> None:
    """Copies and steps are planned, and weights fitted, for what it leaves."""
    model, _ = zoo.build("residual")
    passes = [ALL, Translate(), Reconstruct()]
    options = PlanOptions(budget=0.3, max_latency=None, effort="quick")
    result = rewrite(model, calib=inputs(model, 32), passes=passes, options=options)
    assert result.verification is not None and result.verification.verdict == "PASSED" and applied(result.report)


def test_a_bias_is_rounded_once() -> None:
    """Where a zero-point and its step have moved before: the bias follows both from what the file held."""
    model = onnx.load(DATA / "ort_hswish_l17_weightqdq.onnx")
    result = rewrite(model, calib=inputs(model, 16), passes=[Regrid(bits16=True, max_latency=None)])
    assert {g["edit"] for g in result.report["grids"]} == {"new grid", "bits16"}
    assert result.verification is not None and not result.verification.failures


def test_a_limit_of_time_leaves_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that would be too slow is cut back, not lost."""

    def compared(_: object, new: onnx.ModelProto, *__: object) -> Compared:
        n = sum(isinstance(e, Sixteen) for e in read_edits(new))
        return Compared(1.0, 1 + n / 10, 1 + n / 10, 0.0)

    monkeypatch.setattr(worst, "compared", compared)
    model, _ = zoo.build("residual")
    found = {}
    for limit in (1.0, 1.25):
        passes = [Regrid(bits16=True, zero_points=False, unsigned=False, max_latency=limit)]
        result = rewrite(model, calib=inputs(model, 32), passes=passes, verify=False)
        found[limit] = len(applied(result.report))
        told = [n for n in result.report["notes"] if n.startswith("16 bits: ")]
        assert len(told) == 1 and (found[limit] == 4 or "over x" in told[0] or "surely" in told[0])
    assert found[1.0] == 0 and 0 < found[1.25] <= 2


def test_a_target_that_is_as_fast_counts_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst, "compared", lambda *_: pytest.fail("nothing is timed"))
    model, _ = zoo.build("residual")
    passes = [Regrid(bits16=True, runtime="qnn")]
    assert applied(rewrite(model, calib=inputs(model, 32), passes=passes, verify=False).report)


def test_what_cannot_be_is_told() -> None:
    model, _ = zoo.build("output_integer")
    entries = rewrite(model, calib=inputs(model, 32), passes=[ALL], verify=False).report["grids"]
    refused = [e for e in entries if e["status"] == "refused"]
    assert refused and all(e["edit"] == "bits16" and e["reason"]["code"] == "integers_leave" for e in refused)


def test_nothing_can_be_or_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = zoo.build("conv_relu_conv")
    monkeypatch.setattr(lengthen, "damages", lambda *_: None)
    result = rewrite(model, calib=inputs(model, 32), passes=[ALL], verify=False)
    assert not result.changed and any("cannot be told" in n for n in result.report["notes"])
    monkeypatch.setattr(lengthen, "_is_narrow", lambda _: False)
    notes = rewrite(model, calib=inputs(model, 32), passes=[ALL], verify=False).report["notes"]
    assert "16 bits: no quantizer can have them" in notes


def test_not_without_asking_nor_twice() -> None:
    model, _ = zoo.build("conv_relu_conv")
    result = rewrite(model, calib=inputs(model, 32), passes=[Regrid()], verify=False)
    assert not applied(result.report) and not any("16 bits" in n for n in result.report["notes"])
    done = rewrite(model, calib=inputs(model, 32), passes=[ALL], verify=False).model
    again = rewrite(done, calib=inputs(model, 32), passes=[ALL], verify=False)
    assert not again.changed and any("rewritten before" in n for n in again.report["notes"])


def test_tensors_are_measured_with_their_16_bits() -> None:
    """The report's own error of a tensor is that of the finer grid."""
    model, _ = zoo.build("residual")
    result = rewrite(model, calib=inputs(model, 32), passes=[ALL, Translate(0.0)], verify=False)
    errors = {r["tensor"]: r["error"] for r in result.report["regions"]}
    assert {e["tensor"] for e in applied(result.report)} <= errors.keys()
    for e in applied(result.report):
        assert errors[e["tensor"]]["isolated_after_db"] > errors[e["tensor"]]["isolated_before_db"] + 20
        assert np.isfinite(errors[e["tensor"]]["accumulated_after_db"])
