"""Constants of the original times powers of two."""

from __future__ import annotations

import gained_nets
import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.verification.factors import Factors
from onnx_ocs.verification.values import Differs
from onnx_ocs.verification.verify import verify


class Edited:
    """A model whose constants are edited in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.added = model, list[onnx.NodeProto]()
        self.factors = Factors(Graph(model), self.constant, self.added, lambda name: name + "_copy")

    def constant(self, like: str, value: np.ndarray) -> str:
        name = f"{like}_{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def value(self, tensor: str) -> np.ndarray:
        """A constant as its reader sees it now."""
        for n in self.added:
            if n not in self.model.graph.node:
                self.model.graph.node.insert(0, n)
        value = Graph(self.model).constant(tensor)
        assert value is not None
        return value


def turned(shared: bool) -> onnx.ModelProto:
    """A product with a weight that stands behind a Transpose; or two."""
    net = zoo.Net(gained_nets.FLOAT, x=(5, 16))
    x = net.qdq("x", "mid", 1.0)
    y = net.matmul(x, 12, bias=False, transpose=True)
    return net.model(y, *([net.op("MatMul", x, "matmul1_w_t")] if shared else []))


@pytest.mark.parametrize("shared", [False, True])
def test_channels_are_multiplied_behind_a_transpose(shared: bool) -> None:
    """What somebody else reads stays."""
    edited = Edited(turned(shared))
    before, octaves = edited.value("matmul1_w_t"), np.arange(12) - 4
    name = edited.factors.multiplied("matmul1_w_t", -1, 2.0**octaves)
    assert (name != "matmul1_w_t") == shared == bool(edited.added)
    assert np.array_equal(edited.value(name), before * np.float32(2) ** octaves)
    assert not shared or np.array_equal(edited.value("matmul1_w_t"), before)


def test_steps_of_others_are_not_multiplied() -> None:
    edited = Edited(turned(False))
    with pytest.raises(Differs, match="no step for each channel"):
        edited.factors.multiplied("matmul1_w_t", -2, np.ones(16))


@pytest.mark.parametrize("shared", [False, True])
def test_inputs_are_divided(shared: bool) -> None:
    model = gained_nets.twice_halved(turned(shared))
    edited = Edited(model)
    before, octaves = edited.value("matmul1_w_t"), np.arange(16) % 3 - 1
    graph = edited.factors.graph
    layer = graph.producer["matmul1"]
    grid = read_quantizer(graph, graph.producer["x_q"])
    assert isinstance(grid, Quantizer)
    edited.factors.divide(layer, grid, octaves)
    assert np.array_equal(edited.value(layer.input[1]), before / np.float32(2) ** octaves[:, None])
    assert not shared or np.array_equal(edited.value("matmul1_w_t"), before)


def test_steps_of_inputs_are_found() -> None:
    """A square weight whose steps are its inputs': they do not grow with its rows."""
    net = zoo.Net(gained_nets.FLOAT, x=(5, 16))
    y = net.op("Mul", "x", net.const("gamma", np.arange(1.0, 17.0)))
    original = net.model(net.matmul(net.qdq(y, "mid"), 16))
    new = gained_nets.given(original)
    assert not verify(original, new, random_samples(original, 1, 0), 1).failures
    for model in (original, new):
        dq = next(n for n in model.graph.node if n.output[0] == "matmul1_w_dq")
        dq.attribute[0].i = 0
    assert any("none of its outputs'" in f for f in verify(original, new, random_samples(original, 1, 0), 1).failures)
