"""The function in front of a quantizer, in every spelling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import zoo
from topologies import gelu_tanh
from zoo import Net, Style, image

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.activation import LAYERS, LEAST, Activation, recognise


def recognised(make: Callable[[Net, str], str], style: Style = Style(opset=20)) -> Activation:  # noqa: B008
    """What stands in front of a quantizer behind Conv and `make`."""
    n, x = image(style)
    t = make(n, n.conv(x))
    return recognise(Graph(n.model(n.conv(n.qdq(t, "mid")))), t)


ONE_NODE = {
    "Relu": "ReLU", "LeakyRelu": "LeakyReLU", "HardSwish": "HardSwish", "Elu": "ELU", "Gelu": "GELU", "Mish": "Mish",
    "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Softplus": "Softplus", "Softmax": "Softmax",
}  # fmt: skip


@pytest.mark.parametrize("op", ONE_NODE)
def test_one_node(op: str) -> None:
    a = recognised(lambda n, x: n.op(op, x))
    assert (a.kind, a.source, a.producer) == (ONE_NODE[op], "conv1", "Conv conv1/Conv")
    assert a.node is not None and a.node.op_type == op


def test_contrib_and_bounded() -> None:
    assert recognised(lambda n, x: n.op("Gelu", x, domain="com.microsoft")).kind == "GELU"
    assert recognised(lambda n, x: n.clip(x, 0, 6)).kind == "Clip"
    assert recognised(zoo.prelu(lambda n: [0.25])).kind == "PReLU"


SPELLED = {
    "erf": (Net.gelu, "GELU"),
    "tanh": (gelu_tanh, "GELU"),
    "silu": (lambda n, x: n.op("Mul", x, n.op("Sigmoid", x)), "SiLU"),
    "hard_swish": (lambda n, x: n.op("Mul", x, n.op("HardSigmoid", x)), "HardSwish"),
    "mish": (lambda n, x: n.op("Mul", x, n.op("Tanh", n.op("Softplus", x))), "Mish"),
    "quantized inside": (lambda n, x: n.op("Mul", x, n.qdq(n.op("Sigmoid", x))), "SiLU"),
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_spelled_out(spelling: str) -> None:
    make, kind = SPELLED[spelling]
    a = recognised(make)
    assert (a.kind, a.source, a.producer, a.node) == (kind, "conv1", "Conv conv1/Conv", None)


def test_a_product_of_two_tensors_is_no_function() -> None:
    """A gate that another layer computes is not SiLU."""
    a = recognised(lambda n, x: n.op("Mul", x, n.op("Sigmoid", n.conv(x))))
    assert a.kind == "Mul"


def test_nothing_in_front() -> None:
    a = recognised(lambda n, x: x)
    assert (a.kind, a.source, a.node) == ("none", "conv1", None)
    n, _ = image(Style())
    n.op("Relu", "x_dq", out="y")
    assert recognise(Graph(n.model("y")), "x") == Activation("none", "x", "graph input")


def test_a_bias_behind_the_layer_is_no_function() -> None:
    a = recognised(lambda n, x: n.op("Add", n.const("b", np.ones((8, 1, 1))), x))
    assert (a.kind, a.source) == ("none", "conv1")


@pytest.mark.parametrize(("rectified", "kind"), [(False, "residual Add"), (True, "residual Add + ReLU")])
def test_residual(rectified: bool, kind: str) -> None:
    def make(n: Net, x: str) -> str:
        s = n.op("Add", x, n.conv(x))
        return n.op("Relu", s) if rectified else s

    assert recognised(make).kind == kind


def test_what_has_no_name_is_called_by_its_operator() -> None:
    assert recognised(lambda n, x: n.op("GlobalMaxPool", x)).kind == "GlobalMaxPool"


def test_the_least_values_are_lower_bounds() -> None:
    """Of functions that dip below zero, computed densely; with some room for quantized pieces."""
    x = np.linspace(-12, 2, 5001)
    erf = np.vectorize(math.erf)
    sigmoid = 1 / (1 + np.exp(-x))
    true = {
        "GELU": x * (1 + erf(x / np.sqrt(2))) / 2,
        "SiLU": x * sigmoid,
        "HardSwish": x * np.clip(x + 3, 0, 6) / 6,
        "Mish": x * np.tanh(np.log1p(np.exp(x))),
    }
    assert LEAST.keys() == true.keys()
    for kind, values in true.items():
        assert 0.01 < values.min() - LEAST[kind] < 0.1, kind


def test_layers_are_the_weighted_ones() -> None:
    assert {"Conv", "ConvTranspose", "Gemm", "MatMul"} == LAYERS
