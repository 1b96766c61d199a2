"""Re-fitted layers: what is declared passes, what is not is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.passes.translate import Translate
from onnx_ocs.qdq.weights import read_weight
from onnx_ocs.records.weights import REFITTED, Refit, Refitted, digest, read_refitted, record_refitted
from onnx_ocs.runtime.session import Session, attempt
from onnx_ocs.verification.multiply import multiply
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import verify

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto


def copy_of(model: Model) -> Model:
    new = Model()
    new.CopyFrom(model)
    return new


def store(model: Model, name: str, value: Array) -> None:
    t = next((t for t in model.graph.initializer if t.name == name), None)
    (t or model.graph.initializer.add()).CopyFrom(numpy_helper.from_array(np.asarray(value, order="C"), name))


def refitted(model: Model, layers: tuple[str, ...] = (), add: bool = False) -> Model:
    """Other integers, steps and biases for some layers, written as the contract says."""
    new, rng = copy_of(model), np.random.default_rng(0)
    for n in new.graph.node:
        if not is_op(n, "Conv", "ConvTranspose", "Gemm", "MatMul") or (layers and n.output[0] not in layers):
            continue
        graph = EditableGraph(new)
        weight = read_weight(graph, n, 1)
        q = None if weight is None else weight.quantizer(graph)
        if weight is None or q is None or weight.root not in graph.initializers:
            continue
        root = graph.constant(weight.root)
        dq = next(m for m in weight.nodes if is_op(m, "DequantizeLinear"))
        if root is None or root.dtype.kind == "f":
            continue
        low, high = -127 if q.qmin < 0 else q.qmin, q.qmax
        value = np.clip(root.astype(np.int64) + rng.integers(-1, 2, root.shape), low, high).astype(root.dtype)
        store(new, weight.root, value)
        scale = graph.constant(dq.input[1])
        assert scale is not None
        scale = np.asarray(scale * np.float32(1.01))
        store(new, dq.input[1], scale)
        entries: list[Refit | None] = [Refit(dq.input[1], dq.input[1], digest(scale)), None, None]
        entries[1:] = bias_of(new, graph, n, rng, add, 1.01)
        record_refitted(n, Refitted(Refit(weight.root, weight.root, digest(value)), *entries, low, high))
    return new


def bias_of(
    model: Model, graph: Graph, n: onnx.NodeProto, rng: np.random.Generator, add: bool, factor: float
) -> list[Refit | None]:
    name = n.input[2] if len(n.input) > 2 else ""
    if is_op(n, "MatMul"):
        after = graph.readers(n.output[0])
        if len(after) != 1 or not is_op(after[0], "Add"):
            return [None, None]
        name = next(t for t in after[0].input if t != n.output[0])
    if not name:
        if not add:
            return [None, None]
        weight = read_weight(graph, n, 1)
        assert weight is not None
        value = 0.01 * rng.standard_normal(weight.shape[0]).astype(np.float32)
        name = f"{n.output[0]}_added_bias"
        store(model, name, value)
        n.input.append(name)
        return [Refit(name, None, digest(value)), None]
    source = graph.producer.get(name)
    if source is None:
        value = graph.constant(name)
        assert value is not None
        value = np.asarray(value + np.float32(0.01))
        store(model, name, value)
        return [Refit(name, name, digest(value)), None]
    integers, scale = (graph.constant(t) for t in source.input[:2])
    assert integers is not None and scale is not None
    integers, scale = np.asarray(integers + 3).astype(integers.dtype), np.asarray(scale * np.float32(factor))
    store(model, source.input[0], integers)
    store(model, source.input[1], scale)
    names = source.input[0], source.input[1]
    return [Refit(names[0], names[0], digest(integers)), Refit(names[1], names[1], digest(scale))]


def check(model: Model, new: Model) -> Verification:
    return verify(model, new, random_samples(model, 2, 0), 2)


CASES = [
    "conv_relu_conv", "bias_int32", "gemm", "gemm_transposed", "conv_transpose", "matmul_gelu", "depthwise",
    "per_tensor", "bias_int32_residual", "weight_int4", "weight_clip",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_declared_passes(name: str) -> None:
    model = zoo.build(name)[0]
    new = refitted(model)
    assert read_refitted(new)
    checked = check(model, new)
    levels = [f for f in checked.failures if not f.startswith("at ORT_ENABLE_ALL")]  # some CPUs' kernels saturate
    assert not levels and checked.refitted == len(read_refitted(new))


@pytest.mark.parametrize("mode", ["early", "late"])
def test_translated_then_refitted(mode: Any) -> None:
    model = zoo.build("int8_residual")[0]
    wide = rewrite(model, passes=[Translate(0.5, 1, mode)], verify=False).model
    new = refitted(wide)
    checked = check(model, new)
    assert checked.verdict == "PASSED", checked.failures
    assert checked.translated and checked.refitted == len(read_refitted(new))


def test_refitted_then_translated() -> None:
    """What an earlier run declared is the original's here."""
    model = refitted(zoo.build("int8_residual")[0])
    new = rewrite(model, passes=[Translate(0.5, 1)], verify=False).model
    checked = check(model, new)
    assert checked.verdict == "PASSED", checked.failures
    assert not checked.refitted


