"""Intervals that values cannot leave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scalar_chain import chain
from zoo import Net, Style, pool

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.intervals import both_bounds, clip_bounds, value_bounds


def test_bounds_of_what_is_asked() -> None:
    known = value_bounds(Graph(chain()), ["c"])
    assert known["c"] == (0.0, 6.0) and known["r"] == (0.0, np.inf)
    assert "c" not in value_bounds(Graph(chain()), ["y"])


def bounds_behind(make: Callable[[Net, str], str], low: float = -2.0, high: float = 3.0) -> tuple[float, float]:
    """The interval behind a function of a tensor in [low, high]."""
    n = Net(Style(opset=20), x=(4, 6, 6))
    t = make(n, n.clip("x", low, high))
    return value_bounds(Graph(n.model(t)), [t])[t]


BOUNDED: dict[str, tuple[Callable[[Net, str], str], tuple[float, float]]] = {
    "relu": (pool("Relu"), (0, 3)),
    "sigmoid": (pool("Sigmoid"), (0, 1)),
    "tanh": (pool("Tanh"), (-1, 1)),
    "elu": (pool("Elu"), (-2, 3)),
    "leaky": (pool("LeakyRelu", alpha=0.25), (-0.5, 3)),
    "gelu": (pool("Gelu"), (-0.5, 3)),
    "max_pool": (pool("MaxPool", kernel_shape=[2, 2]), (-2, 3)),
    "transpose": (pool("Transpose", perm=[0, 2, 1, 3]), (-2, 3)),
    "nearest": (lambda n, t: n.op("Resize", t, "", n.const("to", [1, 1, 2, 2])), (-2, 3)),
    "add": (lambda n, t: n.op("Add", t, n.const("c", [1.0, -4.0, 0, 0, 0, 0])), (-6, 4)),
    "sub": (lambda n, t: n.op("Sub", n.const("c", 1.0), t), (-2, 3)),
    "negative factor": (lambda n, t: n.op("Mul", t, n.const("c", -2.0)), (-6, 4)),
    "square": (lambda n, t: n.op("Mul", t, t), (-6, 9)),  # nothing is known of one side from the other
    "div": (lambda n, t: n.op("Div", t, n.const("c", [2.0, 0.5, 1, 1, 1, 1])), (-4, 6)),
    "concat": (lambda n, t: n.op("Concat", t, n.op("Sigmoid", t), axis=1), (-2, 3)),
    "max": (lambda n, t: n.op("Max", t, n.op("Sigmoid", t)), (0, 3)),
    "min": (lambda n, t: n.op("Min", t, n.op("Sigmoid", t)), (-2, 1)),
    "quantized": (lambda n, t: n.qdq(t, "mid", scale=0.01), (-1.28, 1.27)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds(name: str) -> None:
    make, expected = BOUNDED[name]
    assert bounds_behind(make) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["div by zero", "div by both signs", "conv", "exp", "cubic"])
def test_nothing_is_known(name: str) -> None:
    make: dict[str, Callable[[Net, str], str]] = {
        "div by zero": lambda n, t: n.op("Div", t, n.const("c", [0.0, 1, 1, 1, 1, 1])),
        "div by both signs": lambda n, t: n.op("Div", t, n.const("c", [-1.0, 1, 1, 1, 1, 1])),
        "conv": lambda n, t: n.conv(t),
        "exp": lambda n, t: n.op("Exp", t),
        "cubic": lambda n, t: n.op("Resize", t, "", n.const("to", [1, 1, 2, 2]), mode="cubic"),
    }
    assert bounds_behind(make[name]) == (-np.inf, np.inf)


def test_padding_brings_its_value_in() -> None:
    def pad(n: Net, t: str) -> str:
        return n.op("Pad", t, n.ints("pads", 0, 0, 1, 1, 0, 0, 1, 1), n.const("c", -7.0))

    assert bounds_behind(pad, 1, 3) == (-7, 3)
    assert bounds_behind(pool("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 1, 3) == (0, 3)


def test_an_integer_clip_narrows_the_quantizer() -> None:
    n = Net(Style(bits=3), x=(4, 6, 6))
    t = n.qdq("x", "low", scale=0.5)
    assert value_bounds(Graph(n.model(t)), [t])[t] == (0, 3.5)


def test_without_what_quantizers_can_express() -> None:
    """A weight's DequantizeLinear stays what it is; what copies may widen bounds nothing, nor what stands behind it."""
    n = Net(Style(weight="int8"), x=(4, 6, 6))
    a = n.qdq(n.clip("x", -2, 3), "mid", scale=0.01)
    t = n.op("Add", n.op("Relu", a), n.op("Sigmoid", a))
    w, _ = n.weight("w", np.linspace(-1, 1, 24).reshape(4, 6, 1, 1))
    model = n.model(t)
    found = both_bounds(Graph(model), [t, a, "clip1", w])
    assert found["clip1"] == ((-2, 3), (-2, 3))
    assert found[a][0] == pytest.approx((-1.28, 1.27)) and found[a][1] == (-np.inf, np.inf)
    assert found[t][0] == pytest.approx((0, 2.27)) and found[t][1] == (0, np.inf)
    assert found[w][0] == found[w][1] == pytest.approx((-1, 1), abs=0.01)
    assert value_bounds(Graph(model), [t]) == {k: v for k, (v, _) in both_bounds(Graph(model), [t]).items()}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(("low", "high"), (-1, 6)), (("", "high"), (-np.inf, 6)), (("low",), (-1, np.inf)), ((), (-np.inf, np.inf))],
)
def test_ends_of_a_clip(inputs: tuple[str, ...], expected: tuple[float, float]) -> None:
    n = Net(Style(), x=(4,))
    n.const("low", -1), n.const("high", 6)
    model = n.model(n.op("Clip", "x", *inputs, out="y"))
    assert clip_bounds(Graph(model), model.graph.node[0]) == expected


def test_ends_of_a_clip_in_attributes() -> None:
    n = Net(Style(opset=10), x=(4,))
    model = n.model(n.op("Clip", "x", min=-1.5, out="y"))
    low, high = clip_bounds(Graph(model), model.graph.node[0])
    assert low == -1.5 and high >= np.finfo(np.float32).max


def test_a_computed_end_is_unknown() -> None:
    n = Net(Style(), x=(4,))
    n.op("ReduceMax", "x", out="top", keepdims=0)
    model = n.model(n.op("Clip", "x", "", "top", out="y"))
    assert clip_bounds(Graph(model), next(m for m in model.graph.node if m.op_type == "Clip")) == (-np.inf, np.inf)


def test_a_divisor_whose_inverse_no_float16_holds() -> None:
    n = Net(Style(half=True), x=(4, 6, 6))
    t = n.op("Div", n.clip("x", 0, 6), n.const("c", 1e-6))
    _, high = value_bounds(Graph(n.model(t)), [t])[t]
    assert 5e6 < high < 7e6
