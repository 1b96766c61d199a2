"""Latency before and after, as the report has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_ocs
from onnx_ocs.measurement import latency
from onnx_ocs.measurement.latency import latencies

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS, CALIB = MODELS / "digits.w8a2.onnx", str(MODELS / "digits.calib.npz")


def product(size: int) -> onnx.ModelProto:
    w = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    x, y = (helper.make_tensor_value_info(t, TensorProto.FLOAT, [1, "n", size]) for t in "xy")
    g = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [w])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_takes_longer() -> None:
    one = product(96)
    more = onnx.ModelProto()
    more.CopyFrom(one)
    del more.graph.node[:]
    for k in range(10):  # ten times the work
        ends = "x" if k == 0 else f"t{k - 1}", "y" if k == 9 else f"t{k}"
        more.graph.node.append(helper.make_node("MatMul", [ends[0], "w"], [ends[1]]))
    feed = {"x": np.ones((1, 256, 96), np.float32)}
    found = latencies([one, more], feed)
    assert found is not None and 0 < 3 * found[0] < found[1]
    same = latencies([one, one], feed)
    assert same is not None and 0.3 < same[1] / same[0] < 3


def test_what_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = product(8), {"x": np.ones((1, 2, 8), np.float32)}
    assert latencies([model, model], {"x": np.ones((1, 2, 9), np.float32)}) is None
    broken = product(8)
    broken.graph.node[0].op_type = "NoSuchOperator"
    assert latencies([model, broken], feed) is None
    monkeypatch.setattr(latency, "LARGE", 16)
    assert latencies([model, model], feed) is None


def test_in_the_report() -> None:
    result = onnx_ocs.rewrite(DIGITS, calib=CALIB, limit=16)
    time = result.report["latency"]
    assert time["ratio"] == pytest.approx(time["after_ms"] / time["before_ms"])
    assert 0.2 < time["ratio"] < 10
    for report in (
        onnx_ocs.rewrite(DIGITS, calib=CALIB, limit=16, verify=False).report,
        onnx_ocs.inspect(DIGITS),
    ):
        assert report["latency"]["ratio"] is None
