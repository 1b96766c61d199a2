"""Where compensation blocks are found, and why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper
from topologies import gelu_spelled, gelu_tanh, norm_fused, norm_spelled, resnet, strided, transformer
from zoo import Net, Style

from onnx_ocs.compensation.blocks import Block, find_blocks
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions


def blocks(model: onnx.ModelProto, **inputs: list[int]) -> list[Block]:
    graph = Graph(model)
    return find_blocks(graph, find_regions(graph, infer_shapes(model)), infer_shapes(model, inputs or None))


def found(model: onnx.ModelProto, **inputs: list[int]) -> list[tuple[str, str, str | None]]:
    return [(b.kind, b.output, b.input) for b in blocks(model, **inputs) if b.refusal is None]


@pytest.mark.parametrize("style", [Style(), Style(opset=10, per_channel=False), Style(dtype="int8"), Style(opset=21)])
def test_residual_network(style: Style) -> None:
    model = resnet(style).model("gemm1")
    assert found(model) == [
        ("layer", "conv3", None),  # layers without activation end blocks of their own
        ("residual", "block1", "conv3"),
        ("layer", "conv5", "block1"),
        ("layer", "conv6", "block1"),
        ("residual", "block2", "conv6"),
        ("head", "gemm1", None),
    ]
    _, one, _, skip, two, head = blocks(model)
    assert (skip.channels, skip.input_channels, skip.strides) == (12, 8, (2, 2))
    assert (one.channels, one.axis) == (8, 1)
    assert (two.channels, two.input_channels, two.strides, two.axis) == (12, 12, (1, 1), 1)
    assert (head.channels, head.axis) == (5, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_inverted_residual(stride: int) -> None:
    """The bottleneck of a MobileNet block is linear: it ends a block with and without the Add."""
    n = Net(x=(8, 8, 8))
    a = n.qdq(n.conv(n.qdq("x", "mid"), 8, 1), "mid")
    wide = n.qdq(n.clip(n.conv(a, 16, 1), 0, 6))
    deep = n.conv(wide, 16, groups=16)
    n.nodes[-1].attribute.append(helper.make_attribute("strides", [stride, stride]))
    y = n.conv(n.qdq(n.clip(deep, 0, 6)), 8, 1)
    if stride == 1:
        y = n.op("Add", n.qdq(y, "mid"), a, out="sum")
    z = n.qdq(y, "mid")
    n.op("Add", n.conv(z), z, out="y")
    got = blocks(n.model("y"))
    layers = [("layer", "conv1", None), ("layer", "conv4", "conv1")]
    residual = [("residual", "sum", "conv4")] if stride == 1 else []
    assert [(b.kind, b.output, b.input) for b in got] == [*layers, *residual, ("head", "y", y)]
    assert got[1].strides == (stride, stride)


def test_plain_chain() -> None:
    """Without an Add every layer ends a block, whatever its activation."""
    net, outputs = zoo.three_layers(Style())
    assert found(net.model(*outputs)) == [
        ("layer", "relu1", None),
        ("layer", "conv2", "relu1"),
        ("layer", "conv3", "conv2"),
        ("head", "conv3_dq", "conv3"),
    ]


@pytest.mark.parametrize("gelu", [gelu_spelled, gelu_tanh])
@pytest.mark.parametrize("norm", [norm_fused, norm_spelled])
def test_post_norm_transformer(norm: Any, gelu: Any) -> None:
    """Blocks end with the norms, not with what stands between their parts; attention scores are none."""
    n = transformer(norm, gelu)
    last = n.nodes[-1].output[0]
    got = blocks(n.model(last), x=[1, 5, 12])
    residual = [(b.output, b.input) for b in got if b.kind == "residual"]
    assert residual == [("attention", "add3"), ("output", "attention")]
    layers = {b.output: (b.axis, b.channels) for b in got if b.kind == "layer"}
    assert set(layers.values()) == {(2, 12)} and len(layers) == 3  # query, key and value
    assert all((b.axis, b.channels) == (2, 12) for b in got if b.kind == "residual")
    head = got[-1]
    assert (head.kind, head.output, head.input, head.channels) == ("head", last, "output", 7)
    hidden = [o for n_ in n.nodes for o in n_.output if o.startswith(("mul", "softmax"))]
    assert not {b.output for b in got} & set(hidden)


def test_activation_of_a_sum() -> None:
    """A decomposed activation directly behind a residual Add is a function of that Add, not of the Add's inputs."""
    n = Net(x=(5, 12))
    x = n.qdq("x", "mid")
    a = n.qdq(n.gelu(n.op("Add", n.matmul(x, 12), "x", out="sum")), "mid")
    n.matmul(a, 4, bias=False)
    assert ("residual", "mul2", None) in found(n.model("matmul2"), x=[1, 5, 12])


