"""Nothing is rewritten for +0.00 dB."""

from __future__ import annotations

from dataclasses import replace

import feeds
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.calibration.context import Context
from onnx_ocs.passes import Translate
from onnx_ocs.passmanager import PassResult
from onnx_ocs.verbs import gain


def test_what_brings_nothing_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = zoo.build("conv_relu_conv")
    calib = feeds.inputs(model, 8)
    assert onnx_ocs.rewrite(model, calib=calib, passes=[Translate()], verify=False).changed
    monkeypatch.setattr(gain, "gains", lambda *_: False)
    done = onnx_ocs.rewrite(model, calib=calib, passes=[Translate()])
    assert not done.changed and done.model is model and done.verification is None
    assert any("brings +0.00 dB" in n for n in done.report["notes"])
    assert all(r["status"] == "refused" for r in done.report["regions"])
    assert "no_difference" in {r["reason"]["code"] for r in done.report["regions"]}
    q = done.report["quality"]
    assert q["sqnr_before_db"] == q["sqnr_after_db"]


@pytest.mark.parametrize("sure", [False, True])
def test_what_unseen_samples_are_sure_of_is_no_chance(sure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = zoo.build("conv_relu_conv")
    monkeypatch.setattr(gain, "by_chance", lambda *_: "'y' 10.00 dB -> 11.00 dB")

    class Translated(Translate):
        def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
            return replace(super().run(model, context), sure=sure)

    done = onnx_ocs.rewrite(model, calib=feeds.inputs(model, 16), passes=[Translated()], verify=False)
    assert done.changed == sure
    assert sure or {"by_chance"} <= {r["reason"]["code"] for r in done.report["regions"]}


def test_without_samples_nobody_knows() -> None:
    assert onnx_ocs.rewrite(zoo.build("conv_relu_conv")[0], verify=False).changed
