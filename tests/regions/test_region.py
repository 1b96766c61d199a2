"""One smallest model for every reason not to translate: the code, the node, and the number in the sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from regions_of import graph_and_regions
from zoo import Net, Style, build, conv_relu_conv, image, multiplied

from onnx_ocs.api import inspect, rewrite
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.refusals import CATALOGUE, Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import MANY, Region
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation import early
from onnx_ocs.translation.decision import Decision

Built = tuple[onnx.ModelProto, str]  # a model and the tensor in question


def relu_conv(style: Style = Style(), zero: str = "low") -> Built:  # noqa: B008
    n, x = image(style)
    return n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)), zero))), "relu1"


def read(make: Callable[[Net, str], str]) -> Callable[[], Built]:
    """Conv, ReLU, quantizer, and a reader that is no layer."""

    def built() -> Built:
        n, x = image(Style())
        return n.model(make(n, n.qdq(n.op("Relu", n.conv(x))))), "relu1"

    return built


def before(make: Callable[[Net, str], str], zero: str = "low", **scale: Any) -> Callable[[], Built]:
    """Conv, something, quantizer, Conv."""

    def built() -> Built:
        n, x = image(Style())
        t = make(n, n.conv(x))
        return n.model(n.conv(n.qdq(t, zero, **scale))), t

    return built


def changed(edit: Callable[[onnx.ModelProto], None], style: Style = Style()) -> Callable[[], Built]:  # noqa: B008
    """The plain model after an edit."""

    def built() -> Built:
        model, tensor = relu_conv(style)
        edit(model)
        return model, tensor

    return built


def set_constant(model: onnx.ModelProto, name: str, value: np.ndarray[Any, Any]) -> None:
    next(t for t in model.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(value, name))


def make_input(model: onnx.ModelProto, name: str) -> None:
    """Turn an initializer into a graph input, so that nobody knows its value."""
    t = next(t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, t.data_type, list(t.dims)))
    model.graph.initializer.remove(t)


def float8(model: onnx.ModelProto) -> None:
    set_constant(model, "relu1_zero", np.zeros((), ml_dtypes.float8_e4m3fn))


def blocked(model: onnx.ModelProto) -> None:
    for n in model.graph.node:
        if "relu1_scale" in n.input:
            n.attribute.append(helper.make_attribute("block_size", 2))
            n.attribute.append(helper.make_attribute("axis", 1))
    set_constant(model, "relu1_scale", np.full((1, 4, 6, 6), 0.1, np.float32))
    set_constant(model, "relu1_zero", np.zeros((1, 4, 6, 6), np.uint8))


def one_sided_sum() -> Built:
    """No layer reads it, and nothing lies above its zero-point that copies could hold."""
    model, tensor = read(lambda n, x: n.op("Add", x, x))()
    set_constant(model, "relu1_zero", np.uint8(255))
    return model, tensor


def unread() -> Built:
    """Integers that nobody dequantizes."""
    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    return n.model(n.conv(n.qdq(r, tag="other")), (n.q(r, scale=0.1), TensorProto.UINT8)), r


def unknown_channels() -> Built:
    """An operator that shape inference does not know hides the channels, and a Transpose the reader."""
    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    model = n.model(n.conv(n.op("Transpose", n.qdq(r), perm=[0, 1, 3, 2])))
    conv = next(m for m in model.graph.node if m.output[0] == "conv1")
    conv.op_type, conv.domain = "Secret", "test"
    del conv.attribute[:]
    model.opset_import.append(helper.make_opsetid("test", 1))
    return model, r


def unknown_rank() -> Built:
    """The graph input has no shape; the Conv behind tells the number of channels, but not where they lie."""
    model, tensor = relu_conv()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model, tensor


def folded() -> Built:
    """No activation node, and X_clip is 6."""
    n, x = image(Style())
    c = n.conv(x)
    return n.model(n.conv(n.qdq(c, scale=6 / 255))), c


REFUSED: dict[str, tuple[Callable[[], Built], Translate, str]] = {
    "no_weight_consumer": (one_sided_sum, Translate(), "Add add1/Add"),
    "fold_only": (read(lambda n, x: n.op("Add", x, x)), Translate(), "Add add1/Add"),
    "never_clipped": (before(lambda n, x: n.op("Sigmoid", x), scale=0.005), Translate(), "up to 1.275"),
    "folded_bound": (folded, Translate(), "values above 6 never existed"),
    "no_outliers": (before(lambda n, x: n.op("Relu", x), scale=100.0), Translate(), ""),
    "ratio": (relu_conv, Translate(ratio=0.05), "ratio 0.05 of 8 channels"),
    "float8": (changed(float8, Style(opset=19)), Translate(), "float8_e4m3fn"),
    "blocked": (changed(blocked, Style(opset=21)), Translate(), ""),
    "dynamic_parameters": (changed(lambda m: make_input(m, "relu1_scale")), Translate(), ""),
    "bad_scale": (changed(lambda m: set_constant(m, "relu1_scale", np.float32(0))), Translate(), ""),
    "not_dequantized": (unread, Translate(), ""),
    "one_sided": (changed(lambda m: set_constant(m, "relu1_zero", np.uint8(255))), Translate(), "qmax"),
    "mode": (lambda: relu_conv(zero="mid"), Translate(mode="early"), "(early_activation)"),
    "unknown_channels": (unknown_channels, Translate(), ""),
    "unknown_rank": (unknown_rank, Translate(), ""),
    "half_precision": (lambda: relu_conv(Style(half=True, opset=21, dtype="uint16")), Translate(), "0.15 steps"),
}


def names(model: onnx.ModelProto) -> set[str]:
    """What a report may call the model's nodes."""
    return {n.name or n.output[0] for n in model.graph.node}


