"""Scores that a mask hides do not decide about the step of the others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.tensor_errors import measure_layers
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.masked import NOTHING, floored, softmax_axes

TOKENS = 12


PLAIN = zoo.Style(bias="none")


def attention(style: zoo.Style = PLAIN, mask: float = -10000.0, readers: str = "softmax") -> onnx.ModelProto:
    """Attention weights of masked scores, as onnxruntime quantizes all of it by default."""
    net = zoo.Net(style, x=(TOKENS, 8))
    hidden = np.zeros((TOKENS, TOKENS), np.float32)
    hidden[:, TOKENS // 2 :] = mask
    scores = net.op("MatMul", "x", net.op("Transpose", "x", perm=[0, 2, 1]))
    masked = net.op("Add", scores, net.const("mask", hidden))
    low, high = float(hidden.min()), 40.0
    qmin, qmax = zoo.integer_range(style.dtype)
    step = (high - low) / (qmax - qmin) if style.dtype == "uint8" else -low / 127
    zero = int(np.clip(round(qmin - low / step), qmin, qmax)) if style.dtype == "uint8" else 0
    scale, z = net.const("s", step), net.const("z", zero, zoo.DTYPES[style.dtype])
    d = net.op("DequantizeLinear", net.op("QuantizeLinear", masked, scale, z), scale, z)
    y = net.op("Softmax", d, axis=-1 if style.opset >= 13 else 2)
    if readers == "both":
        y = net.op("Add", y, net.op("Relu", d))
    return net.model(net.op("MatMul", y, "x"))


def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((48, TOKENS, 8)).astype(np.float32)}


@pytest.mark.parametrize("mask", [-10000.0, -1e9, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("opset", [11, 17])
def test_masked_scores_are_seen_again(mask: float, dtype: str, opset: int) -> None:
    model = attention(zoo.Style(bias="none", dtype=dtype, opset=opset), mask)
    result = onnx_ocs.rewrite(model, calib=samples(), passes=[Regrid()])
    quality = result.report["quality"]
    assert quality["sqnr_before_db"] < 3 and quality["sqnr_after_db"] > 25
    assert result.report["verification"]["verdict"] == "PASSED"
    (entry,) = result.report["grids"]
    assert entry["edit"] == "new grid" and entry["scale"] < 0.7 < entry["scale_before"]
    assert (entry["zero_point"] == 0) == (dtype == "int8"), "a signed one stays symmetric"


def test_who_else_reads_them_needs_them() -> None:
    model = attention(readers="both")
    graph = Graph(model)
    assert not softmax_axes(graph, find_regions(graph, infer_shapes(model)))
    model = attention()
    graph = Graph(model)
    assert softmax_axes(graph, find_regions(graph, infer_shapes(model))) == {"add1": -1}


def test_the_floor_is_that_of_the_row() -> None:
    graph = Graph(attention())
    x = np.asarray([[0.0, -5, -30, -1e9], [-100, -101, -130, -3e38]], np.float32)
    wanted = np.maximum(x, np.asarray([[0.0], [-100]], np.float32) - np.float32(NOTHING))
    assert np.array_equal(floored(graph, x, -1), wanted)
    assert np.array_equal(floored(graph, x.T.copy(), 0), wanted.T)
    old = Graph(attention(zoo.Style(bias="none", opset=11)))
    assert np.array_equal(floored(old, x[None], 1), np.maximum(x, -np.float32(NOTHING))[None]), "all axes from it on"


def test_the_weights_are_the_same() -> None:
    """What is raised to the floor weighs as little there."""
    graph = Graph(attention())
    x = np.random.default_rng(0).normal(0, 30, (50, 20)).astype(np.float32)

    def softmax(v: np.ndarray) -> np.ndarray:
        e = np.exp(v.astype(np.float64) - v.max(-1, keepdims=True))
        return np.asarray(e / e.sum(-1, keepdims=True))

    assert np.abs(softmax(floored(graph, x, -1)) - softmax(x)).max() < 1e-7


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_errors_of_scores_are_those_that_count(dtype: str) -> None:
    """The report does not hold against a new grid that it clips what is masked."""
    model = attention(zoo.Style(bias="none", dtype=dtype))
    new = onnx_ocs.rewrite(model, calib=samples(), passes=[Regrid()]).model
    (found,) = measure_layers(model, new, Context(open_samples(samples(), model))).values()
    error = found["error"]
    assert error["isolated_before_db"] < 5 and error["isolated_after_db"] > 25
    assert error["accumulated_after_db"] > 25


def test_the_planner_sees_what_counts() -> None:
    """Statistics of masked scores end where the Softmax sees nothing: a finer step alone brings some of them back."""
    model = attention(zoo.Style(bias="none", dtype="int8"))
    result = onnx_ocs.rewrite(model, calib=samples(), passes="translate")
    quality = result.report["quality"]
    assert quality["sqnr_after_db"] > quality["sqnr_before_db"] + 5
    (region,) = result.report["regions"]
    assert region["mode"] == "rescale" and region["scale"] < region["scale_before"] / 8
