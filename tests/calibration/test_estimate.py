"""Outliers estimated from the weights alone, beside what samples show."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from regions_of import find, regions_of
from zoo import Net, Style, image

from onnx_ocs.calibration.estimate import estimate
from onnx_ocs.calibration.outliers import Outliers, measure

Array = np.ndarray[Any, Any]


def ranks(v: Array) -> Array:
    return np.argsort(np.argsort(v, kind="stable"), kind="stable").astype(float)


def correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def relu(n: Net, x: str) -> str:
    return n.op("Relu", x)


# what stands between the Conv and the quantizer, and its zero-point
FUNCTIONS = {
    "relu": (relu, "low"),
    "implicit": (lambda n, x: x, "low"),
    "signed": (lambda n, x: x, "mid"),
    "batch_norm": (lambda n, x: n.op("Relu", n.batch_norm(x)), "low"),
    "hard_swish": (lambda n, x: n.op("HardSwish", x), "mid"),
    "gelu": (Net.gelu, "mid"),
    "add_constant": (zoo.constant((32, 1, 1)), "low"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_estimate_ranks_channels_as_the_values_do(name: str) -> None:
    """A random layer, with inputs of the distribution that the estimate supposes: masses against sampled ones."""
    make, zero = FUNCTIONS[name]
    n, x = image(Style(weight="float"))
    t = make(n, n.conv(x, 32))
    model = n.model(n.conv(n.qdq(t, zero)))
    graph, regions = regions_of(model)
    k = find(regions, t)
    got = estimate(graph, regions, 2)[k]
    assert not got.measured and got.upper.shape == got.lower.shape == (32, 2)
    x_clip = 127 * float(n.initializers["x_scale"])
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name=t))
    draws = (np.random.default_rng(5).standard_normal((400, 4, 6, 6)) * x_clip / 3).astype(np.float32)
    a = zoo.execute(probe, {"x": draws})[-1][:, :, 1:-1, 1:-1]  # the border sees padding
    true = measure([regions[k]], 2, [{t: a}])[0]
    assert np.count_nonzero(true.upper[:, 0]) > 20
    assert correlation(got.upper[:, 0], true.upper[:, 0]) > 0.9
    if zero == "mid" and true.lower[:, 0].all():
        assert correlation(got.lower[:, 0], true.lower[:, 0]) > 0.9
    if name not in ("hard_swish", "gelu"):  # the tail of a gated value is taken to be that of its input
        seen = true.upper[:, 0] > 0.1 * true.upper[:, 0].max()
        ratio = got.upper[seen, 0] / true.upper[seen, 0]
        assert ratio.max() < 2.5 * ratio.min()


def test_estimate_of_deeper_layers_still_ranks() -> None:
    """Three layers, of which the second and third see the first one's rectified moments."""
    n, x = image(Style())
    a = n.qdq(n.op("Relu", n.conv(x, 16)))
    b = n.qdq(n.op("Relu", n.conv(a, 32)))
    model = n.model(n.conv(b))
    graph, regions = regions_of(model)
    k = find(regions, "relu2")
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name="relu2"))
    draws = np.random.default_rng(5).standard_normal((200, 4, 6, 6)).astype(np.float32)
    values = zoo.execute(probe, {"x": draws})[-1]
    assert correlation(estimate(graph, regions, 1)[k].upper[:, 0], values.sum((0, 2, 3))) > 0.8


def estimated(n: Net, output: str, tensor: str, copies: int = 3) -> Outliers:
    graph, regions = regions_of(n.model(output))
    return estimate(graph, regions, copies)[find(regions, tensor)]


def test_estimate_knows_bounds_and_empty_sides() -> None:
    n, x = image(Style())
    t = n.clip(n.conv(x), 0, 4)
    got = estimated(n, n.conv(n.qdq(t, scale=1.9 / 255)), t)
    assert got.upper[:, 1].any() and not got.upper[:, 2].any()  # 2 * 1.9 < 4 <= 3 * 1.9
    assert not got.lower.any()


def test_estimate_without_constant_weights_says_nothing() -> None:
    """The producer's weight is a graph input: no moments, no outliers, and no crash."""
    n = Net(Style(weight="float"), x=(4, 6, 6), w=(4, 3, 3))
    x = n.qdq("x", "mid")
    r = n.op("Relu", n.op("Conv", x, "w", kernel_shape=[3, 3]))
    n.feed["w"] = n.feed["w"][:1].repeat(8, axis=0)
    q = n.op("QuantizeLinear", r, n.const("s", 0.01), n.const("z", 0, np.uint8))
    d = n.op("DequantizeLinear", q, "s", "z", out="d")
    w2 = n.const("w2", n.draw(5, 8, 1, 1, fan=8))
    model = n._model()
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 8
    model.graph.node.append(onnx.helper.make_node("Conv", [d, w2], ["y"], kernel_shape=[1, 1]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(n.initializers[w2], w2))
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, None))
    graph, regions = regions_of(model)
    got = estimate(graph, regions, 1)[find(regions, r)]
    assert np.all(np.isfinite(got.upper)) and got.upper.shape == (8, 1)


@pytest.mark.parametrize("name", list(zoo.CASES))
def test_estimates_are_finite_and_not_negative(name: str) -> None:
    model, _ = zoo.build(name)
    graph, regions = regions_of(model)
    for k, o in estimate(graph, regions, 3).items():
        walk = regions[k].walk
        assert walk is not None and o.upper.shape == o.lower.shape == (walk.channels, 3)
        assert np.all(np.isfinite(o.upper)) and np.all(o.upper >= 0)
        assert np.all(np.isfinite(o.lower)) and np.all(o.lower >= 0)
