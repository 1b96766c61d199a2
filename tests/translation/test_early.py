"""Early: producers that make the copies, and compute in them what the formula says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper
from regions_of import graph_and_regions

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.wide import Wide
from onnx_ocs.runtime.instrument import piece
from onnx_ocs.translation import early
from onnx_ocs.translation.decision import Decision

PRODUCERS = [
    ("conv_relu_conv", "relu1"), ("conv_transpose", "relu1"), ("gemm", "relu1"), ("gemm_alpha_beta", "relu1"),
    ("matmul_relu", "relu1"), ("batch_norm", "relu1"), ("implicit_relu", "conv1"), ("prelu_channels", "prelu1"),
    ("add_per_channel", "relu1"), ("add_number", "relu1"), ("clip_free", "clip1"), ("bias_none", "relu1"),
    ("bias_int32_pow2", "relu1"), ("opset10", "relu1"), ("weight_fake", "relu1"), ("weight_constant", "relu1"),
]  # fmt: skip


def layout(region: Region, copies: list[int], halved: bool = False) -> Wide:
    assert region.walk is not None
    up = np.resize(copies, region.walk.channels)
    return Decision(region, "early", up, 0 * up, halved).wide


def widened(name: str, tensor: str, copies: list[int], halved: bool = False) -> tuple[onnx.ModelProto, Region, Wide]:
    """The model that ends with the widened float tensor."""
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build(name)[0])
    graph, regions = graph_and_regions(model)
    region = regions[tensor]
    wide = layout(region, copies, halved)
    assert isinstance(region.early, Early) and early.check(graph, region, wide) is None
    assert early.apply(graph, region, wide) == tensor
    graph.commit()
    whole = EditableGraph(model)
    return piece(whole, whole.nodes, zoo.build(name)[1], [tensor]), region, wide


@pytest.mark.parametrize(("name", "tensor"), PRODUCERS)
def test_copies_are_the_values_beyond_the_range(name: str, tensor: str) -> None:
    """Quantized, relu(f(y) - i * X_clip) and f(y - i * X_clip) are the same: compared behind a ReLU."""
    _, feed = zoo.build(name)
    new, region, wide = widened(name, tensor, [1, 0, 2, 0])
    plain = onnx.ModelProto()
    plain.CopyFrom(zoo.build(name)[0])
    plain.graph.output.append(onnx.ValueInfoProto(name=tensor))
    narrow = zoo.execute(plain, feed)[-1].astype(np.float64)
    (got,) = zoo.execute(new, feed)
    axis = wide.axis % narrow.ndim
    q = region.quantizer
    assert q is not None and got.shape[axis] == wide.origin.size > wide.narrow
    shape = [1] * narrow.ndim
    shape[axis] = -1
    shift = (wide.level * np.broadcast_to(q.x_clip, (wide.narrow,))[wide.origin]).reshape(shape)
    want = np.take(narrow, wide.origin, axis=axis) - shift
    tolerance = 1e-5 if name != "bias_none" else 0.02 * float(q.scale)
    np.testing.assert_allclose(np.maximum(got, 0), np.maximum(want, 0), rtol=1e-5, atol=tolerance + 1e-5 * want.max())
    base = np.take(got, np.flatnonzero(wide.level == 0), axis=axis)
    np.testing.assert_allclose(base, narrow, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["conv_relu_conv", "batch_norm", "weight_float"])
def test_halved_rows_give_halves(name: str, tensor: str = "relu1") -> None:
    _, feed = zoo.build(name)
    new, _, wide = widened(name, tensor, [1, 0, 0, 1], halved=True)
    plain = onnx.ModelProto()
    plain.CopyFrom(zoo.build(name)[0])
    plain.graph.output.append(onnx.ValueInfoProto(name=tensor))
    narrow = zoo.execute(plain, feed)[-1]
    (got,) = zoo.execute(new, feed)
    want = narrow[:, wide.origin] / wide.units()[wide.origin].reshape(1, -1, 1, 1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_integers_of_the_weight_are_the_same() -> None:
    old = {t.name: numpy_helper.to_array(t) for t in zoo.build("conv_relu_conv")[0].graph.initializer}
    new, _, wide = widened("conv_relu_conv", "relu1", [1, 0])
    stored = {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}
    np.testing.assert_array_equal(stored["conv1_w_wide"], old["conv1_w"][wide.origin])
    np.testing.assert_array_equal(stored["conv1_w_scale_wide"], old["conv1_w_scale"][wide.origin])


def test_what_cannot_be_stored_is_refused() -> None:
    graph, regions = graph_and_regions(zoo.build("conv_relu_conv")[0])
    region = regions["relu1"]
    wide = layout(region, [1])
    why = early.check(graph, region, replace(wide, level=-wide.level))
    assert why is not None and (why.code, why.node) == ("early_low", "conv1/Conv")
    graph, regions = graph_and_regions(zoo.build("bias_int8")[0])
    why = early.check(graph, regions["relu1"], layout(regions["relu1"], [1]))
    assert why is not None and why.code in ("early_bias_step", "early_bias_range")
    graph, regions = graph_and_regions(zoo.build("float16")[0])
    why = early.check(graph, regions["relu1"], layout(regions["relu1"], [1]))
    assert why is not None and why.code == "early_bias_step" and "float16" in why.message


@pytest.mark.parametrize(("name", "code"), [("per_tensor", "early_weight"), ("bias_int8", "early_bias")])
def test_one_step_for_all_cannot_be_halved_in_part(name: str, code: str) -> None:
    graph, regions = graph_and_regions(zoo.build(name)[0])
    why = early.check(graph, regions["relu1"], layout(regions["relu1"], [1, 0], halved=True))
    assert why is not None and (why.code, why.node) == (code, "conv1/Conv")


def test_of_several_nodes_the_last_takes_the_shift() -> None:
    """A BatchNormalization behind the first would scale it."""
    n, x = zoo.image(zoo.Style())
    y = n.batch_norm(n.op("Add", n.conv(x), n.const("shift", np.linspace(-1, 1, 8).reshape(8, 1, 1))))
    model = n.model(n.conv(n.qdq(n.op("Relu", y))))
    narrow = n.values("relu1").astype(np.float64)
    graph, regions = graph_and_regions(model)
    region = regions["relu1"]
    assert isinstance(region.early, Early) and len(region.early.affine) == 2 and region.quantizer is not None
    wide = layout(region, [1, 0])
    early.apply(graph, region, wide)
    graph.commit()
    whole = EditableGraph(model)
    (got,) = zoo.execute(piece(whole, whole.nodes, n.feed, ["relu1"]), n.feed)
    want = narrow[:, wide.origin] - (wide.level * float(region.quantizer.x_clip)).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(got, np.maximum(want, 0), rtol=1e-4, atol=1e-5)
