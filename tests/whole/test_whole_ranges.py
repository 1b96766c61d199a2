"""Copies of a whole range in front of signed quantizers, exact by a second opinion, at both optimization levels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import linear_outputs as nets
import numpy as np
import onnx
import pytest
import zoo
from checks import LEVELS, check_outputs, check_structure
from zoo import Style

from onnx_ocs.api import rewrite
from onnx_ocs.errors import VerificationError
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.regions import full
from onnx_ocs.targets.ort import integer_kernels

EXACT = zoo.Case("whole ranges", lambda style: None, exact=True)  # type: ignore[arg-type, return-value]
ROUNDED = zoo.Case("whole ranges", lambda style: None, exact=False)  # type: ignore[arg-type, return-value]
STYLES = {
    "uint8": Style(),
    "int8, no bias": Style(dtype="int8", bias="none"),
    "int32 bias": Style(bias="int32"),
    "uint8 weights, one step": Style(dtype="int8", weight="uint8", per_channel=False),
    "int16": Style(dtype="int16", opset=21),
    "4 bits": Style(dtype="int8", bias="int32", weight="fake"),
}
READERS = {"point": nets.point, "shortcut": nets.shortcut, "depthwise": nets.depthwise, "valid": nets.valid}
CASES = [("uint8", r) for r in READERS] + [(s, "shortcut") for s in STYLES if s != "uint8"]


def entry(report: dict[str, Any], tensor: str = "conv2") -> dict[str, Any]:
    return next(e for e in report["regions"] if e["tensor"] == tensor)


@pytest.mark.parametrize(("style", "reader"), CASES)
def test_rewrite(style: str, reader: str) -> None:
    model, feed = nets.net(READERS[reader], STYLES[style])
    result = rewrite(model, passes=[Translate(1.0, 2)])
    found = entry(result.report)
    assert found["mode"] == "early" and found["full"] and any(found["copies"]) and any(found["copies_low"])
    ends = found["qmax"] - found["zero_point"] + max(found["copies"]) * (found["qmax"] - found["qmin"])
    assert found["x_clip_after"] == pytest.approx(ends * found["scale"])
    check_outputs(ROUNDED if STYLES[style].bias != "float" else EXACT, model, result, feed, LEVELS, 0.01)
    check_structure(model, result.model, "translate 1")


def test_a_gemm_reads_them_too() -> None:
    model, feed = nets.dense(Style())
    result = rewrite(model, passes=[Translate(1.0, 1, "early")])
    assert entry(result.report, "gemm1")["full"]
    check_outputs(EXACT, model, result, feed, ("enable_all",), 0.01)


def test_no_node_is_added_and_no_kernel_lost() -> None:
    model, _ = nets.net(nets.point, Style(bias="int32"))
    new = rewrite(model, passes=[Translate(1.0, 2, "early")]).model
    assert Counter(n.op_type for n in new.graph.node) == Counter(n.op_type for n in model.graph.node)
    assert integer_kernels(new) == integer_kernels(model) == 3


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_a_plan_with_another_step(scale: float) -> None:
    model, feed = nets.net(nets.shortcut, Style(bias="int32"))
    step = float(zoo_step(model)) * scale
    up, low = np.asarray([3, 0, 1, 0, 2, 0]), np.asarray([0, 2, 0, 1, 2, 0])
    plan = Plan("", (PlannedRegion("conv2", ("conv2_q",), np.asarray(np.float32(step), np.float64), up, low, "early"),))
    result = rewrite(model, passes=[Translate(plan=plan)])
    found = entry(result.report)
    assert found["full"] and (found["copies"], found["copies_low"]) == (up.tolist(), low.tolist())
    check_outputs(ROUNDED, model, result, feed, LEVELS, 0.0)


def zoo_step(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "conv2_scale"))


@pytest.mark.parametrize("reader", [nets.padded, nets.pooled])
def test_others_get_late_copies(reader: nets.Reader) -> None:
    model, feed = nets.net(reader, Style())
    result = rewrite(model, passes=[Translate(1.0, 2)])
    assert entry(result.report)["mode"] == "late" and not entry(result.report)["full"]
    check_outputs(EXACT, model, result, feed, ("disable_all",), 0.01)
    why = entry(rewrite(model, passes=[Translate(1.0, 2, "early")], verify=False).report)["reason"]
    assert why["code"] == "mode" and "early_reader" in why["message"]


def test_in_padding_they_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "unpadded", lambda *_: True)
    model, _ = nets.net(nets.padded, Style())
    with pytest.raises(VerificationError, match="pads"):
        rewrite(model, passes=[Translate(1.0, 2, "early")])


def test_with_samples_they_are_planned() -> None:
    model, feed = nets.net(nets.point, Style(bias="int32"), share=0.6)
    options = PlanOptions(budget=1.0, copies=2, mode="early", max_latency=None, rescale=False)
    result = rewrite(model, calib=feed, passes=[Translate()], options=options)
    assert entry(result.report)["full"] and any(entry(result.report)["copies"])
    quality = result.report["quality"]
    assert quality["sqnr_after_db"] > quality["sqnr_before_db"] + 1
