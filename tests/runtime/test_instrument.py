"""Models made to be looked into: more outputs, cut at tensors, bytes for narrow integers, single pieces."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto
from zoo import execute

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.runtime.instrument import as_bytes, constants_first, cut, expose, outputs_apart, piece


def outputs(model: onnx.ModelProto) -> list[str]:
    return [o.name for o in model.graph.output]


def test_tensors_are_exposed_once() -> None:
    model, feed = zoo.build("residual")
    new = expose(model, ["relu1", "conv1", "relu1", "x", "nowhere", outputs(model)[0]])
    assert outputs(new) == [*outputs(model), "relu1", "conv1"]
    *_, relu, conv = execute(new, feed)
    np.testing.assert_array_equal(relu, np.maximum(conv, 0))
    assert len(outputs(model)) == 1  # not changed


def test_a_cut_tensor_is_fed_and_computed() -> None:
    model, feed = zoo.build("conv_relu_conv")
    y, value = execute(expose(model, ["relu1"]), feed)
    new, computed = cut(model, {"relu1": value})
    assert computed == {"relu1": "relu1__computed"}
    assert [i.name for i in new.graph.input] == ["x", "relu1"]
    assert outputs(new) == [*outputs(model), "relu1__computed"]
    got, relu = execute(new, {**feed, "relu1": value})
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(relu, value)
    zeros, relu = execute(new, {**feed, "relu1": 0 * value})
    np.testing.assert_array_equal(relu, value)  # what stands in front does not see what is fed
    assert not np.array_equal(zeros, y)


def test_an_output_that_is_cut_comes_out_as_computed() -> None:
    model, feed = zoo.build("conv_relu_conv")
    (y,) = execute(model, feed)
    name = outputs(model)[0]
    new, computed = cut(model, {name: y})
    assert outputs(new) == [computed[name]]
    np.testing.assert_array_equal(execute(new, {**feed, name: y})[0], y)


def test_what_nothing_writes_is_not_cut() -> None:
    model, feed = zoo.build("conv_relu_conv")
    new, computed = cut(model, {"x": feed["x"]})
    assert computed == {} and [i.name for i in new.graph.input] == ["x"]


def test_declared_shapes_are_the_known_ones() -> None:
    model, feed = zoo.build("conv_relu_conv")
    value = execute(expose(model, ["relu1"]), feed)[1]
    dims = {}
    for shapes in (None, {"relu1": ("N", 8, 6, 6)}, {}):
        new, _ = cut(model, {"relu1": value}, shapes)
        dims[str(shapes)] = [d.dim_value or d.dim_param for d in new.graph.input[1].type.tensor_type.shape.dim]
    assert list(dims.values()) == [[3, 8, 6, 6], ["N", 8, 6, 6], ["", "", "", ""]]


def test_names_that_exist_are_not_taken() -> None:
    model, feed = zoo.build("conv_relu_conv")
    taken = onnx.ModelProto()
    taken.CopyFrom(model)
    taken.graph.node.append(onnx.helper.make_node("Neg", ["x"], ["relu1__computed"]))
    _, computed = cut(taken, {"relu1": feed["x"]})
    assert computed == {"relu1": "relu1__computed_"}


@pytest.mark.parametrize(("name", "byte"), [("int4", np.int8), ("uint4", np.uint8)])
def test_narrow_integers_pass_through_a_byte(name: str, byte: type) -> None:
    model, feed = zoo.build(name)
    dtype = np.dtype(getattr(ml_dtypes, name))
    (want,) = execute(model, feed)
    new = as_bytes(model, {"relu1_q": dtype})
    new.graph.output.append(onnx.ValueInfoProto(name="relu1_q__byte"))
    got, integers = execute(new, feed)
    np.testing.assert_array_equal(got, want)
    assert integers.dtype == byte and integers.min() >= (0 if name[0] == "u" else -8) and len(np.unique(integers)) > 3


def test_a_piece_computes_what_the_whole_does() -> None:
    model, feed = zoo.build("residual")
    relu1, relu2, y = execute(expose(model, ["relu1_dq", "relu2"]), feed)[1:] + execute(model, feed)
    graph = EditableGraph(model)
    names = [n.output[0] for n in graph.nodes]
    behind = graph.nodes[names.index("relu1_dq") + 1 :]
    part = piece(graph, behind, {"relu1_dq": relu1, "unread": y}, ["relu2"])
    assert [i.name for i in part.graph.input] == ["relu1_dq"] and outputs(part) == ["relu2"]
    (got,) = execute(part, {"relu1_dq": relu1})
    np.testing.assert_array_equal(got, relu2)


def test_a_piece_holds_only_what_it_needs() -> None:
    model, feed = zoo.build("residual")
    graph = EditableGraph(model)
    part = piece(graph, graph.nodes, {"x": feed["x"]}, ["conv1"])
    used = {t for n in part.graph.node for t in n.input}
    assert {t.name for t in part.graph.initializer} <= used and not any("conv2" in t for t in used)
    assert [n.op_type for n in part.graph.node].count("Conv") == 1


def test_edits_need_not_be_committed() -> None:
    model, feed = zoo.build("conv_relu_conv")
    graph = EditableGraph(model)
    constant = graph.add_initializer("two", np.asarray(2, np.float32))
    graph.add_node("Mul", ["conv1", constant], "doubled")
    part = piece(graph, [*graph.nodes, *graph.added], {"x": feed["x"]}, ["conv1", "doubled"])
    conv, doubled = execute(part, {"x": feed["x"]})
    np.testing.assert_array_equal(doubled, 2 * conv)
    assert part.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_constants_stand_in_front() -> None:
    """In their order, and the others in theirs; the model computes what it did."""
    model, feed = zoo.build("residual")
    before = [n.name for n in model.graph.node]
    want = zoo.execute(model, feed)
    constants_first(model.graph)
    names = [n.name for n in model.graph.node]
    dq = [n.name for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in {
        o for m in model.graph.node for o in m.output
    }]  # fmt: skip
    assert dq and names[: len(dq)] == dq and sorted(names) == sorted(before)
    assert names[len(dq) :] == [n for n in before if n not in dq]
    assert all(np.array_equal(a, b) for a, b in zip(zoo.execute(model, feed), want, strict=True))


# ---- a Transpose between an output and a quantizer ------------------------------------------------------------------


def turned(before: tuple[str, ...] = (), behind: tuple[str, ...] = (), shuffled: bool = False) -> zoo.Built:
    """A Conv that is a graph output; behind it other nodes, a Transpose, further nodes, a quantizer that clips."""
    net = zoo.Net(zoo.Style(shuffled=shuffled), x=(4, 6, 6))
    t = net.conv("x")
    for op in before:
        t = net.op(op, t)
    t = net.op("Transpose", t, perm=[0, 2, 3, 1])
    for op in behind:
        t = net.op(op, t)
    return net.model(net.op("Sigmoid", net.qdq(t, "mid", 0.3)), "conv1"), net.feed


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("before", [(), ("Identity",), ("Relu",), ("Dropout", "Identity")], ids=str)
@pytest.mark.parametrize("behind", [(), ("Flatten",)], ids=str)
def test_a_quantizer_behind_a_transpose_leaves_outputs_alone(
    before: tuple[str, ...], behind: tuple[str, ...], shuffled: bool
) -> None:
    """Quantized in front of the Transpose, most values of the Conv would be clipped."""
    model, feed = turned(before, behind, shuffled)
    new = outputs_apart(model)
    assert outputs(new) == outputs(model) and len(new.graph.node) == len(model.graph.node) + 1
    for a, b in zip(execute(model, feed), execute(new, feed, "enable_all"), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


def test_an_output_that_others_read_too_is_not_touched() -> None:
    model, _ = turned()
    assert outputs_apart(model) is not model
    model.graph.node.append(onnx.helper.make_node("Tanh", ["conv1"], ["more"]))
    assert outputs_apart(model) is model


@pytest.mark.parametrize("name", ["residual", "channels_last", "output_integer", "attention"])
def test_other_models_are_not_touched(name: str) -> None:
    model = zoo.build(name)[0]
    assert outputs_apart(model) is model


def test_the_name_inside_is_a_new_one() -> None:
    model, feed = turned()
    for n in model.graph.node:
        for ends in (n.input, n.output):
            ends[:] = ["conv1__inner" if t == "transpose1" else t for t in ends]
    new = outputs_apart(model)
    assert "conv1__inner_" in {o for n in new.graph.node for o in n.output}
    for a, b in zip(execute(model, feed), execute(new, feed), strict=True):
        np.testing.assert_array_equal(a, b)
