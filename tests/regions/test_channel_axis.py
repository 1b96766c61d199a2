"""The axis of the channels, by who makes the tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.channel_axis import channel_axis

TOKENS, IMAGE = (6, 8), (4, 6, 5)


def transposed(n: Net) -> str:
    return n.op("Transpose", n.conv("x"), perm=[0, 2, 3, 1])


def heads(n: Net) -> str:
    split = n.op("Reshape", n.matmul("x", 12), n.ints("split", 0, 6, 3, 4))
    return n.op("Transpose", split, perm=[0, 2, 1, 3])


MADE: dict[str, tuple[tuple[int, ...], Callable[[Net], str], int]] = {
    "conv": (IMAGE, lambda n: n.op("Sigmoid", n.conv("x")), 1),
    "conv, channels last": (IMAGE, transposed, 3),
    "matmul": (TOKENS, lambda n: n.op("Add", "x", n.matmul("x", 8)), 2),
    "norm": (TOKENS, lambda n: n.op("Mul", n.layer_norm("x"), n.const("two", 2.0)), 2),
    "heads": (TOKENS, heads, 3),
    "scores, transposed": (TOKENS, lambda n: n.op("Transpose", n.matmul("x", 5), perm=[0, 2, 1]), 1),
    "a picture as tokens": (IMAGE, lambda n: n.op("Reshape", n.conv("x"), n.ints("flat", 0, 8, 30)), 1),
    "an image that is given": (IMAGE, lambda n: n.op("Relu", "x"), 1),
    "tokens that are given": (TOKENS, lambda n: n.op("Relu", "x"), 2),
}


@pytest.mark.parametrize("name", MADE)
def test_the_axis_is_the_makers(name: str) -> None:
    shape, make, axis = MADE[name]
    n = Net(Style(opset=18), x=shape)
    y = make(n)
    model = n.model(y)
    assert channel_axis(Graph(model), y, infer_shapes(model)) == axis


def test_without_a_shape_nobody_knows() -> None:
    n = Net(Style(), x=TOKENS)
    model = n.model(n.op("Relu", "x"))
    assert channel_axis(Graph(model), "relu1", {}) is None
