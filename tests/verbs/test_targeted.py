"""Rewrites for a target: what is refused before, told, and checked after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import zoo
from feeds import inputs

import onnx_ocs
from onnx_ocs.errors import PassError, UserError
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.regrid import Regrid
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verbs.targeted import check_kept, check_passes, fitting, runtime_of

DATA = Path(__file__).resolve().parents[1] / "data"


def test_the_plan_says_what_it_is_for_or_the_pass() -> None:
    passes = [Translate(runtime="qnn")]
    assert runtime_of(passes, None) == "qnn" and runtime_of([Reconstruct()], None) == "ort"
    assert runtime_of(passes, PlanOptions(runtime="tensorrt")) == "tensorrt"


def test_branches_need_float_operators() -> None:
    check_passes([Translate(), Reconstruct()], "generic-int8")
    check_passes([Translate(), Compensate()], "tensorrt")
    with pytest.raises(UserError, match="'compensate' adds float operators, which the target qnn does not have"):
        check_passes([Translate(), Compensate()], "qnn")


def test_only_for_onnxruntime_it_is_known_which_integers_are_faster() -> None:
    (ours,), (theirs,), (off,) = (
        fitting([p], r)  # type: ignore[arg-type]
        for p, r in ((Regrid(), "ort"), (Regrid(), "openvino"), (Regrid(unsigned=False), "ort"))
    )
    assert (ours, off) == (Regrid(), Regrid(unsigned=False))
    assert theirs == Regrid(unsigned=False, runtime="openvino")


@pytest.mark.parametrize("runtime", ["qnn", "generic-int8", "tensorrt"])
def test_the_default_passes_run_for_every_target(runtime: Any) -> None:
    """Where a target has no floats, no quantizer is left out."""
    model, _ = zoo.build("residual")
    found = onnx_ocs.rewrite(model, calib=inputs(model, 16), options=PlanOptions(runtime=runtime), verify=False)
    assert found.report["regions"]
    there = Regrid(leave_out=False, unsigned=False, runtime="generic-int8")
    assert fitting([Regrid(), Translate()], "generic-int8") == [there, Translate()]
    assert fitting([Regrid()], "tensorrt") == [Regrid(unsigned=False, runtime="tensorrt")]


def test_16_bits_where_the_target_takes_them() -> None:
    for runtime in ("ort", "qnn"):
        check_passes([Regrid(bits16=True)], runtime)  # type: ignore[arg-type]
    for runtime in ("openvino", "tensorrt", "generic-int8"):
        with pytest.raises(UserError, match=f"the target {runtime} takes no activations of 16 bits"):
            check_passes([Regrid(bits16=True)], runtime)  # type: ignore[arg-type]
    assert runtime_of([Regrid(bits16=True, runtime="qnn"), Reconstruct()], None) == "qnn"
    assert runtime_of([Regrid(), Translate(runtime="qnn")], None) == "qnn"
    limited = fitting([Regrid(bits16=True)], "ort", PlanOptions(max_latency=1.5))
    assert limited == [Regrid(bits16=True, max_latency=1.5)]


def test_a_rewrite_that_breaks_a_rule_is_not_written() -> None:
    model, _ = zoo.build("residual")
    new = onnx_ocs.rewrite(model, passes=[Translate(0.5)], verify=False).model
    check_kept(model, new, "ort")
    check_kept(model, model, "generic-int8")
    with pytest.raises(PassError, match=r"breaks a rule of the target generic-int8: .* runs in float"):
        check_kept(model, new, "generic-int8")


def test_inspection_says_what_is_within_reach_and_what_is_broken() -> None:
    model = onnx.load(DATA / "brevitas_cnn_leg_w4a4.onnx")
    report = onnx_ocs.inspect(model, passes=[Translate(runtime="qnn")])
    reasons = [e["reason"]["code"] for e in report["regions"] if e["status"] == "refused"]
    assert "target" in reasons and any(e["status"] == "candidate" for e in report["regions"])
    assert any(n.startswith("the file breaks a rule of qnn as it is: a Gemm runs in float") for n in report["notes"])
    assert not any("breaks a rule" in n for n in onnx_ocs.inspect(model).get("notes", ()))
