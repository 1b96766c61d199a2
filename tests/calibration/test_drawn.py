"""Random samples of a size at which the model runs: heights and widths that are free are tried at usual sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny
from tiny import node

import onnx_ocs
from onnx_ocs.calibration.drawn import SIDE, random_samples, usual_size
from onnx_ocs.errors import UserError


def pooled(side: int) -> onnx.ModelProto:
    """A quantized network that ends in a pool of a fixed size and a matrix: it runs at one size alone."""
    rng = np.random.default_rng(0)
    values = {
        "w": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32), "m": rng.normal(0, 1, (16, 5)).astype(np.float32),
        "s": np.float32(0.01), "z": np.uint8(128), "shape": np.array([-1, 16]),
    }  # fmt: skip
    size = side // 2
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("Conv", "d w", "c", pads=[1] * 4, strides=[2, 2]),
        node("AveragePool", "c", "p", kernel_shape=[size // 2, size // 2], strides=[size // 2, size // 2]),
        node("Reshape", "p shape", "f"), node("MatMul", "f m", "y"),
    ]  # fmt: skip
    return tiny.model(nodes, values, {"x": ["N", 3, "H", "W"]})


@pytest.mark.parametrize("side", [64, 224, 640])
def test_usual_sizes_are_tried(side: int) -> None:
    model = pooled(side)
    found = usual_size(model)
    feed = next(random_samples(model, 1, 0, side=found).batches(1))
    assert found != SIDE and feed["x"].shape == (1, 3, found, found)
    assert f"free heights and widths {found}" in random_samples(model, 1, 0, side=found).description


def test_sixteen_where_it_will_do_or_nothing_does() -> None:
    free = tiny.model([node("Relu", "x", "y")], None, {"x": ["N", 3, "H", "W"]})
    assert usual_size(free) == SIDE and usual_size(tiny.model([node("Relu", "x", "y")])) == SIDE
    assert usual_size(pooled(1300)) == SIDE
    rows = tiny.model([node("Relu", "x", "y")], None, {"x": ["N", "T", 3]})
    assert usual_size(rows) == SIDE and next(random_samples(rows, 1, 0, side=64).batches(1))["x"].shape == (1, 16, 3)


def test_rewritten_and_proven_without_samples() -> None:
    report = onnx_ocs.inspect(pooled(224))
    assert report["cost"]["macs_before"] > 112 * 112 * 3 * 4 * 9
    model = pooled(64)
    checked = onnx_ocs.verify(model, model)["verification"]
    assert checked["verdict"] == "PASSED" and checked["levels"][0]["values"] > 0


def test_a_model_without_inputs() -> None:
    model = tiny.model([node("Relu", "c", "y")], {"c": np.zeros(3, np.float32)}, {})
    with pytest.raises(UserError, match="no inputs"):
        random_samples(model, 1, 0)