def entry(model: onnx.ModelProto, tensor: str, options: Translate) -> dict[str, Any]:
    found = [e for e in inspect(model, passes=[options])["regions"] if e["tensor"] == tensor]
    return next((e for e in found if e["status"] == "refused"), found[0])


@pytest.mark.parametrize("code", REFUSED)
def test_refused(code: str) -> None:
    make, options, number = REFUSED[code]
    model, tensor = make()
    if code == "mode":  # the graph input cannot be made early either
        tensor = "x"
    e = entry(model, tensor, options)
    assert e["status"] == "refused", e
    assert e["reason"]["code"] == code
    assert e["reason"]["node"] in names(model)
    assert number in e["reason"]["message"] and len(e["reason"]["message"]) > 15


def test_an_axis_that_no_weight_has() -> None:
    """onnxruntime lets such a file pass."""
    model = onnx.load(Path(__file__).resolve().parents[1] / "data" / "modelopt_silu_l17_fp16.onnx")
    (node,) = (n for n in model.graph.node if n.name == "onnx::Conv_49_QuantizeLinear")  # of a depthwise layer's weight
    (axis,) = (a for a in node.attribute if a.name == "axis")
    before = entry(model, "/a2/Mul_output_0", Translate())
    axis.i = 1 << 31
    after = entry(model, "/a2/Mul_output_0", Translate())
    assert before["status"] == "candidate" and after["reason"]["code"] == "fold_only"


def test_a_layer_with_a_vector_for_a_weight_is_left_alone() -> None:
    """No valid model has one, but damaged files do."""
    net, outputs = conv_relu_conv(Style(per_channel=False))
    model = net.model(*outputs)
    weight = {t.name: t for t in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type == "Conv"]
    last = next(n for n in model.graph.node if n.output[0] == layers[-1].input[1])
    t = weight[last.input[0]]
    t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).reshape(-1), t.name))
    assert rewrite(model, verify=False).report["regions"][-1]["status"] == "refused"


