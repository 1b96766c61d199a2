"""The verb verify: the same answer as rewrite gave, and FAILED where the file was touched since."""

from __future__ import annotations

import logging
from pathlib import Path

import feeds
import misbehaved
import numpy as np
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.errors import UserError
from onnx_ocs.verbs.verify import FITTED

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def models() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    original = zoo.build("conv_relu_conv")[0]
    return original, onnx_ocs.rewrite(original).model


def test_passed(models: tuple[onnx.ModelProto, onnx.ModelProto], caplog: pytest.LogCaptureFixture) -> None:
    original, new = models
    calib = feeds.inputs(original, 20)
    with caplog.at_level(logging.INFO, "onnx_ocs"):
        report = onnx_ocs.verify(original, new, calib, limit=16)
    assert report["verification"]["verdict"] == "PASSED" and report["verb"] == "verify"
    assert report["quality"]["samples"] == report["outputs"][0]["samples"] == 16
    assert report["latency"]["ratio"] is not None and report["cost"]["macs_after"] > report["cost"]["macs_before"]
    (line,) = [r.getMessage() for r in caplog.records if r.name == "onnx_ocs.verification"]
    assert line.startswith("verification: PASSED, 0 new grids, 1 wide quantizers")


def test_without_samples(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    report = onnx_ocs.verify(*models)
    assert report["verification"]["verdict"] == "PASSED"
    assert report["outputs"] == [] and report["quality"]["reference"] is None
    assert "random" in report["verification"]["oracle"]["inputs"]


def test_failed(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """One weight of the rewritten file is another one: no figures of quality or time are given for it."""
    original, new = models
    broken = onnx.ModelProto()
    broken.CopyFrom(new)
    weight = next(t for t in broken.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    misbehaved.edit_array(weight, lambda a: a.__setitem__((0, 0, 0, 0), np.int8(a[0, 0, 0, 0] ^ 64)))
    report = onnx_ocs.verify(original, broken, feeds.inputs(original, 8))
    assert report["verification"]["verdict"] == "FAILED" and report["verification"]["failures"]
    assert report["latency"]["ratio"] is None and report["quality"]["sqnr_after_db"] is None
    assert report["outputs"] == []


def test_of_something_else(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    floats = onnx.ModelProto()
    floats.CopyFrom(models[0])
    for node in floats.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    with pytest.raises(UserError, match="no QuantizeLinear"):
        onnx_ocs.verify(floats, models[1])


def test_weights_that_were_fitted_to_a_float_model_are_to_be_held_against_it() -> None:
    """Against the original's own weights they look worse than they are: it is said."""
    quantized, floats, calib = (MODELS / f"digits.{name}" for name in ("w8a2.onnx", "fp32.onnx", "calib.npz"))
    new = onnx_ocs.rewrite(quantized, calib=str(calib), float_model=floats, passes=["reconstruct"], limit=64).model
    alone = onnx_ocs.verify(quantized, new, str(calib), limit=64)
    assert any(n == FITTED for n in alone["notes"])
    beside = onnx_ocs.verify(quantized, new, str(calib), floats, limit=64)
    assert FITTED not in beside["notes"]
    assert beside["quality"]["sqnr_after_db"] > beside["quality"]["sqnr_before_db"]
