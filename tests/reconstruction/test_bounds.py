"""What a layer's followers can express: bounds worked out from the file's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import Style, build, image

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction.bounds import Reach, reach
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.records.layouts import read_layouts


def first(model: onnx.ModelProto) -> Reach | None:
    graph = Graph(model)
    layer = find_maps(graph)[0]
    assert isinstance(layer, LinearMap)
    return reach(graph, layer)


def step(model: onnx.ModelProto, name: str) -> float:
    return float(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)))


@pytest.mark.parametrize(
    ("style", "zero", "low", "high"),
    [({}, "low", 0, 255), ({}, "mid", -128, 127), ({"bits": 3, "dtype": "int8"}, "mid", -4, 3)],
)
def test_a_quantizer_alone(style: dict[str, Any], zero: str, low: int, high: int) -> None:
    n, x = image(Style(**style))
    model = n.model(n.conv(n.qdq(n.conv(x), zero)))
    found, s = first(model), step(model, "conv1_scale")
    assert found is not None and found.levels == high - low + 1
    assert np.allclose(found.low, low * s) and np.allclose(found.high, high * s)
    assert found.low.shape == found.high.shape == (8,)


def test_the_tightest_bound_holds() -> None:
    """A Relu or a Clip cuts before the quantizer does."""
    n, x = image(Style())
    model = n.model(n.conv(n.qdq(n.clip(n.conv(x), -0.25, 1.5), "mid", scale=0.1)))
    found = first(model)
    assert found is not None and np.all(found.low == -0.25) and np.all(found.high == 1.5)
    n, x = image(Style())
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)), "mid", scale=0.1)))
    found = first(model)
    assert found is not None and np.all(found.low == 0) and np.allclose(found.high, 12.7)


def test_of_several_quantizers_the_tightest() -> None:
    model, _ = build("two_different_quantizers")
    found, s = first(model), step(model, "relu1_scale")
    assert found is not None and np.allclose(found.high, 255 * s)
    assert step(model, "again_scale") > s


@pytest.mark.parametrize("name", ["float_read", "output_float", "silu"])
def test_what_others_read_too(name: str) -> None:
    """A Relu that a Sigmoid reads too has no bound above; a Mul with the Sigmoid of itself none at all."""
    found = first(build(name)[0])
    if name == "silu" or name == "float_read":
        assert found is None
    else:
        assert found is not None and np.isfinite(found.high).all()


def test_an_output_has_none() -> None:
    model, _ = build("conv_relu_conv")
    graph = Graph(model)
    last = find_maps(graph)[-1]
    assert isinstance(last, LinearMap) and last.y in graph.outputs and reach(graph, last) is None


def test_copies_reach_further() -> None:
    model, _ = build("conv_relu_conv")
    wide, _ = run_passes(model, [Translate(ratio=1.0, copies=2)], Context())
    ((_, layout),) = read_layouts(wide).values()
    found = first(wide)
    copies = np.bincount(layout.origin, minlength=8) - 1
    assert found is not None and copies.max() > copies.min()
    assert np.allclose(found.high, 255 * step(wide, "relu1_scale") * (1 + copies))


def test_channels_by_themselves() -> None:
    model, _ = build("depthwise_per_channel")
    found = first(model)
    scales = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "relu1_scale"))
    assert found is not None and scales.shape == (8,) and np.allclose(found.high, 255 * scales)