@pytest.mark.parametrize("dims", [(), (8, 8, 1), (64,)])
def test_a_weight_of_another_rank_than_its_transpose(dims: tuple[int, ...]) -> None:
    """Found by tests/whole/fuzz.py."""
    model = onnx.load(Path(__file__).resolve().parents[1] / "data" / "brevitas_mlp_leg_w2a4.onnx")
    turned = [n for n in model.graph.node if n.op_type == "Transpose"]
    producer = {o: n for n in model.graph.node for o in n.output}
    for n in turned:  # behind a DequantizeLinear, or whatever else stands there
        root = n.input[0]
        while root in producer:
            root = producer[root].input[0]
        for t in model.graph.initializer:
            if t.name == root:
                t.CopyFrom(
                    numpy_helper.from_array(np.ones(dims, onnx.helper.tensor_dtype_to_np_dtype(t.data_type)), root)
                )
    assert turned and not rewrite(model, verify=False).changed


def test_damage_that_does_not_matter() -> None:
    """Found by tests/whole/fuzz.py: bytes that are no text, an old IR version, shapes of constants that do not fit."""
    net, outputs = conv_relu_conv(Style(per_channel=False))
    model = net.model(*outputs)
    model.producer_name = "????"
    damaged = onnx.load_model_from_string(model.SerializeToString().replace(b"????", b"\xef\xb3?\xb3"))
    found = rewrite(damaged)
    assert found.changed and found.report["verification"]["verdict"] == "PASSED"

    model.ir_version = 3
    listed = (helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer)
    model.graph.input.extend(listed)
    new = rewrite(model, verify=False).model
    onnx.checker.check_model(new, full_check=True)
    assert new.ir_version == 4

    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    node = next(n for n in model.graph.node if n.input[0] == weight.name)
    del node.input[2:]
    node.input.append(weight.name)  # as its zero-point
    assert inspect(model)["regions"]


def test_a_factor_in_half_precision_is_not_carried() -> None:
    """Its products of wide values round to other steps."""
    net, outputs = multiplied(Style(half=True, opset=19))
    assert entry(net.model(*outputs), "relu1", Translate())["reason"]["code"] == "fold_only"


def test_already_translated() -> None:
    model, _ = build("conv_relu_conv")
    new = rewrite(model, verify=False).model
    again = rewrite(new, verify=False)
    assert not again.changed
    assert {e["reason"]["code"] for e in again.report["regions"]} == {"already_translated"}
    assert {e["reason"]["node"] for e in again.report["regions"]} <= names(new)


@pytest.mark.parametrize("code", ["not_planned", "excluded"])
def test_left_alone_by_a_plan(code: str) -> None:
    """What the user left out is told from what the plan did."""
    model, _ = build("three_layers")
    _, region = region_of(model, "relu1")
    ones = np.ones(8, np.int64)
    planned = PlannedRegion(region.tensor, region.outputs, region.quantizer.scale, ones, 0 * ones, "early")
    plan = Plan("", (planned,), excluded=("x", "conv2") if code == "excluded" else ())
    result = rewrite(model, passes=[Translate(plan=plan)], verify=False)
    reasons = {e["tensor"]: e["reason"] and e["reason"]["code"] for e in result.report["regions"]}
    assert reasons == {"x": code, "relu1": None, "conv2": code, "conv3": "no_weight_consumer"}
    assert all(e["reason"]["node"] in names(model) for e in result.report["regions"] if e["reason"])


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_early_only(factor: float) -> None:
    """What the producer cannot make exactly is not made late instead; the step changes all the same."""
    model, _ = build("residual")
    _, region = region_of(model, "relu2")  # behind an Add
    ones = np.ones(8, np.int64)
    step = region.quantizer.scale * factor
    result = {}
    for mode in ("early", "early only"):
        planned = PlannedRegion(region.tensor, region.outputs, step, ones, 0 * ones, mode)
        done = rewrite(model, passes=[Translate(plan=Plan("", (planned,)))], verify=False)
        result[mode] = next(e for e in done.report["regions"] if e["tensor"] == "relu2")
        assert done.changed == (mode == "early" or factor != 1)
    assert result["early"]["mode"] == "late" and sum(result["early"]["copies"]) == 8
    e = result["early only"]
    if factor == 1:
        assert e["status"] == "refused" and e["reason"]["code"] == "mode" and "early_" in e["reason"]["message"]
    else:
        assert (e["status"], e["mode"], sum(e["copies"])) == ("applied", "rescale", 0)


