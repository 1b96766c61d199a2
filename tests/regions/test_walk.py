"""Who reads a quantizer, along which axis, and what is met on the way."""

from __future__ import annotations

import pytest
import zoo
from onnx import TensorProto
from regions_of import graph_and_regions
from zoo import Net, Style, image

from onnx_ocs.model.nodes import label
from onnx_ocs.regions.region import Walk


def walk_of(name: str, tensor: str = "relu1") -> Walk:
    _, regions = graph_and_regions(zoo.build(name)[0])
    walk = regions[tensor].walk
    assert walk is not None
    return walk


def test_a_plain_reader() -> None:
    walk = walk_of("conv_relu_conv")
    assert (walk.axis, walk.channels, walk.groups, walk.depthwise) == (1, 8, 1, False)
    assert [label(n) for n in walk.weights] == ["conv2/Conv"]
    assert [c.tolist() for c in walk.columns] == [list(range(8))] and walk.factors == (1.0,)
    assert [n.output[0] for n in walk.dequantizers] == ["relu1_dq"]
    assert walk.folded == () and walk.carried == ()
    assert not (walk.integers_leave or walk.joined or walk.unranked)


@pytest.mark.parametrize(
    ("name", "axis", "channels"),
    [
        ("matmul_relu", 2, 16), ("gemm", 1, 16), ("conv3d", 1, 8), ("channels_last", 3, 8), ("conv_transpose", 1, 8),
        ("opset10", 1, 8), ("depthwise_per_channel", 1, 8),
    ],
)  # fmt: skip
def test_the_axis_is_where_most_layers_read(name: str, axis: int, channels: int) -> None:
    walk = walk_of(name)
    assert (walk.axis, walk.channels, len(walk.weights)) == (axis, channels, 1)


@pytest.mark.parametrize(
    ("name", "groups", "depthwise", "layers"),
    [
        ("grouped", 2, False, ["conv2/Conv"]),
        ("depthwise", 1, True, ["conv2/Conv"]),
        ("groups_mixed", 4, False, ["conv2/Conv", "conv3/Conv", "conv4/Conv"]),
        ("groups_and_depthwise", 2, True, ["conv2/Conv", "conv3/Conv", "conv4/Conv"]),
        ("depthwise_chain", 1, True, ["conv2/Conv"]),
    ],
)
def test_groups_that_copies_must_respect(name: str, groups: int, depthwise: bool, layers: list[str]) -> None:
    walk = walk_of(name)
    assert (walk.groups, walk.depthwise) == (groups, depthwise)
    assert sorted(label(n) for n in walk.weights) == layers


def test_a_flattened_channel_is_several_columns() -> None:
    """8 channels of 36 positions: the copies' columns are those of all positions."""
    walk = walk_of("flatten_gemm")
    (columns,) = walk.columns
    assert columns.tolist() == list(range(8 * 36))


def test_quantizers_on_the_same_grid_carry_on() -> None:
    walk = walk_of("requantized")
    assert [n.input[0] for n in walk.carried] == ["maxpool1"]
    assert {n.output[0] for n in walk.dequantizers} == {"relu1_dq", "maxpool1_dq"}
    assert [label(n) for n in walk.weights] == ["conv2/Conv"] and not walk.joined


def test_a_concat_joins_two_tensors_on_one_grid() -> None:
    walk = walk_of("concat_requantized")
    assert [n.input[0] for n in walk.carried] == ["concat1"] and walk.joined
    second = walk_of("concat_requantized", "relu2")
    assert not set(walk.columns[0].tolist()) & set(second.columns[0].tolist())
    assert len(walk.columns[0]) == walk.channels and len(second.columns[0]) == second.channels


def test_a_factor_on_the_way_is_told() -> None:
    n = Net(Style(), x=zoo.IMAGE)
    a = n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid"))))
    _, regions = graph_and_regions(n.model(n.conv(n.op("Mul", a, n.const("half", 0.5)))))
    walk = regions["relu1"].walk
    assert walk is not None and walk.factors == (0.5,)


def test_other_readers_get_the_sum() -> None:
    walk = walk_of("residual", "relu2")
    assert [(n.op_type, why) for n, why in walk.folded] == [("Add", "it is not linear per channel")]


@pytest.mark.parametrize("how", ["output", "computed"])
def test_integers_that_leave_are_noticed(how: str) -> None:
    n, x = image(Style())
    q = n.q(n.op("Relu", n.conv(x)))
    y = n.conv(n.dq(q))
    n.op("Cast", q, out="cast", to=TensorProto.FLOAT)
    _, regions = graph_and_regions(n.model(y, "cast" if how == "computed" else (q, TensorProto.UINT8)))
    walk = regions["relu1"].walk
    assert walk is not None and walk.integers_leave


def test_an_unknown_rank_is_refused_where_the_axis_cannot_be_addressed() -> None:
    n, x = image(Style())
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)))))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    _, regions = graph_and_regions(model)
    why = regions["relu1"].refusal
    assert why is not None and why.code == "unknown_rank"
