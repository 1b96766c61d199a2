"""What onnxruntime's optimizer does differently is held against the rewrite only where the oracle does not show it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs import api
from onnx_ocs.passes.translate import Translate
from onnx_ocs.targets.ort import optimized
from onnx_ocs.verification.difference import Difference
from onnx_ocs.verification.optimizer import excess


def saturated(channels: int = 16, width: int = 64) -> onnx.ModelProto:
    """Every activation is clipped, then pooled, and read by a MatMul that onnxruntime turns into MatMulNBits."""
    rng = np.random.default_rng(0)
    g = helper.make_graph(
        [],
        "saturated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
    )

    def const(name: str, value: np.ndarray) -> str:
        g.initializer.append(numpy_helper.from_array(value, name))
        return name

    def add(op: str, inputs: list[str], out: str, **attributes: object) -> str:
        g.node.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    s, z = const("s", np.float32(2**-6)), const("z", np.uint8(0))
    a = add("DequantizeLinear", [add("QuantizeLinear", [add("Relu", ["x"], "r"), s, z], "q"), s, z], "d")
    a = add("Flatten", [add("GlobalAveragePool", [a], "p")], "f")
    w = const("w", rng.integers(-8, 8, (channels, width)).astype(np.int8))
    w = add("DequantizeLinear", [w, const("ws", np.float32(0.125)), const("wz", np.int8(0))], "wd")
    b = const("b", rng.standard_normal(width).astype(np.float32))
    a = add("LeakyRelu", [add("Add", [b, add("MatMul", [a, w], "m")], "sum")], "l", alpha=0.5)
    s, z = const("s2", np.float32(0.1)), const("z2", np.uint8(128))
    add("DequantizeLinear", [add("QuantizeLinear", [a, s, z], "q2"), s, z], "y")
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_what_clipping_hid_is_not_held_against_the_rewrite() -> None:
    model = saturated()
    run = optimized(model)
    if run is None or not any(n.op_type == "MatMulNBits" for n in run.graph.node):
        pytest.skip("this onnxruntime runs the MatMul in float")
    x = 5 + 6 * np.abs(np.random.default_rng(1).standard_normal((20, 16, 4, 4))).astype(np.float32)
    found = api.rewrite(model, calib={"x": x}, passes=[Translate(2.0, 2)]).report["verification"]
    assert found["verdict"] == "PASSED"
    assert found["oracle"]["original_between_levels"]["mismatch_fraction"] == 0
    assert found["levels"][1]["mismatch_fraction"] == 0


def test_more_than_the_original_shows_is_too_much() -> None:
    def differing(share: float, steps: int = 1) -> Difference:
        return Difference(values=1000, mismatches=int(1000 * share), max_steps=steps)

    assert not excess(differing(0.02), differing(0.03))
    assert excess(differing(0.02), differing(0.0))
    assert excess(differing(0.2), differing(0.03))
    assert excess(differing(0.0, steps=4), differing(0.03))


def test_layers_know_no_more_of_their_shapes_than_the_model() -> None:
    """Where shapes are fixed, onnxruntime makes a Gemm of this MatMul and Add, and rounds its bias to large steps."""
    g = helper.make_graph(
        [],
        "coarse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 2])],
    )

    def add(op: str, inputs: list[str], out: str) -> str:
        g.node.append(helper.make_node(op, inputs, [out]))
        return out

    constants = {
        "s": np.float32(1), "z": np.asarray(15, ml_dtypes.uint4),
        "w": np.asarray([[-1, -3], [-3, -3]], np.int8), "ws": np.float32(0.25),
        "wz": np.int8(0), "b": np.asarray([-0.903, -0.703], np.float32), "s2": np.float32(1 / 128), "z2": np.uint8(0),
        "w2": np.asarray([[-2, 1], [2, -2]], np.int8),
    }  # fmt: skip
    g.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    a = add("DequantizeLinear", [add("QuantizeLinear", ["x", "s", "z"], "q"), "s", "z"], "d")
    a = add("Add", [add("MatMul", [a, add("DequantizeLinear", ["w", "ws", "wz"], "wd")], "m"), "b"], "a")
    a = add("DequantizeLinear", [add("QuantizeLinear", [a, "s2", "z2"], "q2"), "s2", "z2"], "d2")
    add("MatMul", [a, add("DequantizeLinear", ["w2", "ws", "wz"], "w2d")], "y")
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = api.rewrite(model, passes=[Translate(2.0, 1)])
    assert found.changed and found.report["verification"]["verdict"] == "PASSED"


def test_an_output_is_measured_against_all_batches() -> None:
    """A batch in which an output is next to nothing holds float noise only, which is no error of the rewrite."""
    d = Difference()
    d.floats("y", np.asarray([2e-6], np.float32), np.asarray([2.5e-6], np.float32))
    assert d.relative > 0.2
    d.floats("y", np.asarray([0.05], np.float32), np.asarray([0.05], np.float32))
    assert 0 < d.relative < 1e-4
    d.floats("z", np.asarray([1.0], np.float32), np.asarray([1.1], np.float32))
    assert d.relative == pytest.approx(0.1, rel=1e-3)  # another output's size is no measure
