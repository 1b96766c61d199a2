"""Producers that can make the copies themselves, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zoo
from regions_of import graph_and_regions
from zoo import Net, Style, image, pool

from onnx_ocs.model.nodes import label
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early


def early_of(name: str, tensor: str = "relu1") -> Early:
    _, regions = graph_and_regions(zoo.build(name)[0])
    early = regions[tensor].early
    assert isinstance(early, Early), early
    return early


@pytest.mark.parametrize(
    ("name", "op", "axis"),
    [
        ("conv_relu_conv", "Conv", 0), ("conv_transpose", "ConvTranspose", 1), ("gemm", "Gemm", 1),
        ("gemm_transposed", "Gemm", 0), ("matmul_relu", "MatMul", 1), ("weight_per_input", "Conv", 0),
    ],
)  # fmt: skip
def test_the_layer_and_the_axis_of_its_outputs(name: str, op: str, axis: int) -> None:
    early = early_of(name)
    assert (early.layer.op_type, early.weight_axis) == (op, axis)
    assert early.copies == 1 << 20 and early.slope is None


@pytest.mark.parametrize(
    ("name", "tensor", "affine"),
    [
        ("conv_relu_conv", "relu1", []),
        ("implicit_relu", "conv1", []),
        ("batch_norm", "relu1", ["BatchNormalization"]),
        ("matmul_relu", "relu1", ["Add"]),
        ("add_per_channel", "relu1", ["Add"]),
        ("add_number", "relu1", ["Add"]),
    ],
)
def test_what_stands_behind_the_layer(name: str, tensor: str, affine: list[str]) -> None:
    assert [n.op_type for n in early_of(name, tensor).affine] == affine


def test_a_slope_for_each_channel_is_repeated_too() -> None:
    slope = early_of("prelu_channels", "prelu1").slope
    assert slope is not None and slope.op_type == "PRelu"
    assert early_of("prelu", "prelu1").slope is None


@pytest.mark.parametrize(("top", "copies"), [(6.0, 2), (5.1, 2), (5.0, 1), (3.4, 1)])
def test_a_bound_says_how_many_copies_are_exact(top: float, copies: int) -> None:
    """(n + 1) * X_clip must not exceed the Clip's bound; X_clip is 1.7."""
    n, x = image(Style())
    t = n.clip(n.conv(x), 0, top)
    _, regions = graph_and_regions(n.model(n.conv(n.qdq(t, scale=1.7 / 255))))
    early = regions[t].early
    assert isinstance(early, Early) and early.copies == copies


def refused(make: Callable[[Net, str], str], zero: str = "low", **more: Any) -> Refusal:
    n, x = image(Style())
    t = make(n, n.conv(x))
    _, regions = graph_and_regions(n.model(n.conv(n.qdq(t, zero, **more))))
    early = regions[t].early
    assert isinstance(early, Refusal)
    return early


def read_twice(n: Net, x: str) -> str:
    n.op("Neg", x)
    return n.op("Relu", x)


def map_added(n: Net, x: str) -> str:
    return n.op("Relu", n.op("Add", x, n.const("map", np.ones((8, 6, 6)))))


REFUSED: dict[str, tuple[Callable[[Net, str], str], dict[str, Any], str, str]] = {
    "no relu": (lambda n, x: x, {"zero": "mid"}, "early_reader", "pads, or has no bias of its own"),
    "gelu": (Net.gelu, {"zero": "mid"}, "early_activation", "no ReLU in front"),
    "leaky": (pool("LeakyRelu", alpha=0.1), {"zero": "mid"}, "early_activation", "keeps negative values"),
    "rising": (pool("LeakyRelu", alpha=-0.1), {}, "early_activation", "positive below zero"),
    "clip from one": (lambda n, x: n.clip(x, 1, 9), {}, "early_activation", "Clip from 1"),
    "clip too low": (lambda n, x: n.clip(x, 0, 1.5), {"scale": 1 / 255}, "early_bound", "below 2 * X_clip = 2"),
    "pool": (
        lambda n, x: n.op("MaxPool", n.op("Relu", x), kernel_shape=[1, 1]), {}, "early_producer", "made by MaxPool",
    ),
    "map": (map_added, {}, "early_axis", "'map' does not lie along the producer's channels"),
    "read twice": (read_twice, {}, "early_shared", "is read by others too"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused(name: str) -> None:
    make, more, code, words = REFUSED[name]
    why = refused(make, **more)
    assert why.code == code and words in why.message, why


def test_the_float_tensor_must_be_the_quantizers_alone() -> None:
    _, regions = graph_and_regions(zoo.build("float_read")[0])
    why = regions["relu1"].early
    assert isinstance(why, Refusal) and why.code == "early_shared" and why.node == label(regions["relu1"].nodes[0])


def test_a_grouped_producer_is_refused() -> None:
    _, regions = graph_and_regions(zoo.build("depthwise")[0])
    why = regions["relu2"].early
    assert isinstance(why, Refusal) and (why.code, why.node) == ("early_grouped", "conv2/Conv")
