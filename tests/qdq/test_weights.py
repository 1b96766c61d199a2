"""Constant weights: read through their chains, and edited so that integers stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import Net, Style, execute, image

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.qdq.weights import coarsen, coarsened, edit_weight, read_weight, scale_channels, scales_apart, take

FORMS: dict[str, dict[str, Any]] = {
    "float": {"weight": "float"}, "int8": {}, "uint8": {"weight": "uint8"}, "int4": {"weight": "int4", "opset": 21},
    "fake": {"weight": "fake"}, "clip": {"weight": "clip"}, "per tensor": {"per_channel": False},
    "constant": {"weight_constant": True}, "contrib": {"domain": "com.microsoft"},
}  # fmt: skip


def convolution(**style: Any) -> tuple[Net, onnx.ModelProto, EditableGraph, onnx.NodeProto]:
    n, x = image(Style(bias="none", **style))
    model = n.model(n.conv(x))
    graph = EditableGraph(model)
    return n, model, graph, next(m for m in graph.nodes if m.op_type == "Conv")


def seen(graph: EditableGraph, node: onnx.NodeProto) -> Any:
    value = graph.constant(node.input[1])
    assert value is not None
    return value


def edited(graph: EditableGraph, node: onnx.NodeProto) -> Any:
    """The weight as it is after the edits: an index remembers the values that it has read."""
    graph.commit()
    return seen(EditableGraph(graph.model), node)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str) -> None:
    n, _, graph, node = convolution(**FORMS[form])
    weight = read_weight(graph, node, 1)
    assert weight is not None
    assert weight.shape == (8, 4, 3, 3) and weight.root == "conv1_w"
    q = weight.quantizer(graph)
    if form == "float":
        assert q is None and weight.channel_axis(graph) is None and weight.nodes == ()
        return
    assert q is not None and q.axis == weight.channel_axis(graph) == (None if form == "per tensor" else 0)
    np.testing.assert_array_equal(q.scale, n.initializers["conv1_w_scale"].astype(np.float64))


@pytest.mark.parametrize("form", FORMS)
def test_blocks_are_the_values(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_ocs.qdq.weights.BLOCK", 100)  # so that there are several
    _, _, graph, node = convolution(**FORMS[form])
    weight = read_weight(graph, node, 1)
    assert weight is not None
    whole, count = np.zeros(weight.shape, np.float32), 0
    for axis, where, values in weight.blocks(graph):
        np.moveaxis(whole, axis, 0)[where] = np.moveaxis(values, axis, 0)
        count += 1
    np.testing.assert_array_equal(whole, seen(graph, node))
    assert count > 1


def test_a_transpose_turns_the_axes() -> None:
    n = Net(Style(), x=(5, 12))
    model = n.model(n.matmul("x", 16, bias=False, transpose=True))
    graph = EditableGraph(model)
    node = next(m for m in graph.nodes if m.op_type == "MatMul")
    weight = read_weight(graph, node, 1)
    assert weight is not None
    assert weight.shape == (12, 16) and n.initializers[weight.root].shape == (16, 12)
    assert weight.channel_axis(graph) == 1  # steps lie on axis 0 of what is stored
    assert weight.perms[-1] == (1, 0)
    for axis, where, values in weight.blocks(graph):
        assert axis == 1
        np.testing.assert_array_equal(values, seen(graph, node)[:, where])


def break_by(edit: Callable[[Net, onnx.ModelProto], None]) -> EditableGraph:
    n, model, _, _ = convolution()
    edit(n, model)
    return EditableGraph(model)


def make_input(model: onnx.ModelProto, name: str) -> None:
    t = next(t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(onnx.helper.make_tensor_value_info(name, t.data_type, list(t.dims)))
    model.graph.initializer.remove(t)


def set_scale(model: onnx.ModelProto, count: int) -> None:
    t = next(t for t in model.graph.initializer if t.name == "conv1_w_scale")
    t.CopyFrom(numpy_helper.from_array(np.ones(count, np.float32), t.name))


UNREADABLE: dict[str, Callable[[Net, onnx.ModelProto], None]] = {
    "a graph input": lambda n, m: make_input(m, "conv1_w"),
    "a computed step": lambda n, m: make_input(m, "conv1_w_scale"),
    "steps for other channels": lambda n, m: set_scale(m, 4),
    "a negation in between": lambda n, m: setattr(m.graph.node[2], "op_type", "Neg"),
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_what_cannot_be_edited_is_not_read(how: str) -> None:
    graph = break_by(UNREADABLE[how])
    node = next(m for m in graph.nodes if m.op_type == "Conv")
    assert read_weight(graph, node, 1) is None
    assert not scales_apart(graph, node, 1, 0)


def test_no_input_is_no_weight() -> None:
    _, _, graph, node = convolution()
    assert read_weight(graph, node, 2) is None


POSITIONS = np.asarray([0, 1, 2, 3, 3, 0])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_taken_channels_are_the_same_integers(form: str, axis: int) -> None:
    _, model, graph, node = convolution(**FORMS[form])
    before = seen(graph, node)
    old = {t.name: t.SerializeToString() for t in model.graph.initializer}
    take(graph, node, 1, axis, POSITIONS)
    np.testing.assert_array_equal(edited(graph, node), np.take(before, POSITIONS, axis))
    assert all(t.SerializeToString() == old.get(t.name, t.SerializeToString()) for t in model.graph.initializer)
    if axis == 0:  # the output has more channels: the model still runs, with the same values in each
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = POSITIONS.size
        n2, plain, _, _ = convolution(**FORMS[form])
        want = execute(plain, n2.feed)[0][:, POSITIONS]
        np.testing.assert_array_equal(execute(model, n2.feed)[0], want)


def test_a_weight_that_others_read_stays_theirs() -> None:
    n, x = image(Style(bias="none"))
    first = n.conv(x)
    shared = n.nodes[-1].input[1]
    second = n.op("Conv", x, shared, kernel_shape=[3, 3], pads=[1] * 4)
    model = n.model(first, second)
    want = execute(model, n.feed)[1]
    graph = EditableGraph(model)
    take(graph, graph.producer[first], 1, 0, POSITIONS)
    graph.commit()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = POSITIONS.size
    np.testing.assert_array_equal(execute(model, n.feed)[1], want)
    assert execute(model, n.feed)[0].shape[1] == POSITIONS.size


def test_edit_sees_the_readers_axes() -> None:
    n = Net(Style(weight="float"), x=(5, 12))
    model = n.model(n.matmul("x", 16, bias=False, transpose=True))
    graph = EditableGraph(model)
    node = next(m for m in graph.nodes if m.op_type == "MatMul")
    before, shapes = seen(graph, node), []

    def edit(w: Any) -> Any:
        shapes.append(w.shape)
        return w * 2

    edit_weight(graph, node, 1, edit, 0, np.arange(12))
    assert shapes == [(12, 16)]
    np.testing.assert_array_equal(edited(graph, node), 2 * before)


@pytest.mark.parametrize(
    ("form", "axis", "apart"),
    [
        ("float", 0, True), ("float", 1, True), ("int8", 0, True), ("int8", 1, False), ("per tensor", 0, False),
        ("fake", 0, True), ("fake", 1, False), ("clip", 0, True),
    ],
)  # fmt: skip
def test_scaling_channels(form: str, axis: int, apart: bool) -> None:
    """Exact where each channel has a step of its own (or the weight is float); the integers stay."""
    _, model, graph, node = convolution(**FORMS[form])
    assert scales_apart(graph, node, 1, axis) is apart
    if not apart:
        return
    before = seen(graph, node)
    integers = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "conv1_w")
    factors = 2.0 ** np.arange(-2, before.shape[axis] - 2)
    scale_channels(graph, node, 1, axis, factors)
    shape = [1] * 4
    shape[axis] = -1
    np.testing.assert_array_equal(edited(graph, node), (before * factors.reshape(shape)).astype(np.float32))
    if form not in ("float", "fake"):
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        np.testing.assert_array_equal(stored["conv1_w"], integers)


@pytest.mark.parametrize("form", ["int8", "uint8"])
def test_coarser_steps(form: str) -> None:
    n, _, graph, node = convolution(**FORMS[form])
    weight = read_weight(graph, node, 1)
    assert weight is not None
    factors = np.asarray([1.0, 2, 4, 1, 1, 1, 1, 8])
    found = coarsened(graph, weight, factors)
    assert found is not None
    axis, integers, change = found
    zero = 128 if form == "uint8" else 0
    steps = n.initializers["conv1_w"].astype(np.float64) - zero
    rounded = np.rint(steps / factors[:, None, None, None])
    assert axis == 0
    np.testing.assert_array_equal(integers, rounded + zero)
    np.testing.assert_allclose(change, np.abs(rounded * factors[:, None, None, None] - steps).sum((1, 2, 3)))
    assert not change[[0, 3, 4, 5, 6]].any() and change[[1, 2, 7]].all()
    before = seen(graph, node)
    coarsen(graph, node, 1, factors)
    after = edited(graph, node)
    scale = n.initializers["conv1_w_scale"].astype(np.float64)
    np.testing.assert_allclose(after, rounded * (factors * scale)[:, None, None, None], rtol=1e-6)
    np.testing.assert_array_equal(after[0], before[0])


@pytest.mark.parametrize("form", ["float", "fake", "per tensor"])
def test_only_integers_with_a_step_a_channel_get_coarser(form: str) -> None:
    _, _, graph, node = convolution(**FORMS[form])
    weight = read_weight(graph, node, 1)
    assert weight is not None and coarsened(graph, weight, np.full(8, 2.0)) is None


def test_transposes_follow_one_another() -> None:
    n = Net(Style(weight="float"), x=(3, 5, 12))
    w = n.const("w", n.rng.standard_normal((12, 16, 3, 1)))
    t = n.op("Transpose", n.op("Transpose", w, perm=[2, 0, 3, 1]), perm=[2, 0, 1, 3])
    model = n.model(n.op("MatMul", "x", t))
    graph = EditableGraph(model)
    node = next(m for m in graph.nodes if m.op_type == "MatMul")
    weight = read_weight(graph, node, 1)
    assert weight is not None and weight.shape == (1, 3, 12, 16)
    assert n.values(t).shape == weight.shape
    before = seen(graph, node)
    take(graph, node, 1, 2, np.asarray([0, 0, 5]))
    np.testing.assert_array_equal(edited(graph, node), before[:, :, [0, 0, 5]])
