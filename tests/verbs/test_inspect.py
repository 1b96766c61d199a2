"""The verb inspect: what could be done, what each activation costs, and what the file already carries."""

from __future__ import annotations

import feeds
import numpy as np
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.translate import Translate
from onnx_ocs.verbs import inspect as module


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return zoo.build("conv_relu_conv")[0]


@pytest.fixture(scope="module")
def calib(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return feeds.inputs(model, 32)


def test_candidates_are_what_rewrite_would_do(model: onnx.ModelProto) -> None:
    found = {r["tensor"]: r for r in onnx_ocs.inspect(model)["regions"]}
    done = {r["tensor"]: r for r in onnx_ocs.rewrite(model, verify=False).report["regions"]}
    assert found.keys() == done.keys()
    for tensor, r in found.items():
        assert (r["status"] == "candidate") == (done[tensor]["status"] == "applied")
        assert (r["mode"], r["copies"]) == (done[tensor]["mode"], done[tensor]["copies"])
        assert "share_clipped" in r or r["reason"] is not None
    assert any(r["status"] == "candidate" for r in found.values())


def test_options_of_the_pass(model: onnx.ModelProto) -> None:
    report = onnx_ocs.inspect(model, passes=[Translate(ratio=0.0)])
    assert {r["reason"]["code"] for r in report["regions"]} >= {"ratio"}


def test_measured(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    before = model.SerializeToString(deterministic=True)
    report = onnx_ocs.inspect(model, calib)
    assert model.SerializeToString(deterministic=True) == before
    loss = report["loss"]
    assert loss["share_all"] == 1.0 and loss["samples"] == 32
    for r in report["regions"]:
        assert r["error"]["samples"] == 32 and r["share_alone"] >= 0
        assert "isolated_after_db" not in r["error"], "nothing was rewritten"
    (row,) = report["outputs"]
    assert row["sqnr_before_db"] == row["sqnr_after_db"] == report["quality"]["sqnr_before_db"]
    assert report["cost"]["macs_before"] == report["cost"]["macs_after"]


def test_a_loss_that_cannot_be_measured_is_said(
    model: onnx.ModelProto, calib: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_loss", lambda *_: None)
    report = onnx_ocs.inspect(model, calib)
    assert "loss" not in report and "share_alone" not in report["regions"][0]
    assert any("what each quantizer costs was not measured" in n for n in report["notes"])


def test_a_file_that_was_rewritten(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    new = onnx_ocs.rewrite(model, calib=calib, passes=[Translate(), Compensate(budget=4.0)], verify=False)
    report = onnx_ocs.inspect(new.model)
    applied = [c["output"] for c in new.report["compensations"] if c["status"] == "applied"]
    assert [c["output"] for c in report["compensations"]] == applied
    assert f"this file has been rewritten: translate{', compensate' if applied else ''}" in report["notes"]
