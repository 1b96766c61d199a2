"""Which linear outputs can have copies of a whole range."""

from __future__ import annotations

import re

import linear_outputs as nets
import numpy as np
import onnx
import pytest
import zoo
from onnx import helper
from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq.layers import read_layer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.full import sums_of_weights, unpadded
from onnx_ocs.regions.region import Region


def region(model: onnx.ModelProto, tensor: str = "conv2") -> Region:
    return next(
        r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region) and r.tensor == tensor
    )


def why(model: onnx.ModelProto, tensor: str = "conv2") -> str:
    early = region(model, tensor).early
    assert isinstance(early, Refusal)
    return f"{early.code}: {early.message}"


def identity(n: Net, x: str) -> str:
    return n.conv(n.op("Identity", x), kernel=1)


def product(n: Net, x: str) -> str:
    return n.matmul(n.op("Transpose", x, perm=[0, 2, 3, 1]), 5)


@pytest.mark.parametrize("reader", [nets.point, nets.shortcut, nets.valid, nets.depthwise])
def test_layers_without_padding_and_sums_take_the_constant(reader: nets.Reader) -> None:
    assert region(nets.net(reader, Style(bias="int32"))[0]).full


@pytest.mark.parametrize(
    ("reader", "style", "told"),
    [
        (nets.padded, Style(), "early_reader: 'conv3/Conv' pads"),
        (nets.pooled, Style(), "early_reader: 'maxpool1/MaxPool' carries"),
        (identity, Style(), "early_reader: 'identity1/Identity' carries"),
        (product, Style(), "early_reader: 'transpose1/Transpose' carries"),
        (nets.point, Style(bias="half"), "early_reader: .* does not count in products"),
        (nets.point, Style(bias="int8"), "early_reader: .* does not count in products"),
        (nets.point, Style(weight="float"), "early_reader: .* without a step"),
        (nets.point, Style(half=True, opset=21), "early_activation"),
    ],
)
def test_others_do_not(reader: nets.Reader, style: Style, told: str) -> None:
    assert re.match(told, why(nets.net(reader, style)[0]))


def test_a_quantizer_of_something_else_is_refused_as_before() -> None:
    model, _ = zoo.build("residual")
    assert why(model, "x").startswith("early_activation")
    assert not region(model, "relu1").full  # it rectifies


def test_integers_that_leave() -> None:
    model, _ = nets.net(nets.point, Style())
    model.graph.output.append(helper.make_tensor_value_info("conv2_q", onnx.TensorProto.UINT8, None))
    assert why(model).startswith("early_reader")


@pytest.mark.parametrize(
    ("attributes", "shape", "fine"),
    [
        ({}, (3, 4, 3, 3), True),
        ({"pads": [0, 0, 0, 1]}, (3, 4, 3, 3), False),
        ({"auto_pad": "SAME_UPPER"}, (3, 4, 3, 3), False),
        ({"auto_pad": "SAME_UPPER"}, (3, 4, 1, 1), True),
        ({"auto_pad": "VALID"}, (3, 4, 3, 3), True),
    ],
)
def test_unpadded(attributes: dict[str, object], shape: tuple[int, ...], fine: bool) -> None:
    assert unpadded(helper.make_node("Conv", ["x", "w"], ["y"], **attributes), shape) is fine
    assert not unpadded(helper.make_node("ConvTranspose", ["x", "w"], ["y"]), shape)
    assert not unpadded(helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5), (3, 4))


@pytest.mark.parametrize("weight", ["int8", "uint8"])
def test_sums_of_weights(weight: str) -> None:
    model, _ = nets.net(nets.valid, Style(weight=weight))
    g = Graph(model)
    layer = read_layer(g, g.producer["conv3"])
    assert layer is not None
    stored = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "conv3_w"))
    want = stored.astype(np.int64) - (128 if weight == "uint8" else 0)
    assert np.array_equal(sums_of_weights(g, layer), want.sum((2, 3)))
