"""What onnxruntime runs on integer kernels, and what costs them."""

from __future__ import annotations

import onnx
import pytest
import zoo
from onnx import helper
from zoo import Net, Style, image

from onnx_ocs.runtime.names import LONG, rename
from onnx_ocs.runtime.session import Session
from onnx_ocs.targets.ort import (
    INTEGER_KERNELS,
    Operators,
    fast_kernels,
    integer_kernels,
    integer_outputs,
    kernel_outputs,
    operators,
    optimized,
    without_kernels,
)


def chain(**style: object) -> onnx.ModelProto:
    """Two Convs with quantized inputs and outputs, and int32 biases: all that an integer kernel asks for."""
    n, x = image(Style(bias="int32", **style))  # type: ignore[arg-type]
    a = n.qdq(n.op("Relu", n.conv(x)))
    return n.model(n.qdq(n.conv(a), "mid"))


def test_layers_between_quantizers_have_integer_kernels() -> None:
    model = chain()
    assert integer_kernels(model) == 2
    found = kernel_outputs(model)
    run = optimized(model)
    assert found is not None and run is not None and found == fast_kernels(run) and len(found) == 2


def test_what_integer_operators_write_has_the_model_s_names() -> None:
    """Two layers and their quantizers; onnxruntime's own graph has the channels last, and other names."""
    model = chain()
    behind = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    found = integer_outputs(model)
    assert len(found) == 2 and found <= behind
    assert integer_outputs(broken()) == set()


def test_long_names_come_back() -> None:
    model, long = chain(), chain()
    rename(long, {o: "a" * LONG + o for n in long.graph.node for o in (n.name, *n.output)})
    assert kernel_outputs(long) == {"a" * LONG + o for o in kernel_outputs(model) or ()}


def test_a_layer_that_gives_floats_has_none() -> None:
    n, x = image(Style(bias="int32"))
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)))))
    assert integer_kernels(model) == 1


def test_a_float_input_has_no_integer_kernel() -> None:
    n = Net(Style(), x=zoo.IMAGE)
    model = n.model(n.qdq(n.conv("x"), "mid"))
    assert integer_kernels(model) == 0 and kernel_outputs(model) == set()


def test_a_float_that_somebody_reads_costs_its_layers_kernel() -> None:
    """The Relu's output is asked for: its Conv must compute in float; the other's is not."""
    n, x = image(Style(bias="int32"))
    a = n.qdq(n.op("Relu", n.conv(x)))
    model = n.model(n.qdq(n.conv(a), "mid"), "relu1_dq")
    assert integer_kernels(model) == 2
    assert without_kernels(model, ["relu1", "conv2"]) == {"relu1", "conv2"}
    assert without_kernels(model, ["relu1_dq"]) == set()
    assert without_kernels(model, []) == set()


def test_what_exists_anyway_costs_nothing() -> None:
    n = Net(Style(), x=zoo.IMAGE)
    model = n.model(n.qdq(n.op("Relu", n.conv("x"))))
    assert without_kernels(model, ["relu1"]) == set()


def broken() -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("conv_relu_conv")[0])
    model.graph.node[0].op_type = "NoSuchOperator"
    return model


def test_a_model_that_does_not_load_has_no_number() -> None:
    model = broken()
    with pytest.raises(Exception, match="NoSuchOperator"):
        Session(model)
    assert optimized(model) is None and integer_kernels(model) is None and kernel_outputs(model) is None
    assert operators(model) is None
    assert without_kernels(model, ["relu1"]) == set()


def test_the_optimized_graph_has_no_weights() -> None:
    run = optimized(chain())
    assert run is not None
    assert [n.op_type for n in run.graph.node if n.op_type in INTEGER_KERNELS] == ["QLinearConv"] * 2
    assert all(not t.raw_data or len(t.raw_data) < 1024 for t in run.graph.initializer)


@pytest.mark.parametrize(("group", "per_group", "counts"), [(1, 8, True), (8, 1, True), (4, 2, False), (2, 4, False)])
def test_grouped_convolutions_of_several_channels_do_not_count(group: int, per_group: int, counts: bool) -> None:
    """They take far longer than a float kernel."""
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", names, ["y"], group=group)
    w = helper.make_tensor("w", onnx.TensorProto.INT8, [8, per_group, 1, 1], [1] * 8 * per_group)
    model = helper.make_model(helper.make_graph([node], "g", [], [], [w]))
    assert fast_kernels(model) == ({"y"} if counts else set())


def test_depthwise_counts_and_grouped_does_not_in_a_whole_model() -> None:
    counts = {}
    for groups in (8, 2):
        n, x = image(Style(bias="int32"), zero="low")
        a = n.qdq(n.op("Relu", n.conv(x)))
        counts[groups] = integer_kernels(n.model(n.qdq(n.op("Relu", n.conv(a, groups=groups)))))
    assert counts == {8: 2, 2: 1}


def residual(pooled: bool = False, read: bool = False) -> onnx.ModelProto:
    """A sum of two Convs between quantizers, perhaps pooled, perhaps read as a float by somebody."""
    n, x = image(Style(bias="int32"))
    a = n.qdq(n.op("Relu", n.conv(x)))
    b = n.qdq(n.op("Relu", n.conv(a)))
    total = n.op("Add", a, b)
    y = n.qdq(total)
    if pooled:
        y = n.qdq(n.op("MaxPool", y, kernel_shape=[2, 2]))
    return n.model(n.qdq(n.conv(y), "mid"), *([total] if read else []))


def test_all_integer_operators_count() -> None:
    found = operators(residual(pooled=True))
    assert found is not None and found.layers == 3
    assert found.others == {"QLinearAdd": 1, "MaxPool": 1} and found.integer == 5 and found.transposes >= 2


def test_a_sum_that_left_the_integers_is_lost_though_all_layers_keep_their_kernels() -> None:
    before, after = operators(residual()), operators(residual(read=True))
    assert before is not None and after is not None and before.layers == after.layers == 3
    assert before.lost(after) == 1 and after.lost(before) == 0 and before.lost(before) == 0


def test_what_one_kind_wins_another_does_not_lose() -> None:
    before = Operators(3, {"QLinearAdd": 2}, 4)
    after = Operators(5, {"QLinearAdd": 1, "QLinearConcat": 9}, 9)
    assert before.lost(after) == 1 and before.between(after) == 5 and after.between(before) == 0
    assert before.won(after) == 0, "a sum is lost"
    assert Operators(3, {}, 4).won(after) == 2 and after.won(after) == 0


def test_float_models_have_none() -> None:
    n = Net(Style(weight="float"), x=zoo.IMAGE)
    assert integer_kernels(n.model(n.conv("x"))) == 0