def test_an_added_bias() -> None:
    model = zoo.build("bias_none")[0]
    new = refitted(model, add=True)
    assert not [f for f in check(model, new).failures if not f.startswith("at ORT_ENABLE_ALL")]


# ---- mistakes -------------------------------------------------------------------------------------------------------


def record(model: Model, **changes: Any) -> None:
    n = next(n for n in model.graph.node if any(p.key == REFITTED for p in n.metadata_props))
    r = next(iter(read_refitted(model).values()))
    record_refitted(n, Refitted(**(vars(r) | changes)))


def first(model: Model) -> Refitted:
    return next(iter(read_refitted(model).values()))


def changed(model: Model, name: str, by: int = 1) -> None:
    value = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).copy()
    value.reshape(-1)[0] += np.asarray(by).astype(value.dtype)
    store(model, name, value)


def not_declared(model: Model) -> None:
    n = next(n for n in model.graph.node if any(p.key == REFITTED for p in n.metadata_props))
    kept = [p for p in n.metadata_props if p.key != REFITTED]
    del n.metadata_props[:]
    n.metadata_props.extend(kept)


def another_type(model: Model) -> None:
    r = first(model)
    value = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == r.weight.name)).astype(np.int16)
    store(model, r.weight.name, value)
    record(model, weight=Refit(r.weight.name, r.weight.name, digest(value)))


def beyond_the_range(model: Model) -> None:
    r = first(model)
    value = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == r.weight.name)).copy()
    value.reshape(-1)[0] = -128
    store(model, r.weight.name, value)
    record(model, weight=Refit(r.weight.name, r.weight.name, digest(value)))


def a_scale_alone(model: Model) -> None:
    r = first(model)
    assert r.bias_scale is not None
    value = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == r.bias_scale.name)) * np.float32(
        1.1
    )
    store(model, r.bias_scale.name, value)
    record(model, bias_scale=Refit(r.bias_scale.name, r.bias_scale.name, digest(value)))


def a_step_of_the_activation(model: Model) -> None:
    graph = EditableGraph(model)
    name = next(n.input[1] for n in model.graph.node if is_op(n, "QuantizeLinear") and n.input[1] in graph.initializers)
    value = graph.constant(name)
    assert value is not None
    store(model, name, value * np.float32(1.01))


def somebody_elses(model: Model) -> None:
    """A constant that another layer, which declares nothing, reads too."""
    graph = EditableGraph(model)
    layers = [n for n in model.graph.node if is_op(n, "Conv")]
    weight, other = read_weight(graph, layers[0], 1), read_weight(graph, layers[1], 1)
    assert weight is not None and other is not None
    other.nodes[-1].input[2] = first(model).weight.name


