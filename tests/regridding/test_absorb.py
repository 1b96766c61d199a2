"""Who can absorb gains, and who cannot."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import gained_nets
import numpy as np
import onnx
import pytest
import zoo
from onnx import helper

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.regridding import absorb
from onnx_ocs.verification.verify import verify

SOURCES = {
    "norm": [("LayerNormalization", 1), ("LayerNormalization", 2)],
    "vectors": [("Add", 1), ("Mul", 0)],
    "gated": [("MatMul", 1)],
    "convs": [("Conv", 1), ("Conv", 2)],
    "gemms": [("Gemm", 1), ("Gemm", 2)],
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    (a,) = gained_nets.absorbers(gained_nets.build(name))
    assert [(o.node.op_type, o.index) for o in a.sources] == SOURCES[name]
    assert len(a.layers) == (2 if name == "norm" else 1)
    assert a.axis == (-3 if name == "convs" else -1)


def other_reader(net: zoo.Net) -> str:
    """The residual stream reads the normalization as well."""
    y = net.layer_norm("x")
    return net.op("Add", net.matmul(net.qdq(y, "mid"), 8), y)


def residual(net: zoo.Net) -> str:
    """A sum of two tensors."""
    y = net.op("Add", net.layer_norm("x"), net.op("Relu", "x"))
    return net.matmul(net.qdq(y, "mid"), 8)


def curved(net: zoo.Net) -> str:
    """A function that is not linear in a factor."""
    return net.matmul(net.qdq(net.op("Sigmoid", net.layer_norm("x")), "low"), 8)


def bounded(net: zoo.Net) -> str:
    """A bound is the same for all."""
    return net.matmul(net.qdq(net.clip(net.layer_norm("x"), 0.0, 6.0), "low"), 8)


def raised(net: zoo.Net) -> str:
    """One constant is added to all channels: it would have to become one for each."""
    y = net.op("Add", net.layer_norm("x"), net.const("one", 1.0))
    return net.matmul(net.qdq(y, "mid"), 8)


def no_layer(net: zoo.Net) -> str:
    """What reads the tensor is no layer."""
    return net.op("Relu", net.qdq(net.layer_norm("x"), "mid"))


def both(net: zoo.Net) -> str:
    """A layer and somebody else read it."""
    x = net.qdq(net.layer_norm("x"), "mid")
    return net.op("Add", net.matmul(x, 8), x)


def computed(net: zoo.Net) -> str:
    """The weight is no constant."""
    x = net.qdq(net.layer_norm("x"), "mid")
    return net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1]))


def of_the_input(net: zoo.Net) -> str:
    """Nothing stands in front."""
    return net.matmul(net.qdq("x", "mid"), 8)


def squared(net: zoo.Net) -> str:
    """Both factors are one tensor."""
    y = net.layer_norm("x")
    return net.matmul(net.qdq(net.op("Mul", y, y), "mid"), 8)


def float_weight(net: zoo.Net) -> str:
    """A float layer behind: its weight could be divided, but nothing is won in this file's integers."""
    w = net.const("w", net.draw(8, 8, fan=8))
    return net.op("MatMul", net.qdq(net.layer_norm("x"), "mid"), w)


def pooled(net: zoo.Net) -> str:
    """A pool over the channels of a MatMul."""
    y = net.op("Mul", "x", net.const("gamma", np.arange(1.0, 9.0)))
    y = net.op("AveragePool", y, kernel_shape=[3], pads=[1, 1])
    return net.matmul(net.qdq(y, "mid"), 8)


def read_twice(net: zoo.Net) -> str:
    """Scale and bias are one dequantized tensor, whose steps would be multiplied twice."""
    net.const("gamma", np.arange(1, 9), np.int8)
    steps, zeros = net.const("steps", np.full(8, 0.1)), net.const("zeros", np.zeros(8), np.int8)
    gamma = net.op("DequantizeLinear", "gamma", steps, zeros, axis=0)
    y = net.op("LayerNormalization", "x", gamma, gamma, axis=-1)
    return net.matmul(net.qdq(y, "mid"), 8)


def other_values(net: zoo.Net) -> str:
    """What is dequantized has another zero-point than what was quantized."""
    q = net.q(net.layer_norm("x"), "mid")
    zero = net.const("other_zero", 5, np.int8)
    x = net.op("DequantizeLinear", q, "layernormalization1_scale", zero)
    return net.matmul(x, 8)


@pytest.mark.parametrize(
    "make",
    [
        other_reader, residual, curved, bounded, raised, no_layer, both, computed, of_the_input, squared, float_weight,
        pooled, read_twice, other_values,
    ],
)  # fmt: skip
def test_who_cannot(make: Callable[[zoo.Net], str]) -> None:
    net = zoo.Net(gained_nets.FLOAT, x=(5, 8))
    model = net.model(make(net))
    assert not gained_nets.absorbers(model, paid=False), make.__doc__


def two_products(net: zoo.Net) -> str:
    """Two residual sums."""
    y = net.qdq(net.layer_norm("x"), "mid")
    return net.op("Add", net.op("Add", net.matmul(y, 8), y), y)


