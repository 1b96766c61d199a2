"""The function that reads a quantized tensor, in the spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, sqrt
from typing import Any

import numpy as np
import onnx
import pytest
import wasted
from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.function import Function, counts_beyond, function_behind
from onnx_ocs.regions.region import Region

Array = np.ndarray[Any, Any]
X = np.linspace(-20, 20, 161)
FUNCTIONS: dict[str, Function] = {
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "LeakyReLU": lambda x: np.where(x < 0, 0.3 * x, x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "GELU": lambda x: x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2,
    "square": np.square,
}


def quantized(n: Net, x: str) -> str:
    """A quantizer between two pieces."""
    return n.qdq(x, "mid", 1.0)


def silu(n: Net, t: str) -> str:
    return n.op("Mul", t, n.op("Sigmoid", t))


def quantized_silu(n: Net, t: str) -> str:
    return n.op("Mul", quantized(n, n.op("Sigmoid", t)), t)


def spelled_hard_swish(n: Net, t: str) -> str:
    six = n.clip(n.op("Add", t, n.const("three", 3.0)), 0, 6)
    return n.op("Mul", n.op("Mul", t, quantized(n, six)), n.const("sixth", 1 / 6))


def gated_hard_swish(n: Net, t: str) -> str:
    return n.op("Mul", t, n.op("HardSigmoid", t, alpha=1 / 6))


def quantized_gelu(n: Net, t: str) -> str:
    """As onnxruntime quantizes an erf chain: every piece, and 1.0 as well."""
    inside = quantized(n, n.op("Erf", quantized(n, n.op("Div", t, n.const("root", sqrt(2.0))))))
    one = n.dq(n.q(n.const("one", 1.0), "low", scale=1 / 255))
    return n.op("Mul", quantized(n, n.op("Mul", t, quantized(n, n.op("Add", inside, one)))), n.const("half", 0.5))


SPELLINGS: list[tuple[str | None, Callable[[Net, str], str]]] = [
    ("ReLU", lambda n, t: n.op("Relu", t)),
    ("ReLU6", lambda n, t: n.clip(t, 0, 6)),
    ("LeakyReLU", lambda n, t: n.op("LeakyRelu", t, alpha=0.3)),
    ("sigmoid", lambda n, t: n.op("Mul", n.op("Sigmoid", t), n.const("unit", 1.0))),
    ("SiLU", silu),
    ("SiLU", quantized_silu),
    ("HardSwish", lambda n, t: n.op("HardSwish", t)),
    ("HardSwish", gated_hard_swish),
    ("HardSwish", spelled_hard_swish),
    ("GELU", Net.gelu),
    ("GELU", quantized_gelu),
    ("square", lambda n, t: n.op("Mul", t, t)),
    (None, lambda n, t: n.op("Add", t, n.const("c", 2.0))),  # a straight line
    (None, lambda n, t: n.op("Mul", t, n.const("c", np.ones((8, 1, 1), np.float32)))),  # a factor for each channel
    (None, lambda n, t: n.op("Softmax", t)),
    (None, lambda n, t: n.op("Div", n.op("Relu", t), n.const("c", 0.0))),  # it has no values
    (None, lambda n, t: n.op("Mul", t, n.op("Pow", n.op("Mul", t, n.const("c", 1e10)), n.const("three", 3.0)))),
    (None, lambda n, t: n.op("Add", n.op("Relu", t), n.op("Softmax", t))),  # another reader sees the values
    (None, lambda n, t: n.op("Mul", n.op("Sigmoid", "x2"), t)),  # somebody else's gate
]


@pytest.mark.parametrize(("name", "spelled"), SPELLINGS, ids=[f"{k}: {n}" for k, (n, _) in enumerate(SPELLINGS)])
def test_the_function_behind(name: str | None, spelled: Callable[[Net, str], str]) -> None:
    net = Net(Style(opset=20), x=(3, 8, 8), x2=(8, 8, 8))
    t = quantized(net, net.conv("x"))
    y = spelled(net, t)
    model = net.model(net.op("Identity", net.conv(quantized(net, y), 4), out="y"))
    found = function_behind(Graph(model), regions(model)["conv1"])
    assert (found is None) == (name is None)
    if found is not None and name is not None:
        np.testing.assert_allclose(found(X.reshape(7, 23)), FUNCTIONS[name](X).reshape(7, 23), atol=1e-5 * 400)


def regions(model: onnx.ModelProto) -> dict[str, Region]:
    return {r.tensor: r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region)}


def test_an_output_sees_all_values() -> None:
    net = Net(x=(3, 8, 8))
    t = net.qdq(net.conv("x"), "mid", 1.0)
    model = net.model(net.op("Relu", t, out="y"), t)
    assert function_behind(Graph(model), regions(model)["conv1"]) is None


def test_equal_functions_are_one() -> None:
    """They are compiled once, whatever their tensors are called."""
    found = []
    for seed in (0, 1):
        model = wasted.silu() if seed else wasted.silu("quantized pieces")
        found.append(function_behind(Graph(model), regions(model)["sub1"]))
    assert found[0] is found[1] is not None


def test_what_counts_beyond_a_range() -> None:
    silu, leaky = FUNCTIONS["SiLU"], FUNCTIONS["LeakyReLU"]
    assert not counts_beyond(silu, -5.0, -60.0) and counts_beyond(silu, 5.0, 60.0)
    assert counts_beyond(leaky, -5.0, -60.0) and counts_beyond(None, -5.0, -60.0)
    assert not counts_beyond(FUNCTIONS["ReLU6"], 6.0, 60.0)


def test_a_factor_behind_a_function_changes_nothing() -> None:
    """What counts is how steep it is elsewhere: LayerScale and the like make all of it small."""
    for factor in (1e-6, 1 / 255, 1e6):

        def small(x: Array, factor: float = factor) -> Array:
            return factor * np.maximum(x, 0)

        assert counts_beyond(small, 5.0, 60.0) and not counts_beyond(small, -5.0, -60.0)