def test_every_principle_has_a_test() -> None:
    principle = {code for code, m in CATALOGUE.items() if m.principle}
    assert principle - REFUSED.keys() == {"already_translated", "excluded", "no_difference", "not_planned", "target"}


# ---- early ----------------------------------------------------------------------------------------------------------


def read_twice(n: Net, x: str) -> str:
    """A ReLU; the Conv in front of it is read by somebody else as well."""
    n.op("Neg", x)
    return n.op("Relu", x)


def graph_input() -> Built:
    n, x = image(Style(), zero="low")
    return n.model(n.conv(x)), "x"


def float_shared() -> Built:
    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    return n.model(n.conv(n.qdq(r)), n.op("Sigmoid", r)), r


def float_captured() -> Built:
    """An If reads the float tensor from inside."""
    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Neg", [r], ["inner"])], "body", [], [out])
    y = n.op("If", n.const("condition", True, np.bool_), then_branch=body, else_branch=body)
    model = n.model(n.conv(n.qdq(r)))
    model.graph.output.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, None))
    return model, r


def other_axis() -> Built:
    """The MatMul's rows are 8 features, the Conv behind adds up 5 tokens."""
    n = Net(Style(), x=(5, 12))
    y = n.op("Add", n.matmul(n.qdq("x", "mid"), bias=False), n.const("offset", 0.1))
    t = n.op("Relu", y)
    q = n.qdq(t)
    w = n.const("w", n.draw(3, 5, 1, fan=5))
    return n.model(n.op("Conv", q, w, kernel_shape=[1])), t


def no_add() -> Built:
    n = Net(Style(), x=(5, 12))
    t = n.op("Relu", n.matmul(n.qdq("x", "mid"), bias=False))
    return n.model(n.matmul(n.qdq(t), bias=False)), t


def depthwise_producer() -> Built:
    n, x = image(Style(weight="float"))
    r = n.op("Relu", n.conv(x, 4, groups=4))
    return n.model(n.conv(n.qdq(r))), r


def two_channels_one_sided() -> Built:
    """Per-channel zero-points; the first channel has no room above zero."""
    n, x = image(Style(per_channel=False))
    r = n.op("Relu", n.conv(x))
    model = n.model(n.conv(n.qdq(r, axis=1), groups=8))
    set_constant(model, "relu1_zero", np.asarray([255, *[0] * 7], np.uint8))
    return model, r


def gemm_beta_zero() -> Built:
    n = Net(Style(), x=(12,))
    r = n.op("Relu", n.gemm(n.qdq("x", "mid"), beta=0.0))
    return n.model(n.gemm(n.qdq(r))), r


def integer_bias(factor: float, dtype: type[np.signedinteger[Any]] = np.int32) -> Callable[[], Built]:
    """An integer bias whose step is `factor` times X_clip of the tensor."""

    def built() -> Built:
        n, x = image(Style(bias="int32", per_channel=False))
        r = n.op("Relu", n.conv(x))
        model = n.model(n.conv(n.qdq(r)))
        x_clip = 255 * float(n.initializers["relu1_scale"])
        set_constant(model, "conv1_b", np.ones(8, dtype))
        set_constant(model, "conv1_b_scale", np.float32(factor * x_clip))
        return model, r

    return built


