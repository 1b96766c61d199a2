"""What an exporter or a quantizer got wrong is named, with the layers that it is about."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from tiny import node

import onnx_ocs
from onnx_ocs.model.graph import Graph
from onnx_ocs.regions.flaws import flaws, lost_activations, saturated_biases

RNG = np.random.default_rng(2)
W1, W2 = RNG.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32), RNG.normal(0, 0.3, (4, 8, 1, 1)).astype(np.float32)


def quantized(zero: int = 128, bias: int = 1000, between: str = "") -> onnx.ModelProto:
    step = np.float32(np.abs(W1).max() / 127)
    stored = np.full(8, 7, np.int32)
    stored[3] = bias
    values: dict[str, Any] = {
        "w1": np.rint(W1 / step).astype(np.int8), "sw": step, "b": stored, "sb": step * np.float32(0.02), "w2": W2,
        "s": np.float32(0.02), "z": np.uint8(zero), "zi": np.uint8(128),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s zi", "qx"), node("DequantizeLinear", "qx s zi", "dx"),
        node("DequantizeLinear", "w1 sw", "dw"), node("DequantizeLinear", "b sb", "db"),
        node("Conv", "dx dw db", "c", pads=[1] * 4),
        *([node(between, "c", "a")] if between else [node("Identity", "c", "a")]),
        node("QuantizeLinear", "a s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Conv", "d w2", "y"),
    ]  # fmt: skip
    return tiny.model(nodes, values)


def floats(kind: str) -> onnx.ModelProto:
    nodes = [node("Conv", "x w1", "c", pads=[1] * 4), node(kind, "c", "a"), node("Conv", "a w2", "y")]
    return tiny.model(nodes, {"w1": W1, "w2": W2})


@pytest.mark.parametrize(("bias", "saturated"), [(2**31 - 1, True), (-(2**31), True), (-(2**31) + 1, True), (9, False)])
def test_saturated_biases(bias: int, saturated: bool) -> None:
    model = quantized(bias=bias)
    assert saturated_biases(Graph(model)) == (["c/Conv"] if saturated else [])
    assert (["saturated" in f and "'c/Conv'" in f for f in flaws(model, None)] == [True]) is saturated


@pytest.mark.parametrize(
    ("kind", "zero", "between", "lost"),
    [
        ("Relu", 128, "", True),
        ("HardSwish", 128, "", True),
        ("Relu", 0, "", False),  # the quantizer is the ReLU
        ("Relu", 128, "Relu", False),
        ("Identity", 128, "", False),
    ],
)
def test_lost_activations(kind: str, zero: int, between: str, lost: bool) -> None:
    model = quantized(zero, between=between)
    assert lost_activations(Graph(model), floats(kind)) == ([("c/Conv", kind)] if lost else [])
    assert flaws(model, None) == []


def test_inspect_names_them() -> None:
    """The float model's Relu is gone, a bias saturates; and weights of two levels cost more than 8-bit activations."""
    model = quantized(bias=2**31 - 1)
    samples = {"x": RNG.normal(0, 0.5, (4, 3, 4, 4)).astype(np.float32)}
    notes = onnx_ocs.inspect(model, samples, floats("Relu"))["notes"]
    assert sum("int32 biases are saturated" in n for n in notes) == 1
    assert sum("missing: behind 'c/Conv' (Relu)" in n for n in notes) == 1
    assert sum("the weights alone cost more" in n for n in notes) == 1
    good = onnx_ocs.inspect(quantized(0, 7), samples, floats("Relu"))["notes"]
    assert not any("saturated" in n or "missing" in n for n in good)
