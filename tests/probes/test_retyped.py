"""The yardstick of integers without a sign."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo
from mistakes import integers_leave

from onnx_ocs.model.graph import Graph
from onnx_ocs.probes.retyped import retyped


def test_the_same_numbers() -> None:
    model, feed = zoo.build("int8_residual")
    new = retyped(model, ["relu1_q", "relu2_q"])
    onnx.checker.check_model(new, full_check=True)
    for a, b in zip(zoo.execute(new, feed), zoo.execute(model, feed), strict=True):
        np.testing.assert_array_equal(a, b)
    graph = Graph(new)
    zero = graph.constant(graph.producer["relu1_q"].input[2])
    assert zero is not None and zero.dtype == np.uint8
    assert "relu1_zero" not in graph.initializers and "x_zero" in graph.initializers
    assert Graph(model).initializers.keys() >= {"relu1_zero"}, "the original was changed"


@pytest.mark.parametrize(
    ("model", "name", "why"),
    [
        (zoo.build("int8")[0], "relu1", "no quantizer"),
        (zoo.build("conv_relu_conv")[0], "relu1_q", "no zero-point of int8"),
        (integers_leave(zoo.build("int8")[0], "relu1_q"), "relu1_q", "leave the graph"),
        (zoo.build("clip_open")[0], "relu1_q", "reads the integers"),
    ],
    ids=["another node", "uint8", "outputs", "a Clip"],
)
def test_what_cannot_be(model: onnx.ModelProto, name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        retyped(model, [name])