def prelu(*slope: float) -> Callable[[], Built]:
    return before(lambda n, x: n.op("PRelu", x, n.const("slope", np.reshape(slope, (-1, 1, 1)))))


def bounded(low: float, high: float, zero: str = "low", **scale: Any) -> Callable[[], Built]:
    return before(lambda n, x: n.clip(x, low, high), zero, **scale)


def relu_node(n: Net, x: str) -> str:
    return n.op("Relu", x)


# id: (code, model, what the sentence must contain)
NOT_EARLY: dict[str, tuple[str, Callable[[], Built], str]] = {
    "float_read": ("early_shared", float_shared, "read by others"),
    "float_captured": ("early_shared", float_captured, "subgraph"),
    "layer_read": ("early_shared", before(read_twice), "conv1/Conv"),
    "range": ("early_range", two_channels_one_sided, "X_clip"),
    "none_mid": ("early_reader", before(lambda n, x: x, "mid"), "pads, or has no bias"),
    "leaky_mid": ("early_activation", before(lambda n, x: n.op("LeakyRelu", x), "mid"), "LeakyRelu keeps negative"),
    "leaky_negative": ("early_activation", before(lambda n, x: n.op("LeakyRelu", x, alpha=-0.1)), "negative alpha"),
    "prelu_negative": ("early_activation", prelu(-0.5), "negative"),
    "clip_above_zero": ("early_activation", bounded(0.25, 9), "Clip from 0.25"),
    "clip_below_zero": ("early_activation", bounded(-1, 9, "mid"), "Clip from -1"),
    "clip_cuts": ("early_bound", bounded(0, 1.5, scale=1 / 255), "the bound 1.5 lies below 2 * X_clip = 2"),
    "graph_input": ("early_producer", graph_input, "graph input"),
    "max_pool": (
        "early_producer",
        before(lambda n, x: n.op("Relu", n.op("MaxPool", x, kernel_shape=[2, 2]))),
        "MaxPool",
    ),
    "dynamic_weight": (
        "early_weight",
        changed(lambda m: make_input(m, "conv1_w"), Style(weight="float")),
        "not a constant",
    ),
    "depthwise": ("early_grouped", depthwise_producer, "depthwise"),
    "axis": ("early_axis", other_axis, "channels"),
    "dynamic_bias": ("early_bias", changed(lambda m: make_input(m, "conv1_b")), "not a constant"),
    "beta": ("early_bias", gemm_beta_zero, "beta is 0"),
    "no_add": ("early_bias", no_add, "no bias"),
    "overflow": ("early_bias_range", integer_bias(1 / 3e9), "does not fit int32"),
    "overflow_int8": ("early_bias_range", integer_bias(1 / 200, np.int8), "does not fit int8"),
    "overflow_int64": ("early_bias_range", integer_bias(1e-30), "does not fit int32"),
    "step": ("early_bias_step", integer_bias(0.3), "quantization steps"),
    "float16": ("early_bias_step", lambda: relu_conv(Style(half=True, opset=19)), "float16"),
}


def region_of(model: onnx.ModelProto, tensor: str) -> tuple[Graph, Region]:
    graph = Graph(model)
    region = next(r for r in find_regions(graph, infer_shapes(model)) if r.tensor == tensor)
    assert isinstance(region, Region)
    return graph, region


def all_copies(region: Region, levels: int = 1) -> Wide:
    copies = np.full(region.walk.channels, levels)
    return Decision(region, "early", copies, 0 * copies).wide


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("case", NOT_EARLY)
def test_not_early(case: str) -> None:
    code, make, number = NOT_EARLY[case]
    model, tensor = make()
    graph, region = region_of(model, tensor)
    assert region.refusal is None
    why = early.check(graph, region, all_copies(region)) if isinstance(region.early, Early) else region.early
    assert isinstance(why, Refusal) and why.code == code
    assert number in why.message + why.node and why.node in names(model)
    # early mode refuses with the same words, auto mode falls back to late, or finds no outliers
    e = entry(model, tensor, Translate(1, 1, "early"))
    assert e["status"] == "refused"
    assert e["reason"]["code"] in ("mode", "no_outliers")
    assert e["reason"]["code"] != "mode" or (why.message in e["reason"]["message"] and code in e["reason"]["message"])
    e = entry(model, tensor, Translate(1, 1, "auto"))
    assert e.get("mode") == "late" or e["reason"]["code"] == "no_outliers"