def test_add_with_several_readers() -> None:
    """Pre-activation: the sum is quantized as it is and behind a ReLU."""
    n = Net(x=(4, 6, 6))
    a = n.qdq(n.conv(n.qdq("x", "mid")), "mid")
    s = n.op("Add", n.qdq(n.conv(n.qdq(n.op("Relu", n.conv(a)))), "mid"), a, out="sum")
    r = n.qdq(n.op("Relu", s, out="active"))
    n.op("Add", n.conv(r), n.qdq(s, "mid"), out="y")
    got = found(n.model("y"))
    assert {(k, o) for k, o, _ in got} >= {("residual", "sum"), ("residual", "active"), ("head", "y")}
    assert {o: i for _, o, i in got}["active"] == "sum"


def test_topological_order_in_any_file_order() -> None:
    model = resnet(Style(shuffled=True)).model("gemm1")
    got, sorted_ = blocks(model), blocks(resnet().model("gemm1"))
    assert {b.output for b in got} == {b.output for b in sorted_}
    order = [b.output for b in got]
    assert all(b.input is None or order.index(b.input) < order.index(b.output) for b in got)


def test_unknown_channels() -> None:
    """A custom operator in front: no shape can be inferred."""
    n = Net(x=(4, 6, 6))
    y = n.conv(n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid")))))
    model = n.model(y)
    node = next(k for k in model.graph.node if k.op_type == "Relu")
    node.op_type, node.domain = "Mystery", "custom"
    model.opset_import.add(domain="custom", version=1)
    why = {b.output: b.refusal.code for b in blocks(model) if b.refusal is not None}
    assert why == {}  # nothing ends at an unknown operator
    del model.graph.output[0].type.tensor_type.shape.dim[1:]
    for t in model.graph.input:
        t.type.tensor_type.ClearField("shape")
    assert {b.refusal.code for b in blocks(model) if b.refusal is not None} == {"unknown_channels"}


def test_channel_axis() -> None:
    """Channels in the middle of five axes."""
    n = Net(x=(2, 6, 3, 3))
    x = n.qdq("x", "mid", axis=2)
    s = n.qdq(n.op("Add", x, x, out="sum"), "mid", axis=2)
    y = n.op("MatMul", s, n.weight("w", n.draw(3, 3, fan=3), 1)[0])
    refused = {b.output: b.refusal.code for b in blocks(n.model(y)) if b.refusal is not None}
    assert refused in ({"sum": "channel_axis"}, {})


def test_no_blocks() -> None:
    """Nothing that is quantized, and outputs that are no float function of anything."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    value = helper.make_tensor_value_info
    g = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 4])]
    )
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert blocks(model) == []


def test_long_walks_end() -> None:
    """More steps than are looked at between the Add and the quantizer: no block, and no long search."""
    n = Net(x=(4, 6, 6))
    x = n.qdq("x", "mid")
    y = n.op("Add", n.conv(x, 4), x)
    for _ in range(40):
        y = n.op("Relu", y)
    y = n.conv(n.qdq(y))
    assert [b.kind for b in blocks(n.model(y))] == ["head"]


@pytest.mark.parametrize("sizes", [(9, 5), (8, 3)], ids=["ceil", "no stride"])
def test_strides(sizes: tuple[int, int]) -> None:
    """Output sizes that a stride explains give one; others do not."""
    n = Net(x=(4, sizes[0], sizes[0]))
    a = n.qdq(n.conv(n.qdq("x", "mid"), 4), "mid")
    kernel = 1 if sizes == (9, 5) else 3
    b = strided(n, a, 4, kernel)
    if kernel == 3:
        del n.nodes[-1].attribute[:]
        attributes = {"kernel_shape": [4, 4], "pads": [0] * 4, "strides": [2, 2]}
        n.nodes[-1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        n.initializers["conv2_w"] = np.zeros((4, 4, 4, 4), np.int8)
    n.conv(n.qdq(b, "mid"))
    got = {k.output: k for k in blocks(n.model("conv3"))}["conv2"]
    assert (got.input, got.strides) == (("conv1", (2, 2)) if kernel == 1 else ("conv1", (3, 3)))


def test_outputs_in_the_middle_are_no_heads() -> None:
    """Some quantizers leave what they looked at as graph outputs; a branch there would cost the readers' kernels."""
    n = resnet()
    model = n.model("gemm1")
    plain = found(model)
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] not in {t.name for t in model.graph.initializer}:
            model.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    assert len(model.graph.output) > 5 and found(model) == plain