MISTAKES: dict[str, Callable[[Model], None]] = {
    "a weight": lambda m: changed(m, first(m).weight.name),
    "a bias": lambda m: changed(m, first(m).bias.name),  # type: ignore[union-attr]
    "a bias scale": lambda m: changed(m, first(m).bias_scale.name),  # type: ignore[union-attr]
    "a weight scale": lambda m: changed(m, first(m).weight_scale.name),  # type: ignore[union-attr]
    "another digest": lambda m: record(m, weight=Refit(first(m).weight.name, None, "0" * 64)),
    "another name": lambda m: record(m, weight=Refit("nobody", None, "0" * 64)),
    "a smaller range": lambda m: record(m, low=-3, high=3),
    "not declared": not_declared,
    "another type": another_type,
    "beyond the range": beyond_the_range,
    "a bias scale that is no product": a_scale_alone,
    "a step of an activation": a_step_of_the_activation,
    "somebody else's constant": somebody_elses,
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_found(what: str) -> None:
    model = zoo.build("bias_int32")[0]
    new = refitted(model)
    MISTAKES[what](new)
    assert check(model, new).verdict == "FAILED"


def test_what_is_not_declared_must_be_the_originals() -> None:
    model = zoo.build("conv_relu_conv")[0]
    new = refitted(model, layers=("conv2",))
    assert list(read_refitted(new)) == ["conv2"]
    changed(new, "conv1_w")
    assert check(model, new).verdict == "FAILED"


NUMPY = [
    "conv_relu_conv", "gemm", "gemm_transposed", "conv_transpose", "grouped", "depthwise", "depthwise_multiplier",
    "matmul_gelu", "bias_int32_gemm_alpha",
]  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_computes_what_onnxruntime_does(name: str) -> None:
    model, feed = zoo.build(name)
    graph, new = EditableGraph(model), copy_of(model)
    layers = [n for n in model.graph.node if is_op(n, "Conv", "ConvTranspose", "Gemm", "MatMul")]
    layers = [n for n in layers if graph.is_constant(n.input[1])]
    known = {o.name for o in model.graph.output} | feed.keys()
    asked = {t for n in layers for t in (n.input[0], n.output[0])} - known
    new.graph.output.extend(onnx.ValueInfoProto(name=t) for t in sorted(asked))
    got = {**feed, **Session(new).run(feed)}
    for n in layers:
        y = multiply(graph, n, got[n.input[0]])
        assert y.shape == got[n.output[0]].shape
        assert np.abs(y - got[n.output[0]]).max() < 1e-5 * np.abs(y).max() + 1e-6


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_any_geometry(op: str, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2]))
    size, kernel = rng.integers(7, 10, rank).tolist(), rng.integers(1, 4, rank).tolist()
    dims = (4, 3, *kernel) if op == "ConvTranspose" else (6, 4 // groups, *kernel)
    strides, dilations = rng.integers(1, 3, rank).tolist(), rng.integers(1, 3, rank).tolist()
    extra: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    if seed % 3 == 0:
        extra["pads"] = rng.integers(0, 2, 2 * rank).tolist()
    elif seed % 3 == 1:
        extra["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER"]))
        extra["dilations"] = [1] * rank
    if op == "ConvTranspose" and seed == 3:
        extra["output_padding"] = [s - 1 for s in strides]
    w = rng.standard_normal(dims).astype(np.float32)
    b = rng.standard_normal(dims[1] * groups if op == "ConvTranspose" else dims[0]).astype(np.float32)
    n = onnx.helper.make_node(op, ["x", "w", "b"], ["y"], **extra)
    g = onnx.helper.make_graph(
        [n], "g", [onnx.helper.make_tensor_value_info("x", 1, [2, 4, *size])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    model = onnx.helper.make_model(g, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    x = rng.standard_normal((2, 4, *size)).astype(np.float32)
    got = Session(model).run({"x": x})["y"]
    y = multiply(EditableGraph(model), model.graph.node[0], x)
    assert y.shape == got.shape and np.abs(y - got).max() < 1e-4
    assert attribute(n, "group", 1) == groups


def test_a_file_that_onnxruntimes_optimizer_does_not_load() -> None:
    """Its optimizer stops at a Clip in front of 4 bits: the file is compared as it is written."""
    n, x = zoo.tokens(lambda n, t: n.clip(t, 0, 6))(zoo.Style(opset=21, dtype="int4"))
    model = n.model(*x)
    assert isinstance(attempt(model, "enable_all"), str) and not isinstance(attempt(model, "disable_all"), str)
    result = check(model, refitted(model))
    assert result.verdict == "PASSED" and result.refitted
    assert any("ORT_ENABLE_ALL" in note for note in result.notes)


def test_float16_holds_what_a_layer_computes_less_exactly() -> None:
    for seed in range(6):
        net = zoo.Net(zoo.Style(half=True, opset=21), seed=seed, x=(3, 8, 8))
        model = net.model(net.op("Identity", net.conv(net.qdq("x", "mid", 1.0)), out="y"))
        new = copy_of(model)
        conv = next(n for n in new.graph.node if is_op(n, "Conv"))
        value = Graph(new).constant("conv1_w")
        assert value is not None
        record_refitted(conv, Refitted(Refit("conv1_w", "conv1_w", digest(value)), None, None, None, -127, 127))
        assert verify(model, new, random_samples(model, 8, 0), 8).failures == []


@pytest.mark.parametrize("turn", [[0, 2, 3, 1], [0, 2, 1, 3]], ids=str)
def test_a_quantizer_behind_a_transpose(turn: list[int]) -> None:
    """The optimizer quantizes in front of the Transpose: that is nothing that the layer computes."""
    net = zoo.Net(zoo.Style(dtype="int8"), x=(4, 6, 6))
    conv = net.conv(net.qdq("x", "mid"))
    model = net.model(net.op("Sigmoid", net.qdq(net.op("Transpose", conv, perm=turn), "mid", 0.5)))
    new = refitted(model)
    checked = check(model, new)
    assert checked.refitted == 1 and checked.failures == []
    store(new, "conv1_b", Graph(new).constant("conv1_b") * np.float32(1.5))
    assert check(model, new).verdict == "FAILED"