def test_early_has_no_lower_copies() -> None:
    model, tensor = relu_conv()
    graph, region = region_of(model, tensor)
    wide = all_copies(region)
    why = early.check(graph, region, replace(wide, level=-wide.level))
    assert why is not None and why.code == "early_low" and why.node in names(model)
    assert early.check(graph, region, wide) is None


def test_a_bound_limits_the_copies() -> None:
    """Clip(0, 6) in front of X_clip = 1.7: at most two copies stay below the bound."""
    model, tensor = bounded(0, 6, scale=1.7 / 255)()
    _, region = region_of(model, tensor)
    assert isinstance(region.early, Early) and region.early.copies == 2
    e = entry(model, tensor, Translate(1, 5, "early"))
    assert e["status"] == "candidate" and max(e["copies"]) <= 2


def test_a_loss_on_the_calibration_data_is_not_applied(tmp_path: Any) -> None:
    """The float model has a ReLU6 that was folded into a coarser quantizer: copies only add what never existed."""
    n, x = image(Style())
    c = n.conv(x)
    model = n.model(n.conv(n.qdq(c)))
    x_clip = 255 * float(n.initializers["conv1_scale"])
    f = Net(Style(weight="float"), x=(4, 6, 6))
    f.initializers |= {k: v for k, v in n.initializers.items() if "_w" in k or "_b" in k}
    f.nodes = [m for m in n.nodes if m.output[0].endswith("_w_dq")]
    first, second = (m for m in n.nodes if m.op_type == "Conv")
    f.op("Conv", "x", *first.input[1:], out="a", kernel_shape=[3, 3], pads=[1] * 4)
    f.clip("a", 0, x_clip)
    f.op("Conv", "clip1", *second.input[1:], out="conv2", kernel_shape=[3, 3], pads=[1] * 4)
    np.savez(tmp_path / "c.npz", **n.feed)
    onnx.save(f.model("conv2"), tmp_path / "f.onnx")
    result = rewrite(
        model,
        calib=str(tmp_path / "c.npz"),
        float_model=str(tmp_path / "f.onnx"),
        passes=[Translate(1, 1, "early")],
    )
    assert not result.changed and result.model is model
    e = next(e for e in result.report["regions"] if e["tensor"] == "conv1")
    assert e["status"] == "refused" and e["reason"]["code"] == "loses" and "dB" in e["reason"]["message"]


@pytest.mark.parametrize(
    ("name", "tensor", "factor", "up", "low"),
    [
        ("clip_free", "clip1", 1.0, 5, MANY),  # 6 / 1.017
        ("clip_free", "clip1", 0.5, 11, MANY),
        ("clip_free", "clip1", 6 / 1.0172090982086957, 0, MANY),
        ("clip_cuts", "clip1", 1.0, 1, MANY),
        ("conv_relu_conv", "relu1", 1.0, MANY, MANY),
        ("gelu_node", "gelu1", 1.0, MANY, 0),
    ],
)
def test_copies_that_hold_nothing_are_none(name: str, tensor: str, factor: float, up: int, low: int) -> None:
    """Behind a bound there is nothing; what other quantizers can express is no bound, for they may get copies, too."""
    region = graph_and_regions(build(name)[0])[1][tensor]
    found = region.alive(region.quantizer.scale * factor)
    assert [int(n.max()) for n in found] == [up, low]
    assert np.isinf(graph_and_regions(build("residual")[0])[1]["relu2"].firm[1])