def quantized_sum(net: zoo.Net) -> str:
    """A sum of integers behind it, which has a kernel of its own."""
    y = net.qdq(net.layer_norm("x"), "mid")
    return net.qdq(net.op("Add", net.qdq(net.matmul(y, 8), "mid"), y), "mid")


def behind_integers(net: zoo.Net) -> str:
    """An integer kernel writes the tensor."""
    y = net.op("Sigmoid", net.qdq(net.layer_norm("x"), "mid"))
    return net.matmul(net.qdq(y, "low"), 8)


def float_between_integers(net: zoo.Net) -> str:
    """There is no integer kernel for a normalization, whatever stands in front; its scale has one step for all."""
    y = net.op("LayerNormalization", net.qdq("x", "mid"), net.qdq("x_scale", "mid"), axis=-1)
    return net.matmul(net.qdq(y, "mid"), 8)


def another_function(net: zoo.Net) -> str:
    """Who else reads it is no sum."""
    y = net.qdq(net.layer_norm("x"), "mid")
    return net.op("Add", net.matmul(y, 8), net.op("Softmax", y))


@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (other_reader, 1), (curved, 1), (both, 1), (two_products, 1), (residual, 1),
        (float_between_integers, 1),
        (quantized_sum, 0), (behind_integers, 0), (another_function, 0), (of_the_input, 0), (no_layer, 0),
    ],
)  # fmt: skip
def test_products_of_their_own(make: Callable[[zoo.Net], str], tensors: int) -> None:
    """Where no integer kernel is lost for them."""
    net = zoo.Net(gained_nets.FLOAT, x=(5, 8))
    net.const("x_scale", np.linspace(0.5, 2, 8))
    found = gained_nets.absorbers(net.model(make(net)))
    assert len([a for a in found if not a.sources]) == tensors, make.__doc__
    assert sum(len(a.others) for a in found) == {both: 1, two_products: 2}.get(make, 0)


def test_a_step_for_all_outputs_cannot_be_multiplied() -> None:
    """A layer before with one step for its whole weight: its rows would have to be rounded again."""
    model = gained_nets._convs(zoo.Style(bias="int32", opset=21, dtype="int8", per_channel=False))
    assert not gained_nets.absorbers(model, paid=False)


def test_steps_that_another_layer_reads_stay() -> None:
    """Two layers read one dequantized weight: its steps cannot be multiplied for one of them."""
    net = zoo.Net(gained_nets.INT32, x=(4, 8, 8))
    x = net.qdq("x", "mid", 1.0)
    first = net.qdq(net.op("Relu", net.conv(x, 4)), "low", 1.0)
    second = net.conv(x, 4, weight="conv1_w_dq")
    model = net.model(net.op("Add", net.conv(first, 4), second))
    assert not gained_nets.absorbers(model)


def test_what_is_a_graph_output_stays() -> None:
    model = gained_nets.build("norm")
    name = next(n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization")
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 5, 24]))
    assert not gained_nets.absorbers(model, paid=False)


def test_the_channels_of_some_normalizations_are_the_second_axis() -> None:
    """As many as the last axis is long, by chance: they are others, and the proof says so."""
    net = zoo.Net(gained_nets.FLOAT, x=(8, 8))
    model = net.model(net.matmul(net.qdq(net.batch_norm("x"), "mid"), 8))
    assert not gained_nets.absorbers(model, paid=False)
    with patch.object(absorb, "LAST", absorb.LAST + absorb.SECOND):
        bad = gained_nets.given(model)
        assert [a for a in gained_nets.absorbers(model) if a.sources]
    assert verify(model, bad, random_samples(model, 1, 0), 1).failures
    net = zoo.Net(gained_nets.FLOAT, x=(8,))
    model = net.model(net.gemm(net.qdq(net.batch_norm("x"), "mid"), 8))
    (a,) = gained_nets.absorbers(model, paid=False)
    assert [o.node.op_type for o in a.sources] == ["BatchNormalization"] * 2
    assert not verify(model, gained_nets.given(model), random_samples(model, 1, 0), 1).failures


def test_vectors_lie_along_the_channels() -> None:
    """A vector of as many values along another axis is none of channels."""
    net = zoo.Net(gained_nets.FLOAT, x=(8, 8))
    y = net.op("Mul", "x", net.const("rows", np.arange(1.0, 9.0).reshape(8, 1)))
    assert not gained_nets.absorbers(net.model(net.matmul(net.qdq(y, "mid"), 8)), paid=False)


def test_a_constant_may_add_an_axis() -> None:
    """The second axis of a normalization is the third one of what a constant with more axes makes of it."""
    for shape, found in (((1, 1, 1, 1), False), ((1, 1, 1), True)):
        net = zoo.Net(gained_nets.FLOAT, x=(3, 8) if not found else (3, 8, 8))  # of three samples
        y = net.op("InstanceNormalization", "x", *(net.const(k, np.full(3, 0.5)) for k in ("gamma", "beta")))
        y = net.op("Mul", y, net.const("half", np.full(shape, 0.5)))
        w, _ = net.weight("w", net.draw(4, 3, 1, 1, fan=3))
        model = net.model(net.op("Conv", net.qdq(y, "mid"), w))
        assert bool(gained_nets.absorbers(model, paid=False)) == found
