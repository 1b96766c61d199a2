"""Plans that change steps: everything that holds the old step follows, nothing else does, and wrong ones are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import zoo
from covering import in_turn
from onnx import helper, numpy_helper
from reference import initializer, wide_model
from step_plans import BIASED, Array, Model, biased, large_bias, plan_for, planned, regions_of
from zoo import Style

from onnx_ocs import api
from onnx_ocs.api import RewriteResult
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.errors import UserError
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.plan import Plan
from onnx_ocs.probes.rescaled import rescaled
from onnx_ocs.records.layouts import read_scales
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region, adjustable
from onnx_ocs.regions.steps import check_rescale
from onnx_ocs.targets import ort
from onnx_ocs.translation.rescale import rescale
from onnx_ocs.verification.verify import verify


def apply(model: Model, plan: Plan, verify: bool = True) -> RewriteResult:
    before = model.SerializeToString(deterministic=True)
    result = api.rewrite(model, passes=[Translate(plan=plan)], verify=verify)
    assert model.SerializeToString(deterministic=True) == before, "the input model was changed"
    return result


def entry(result: RewriteResult, tensor: str) -> dict[str, Any]:
    return next(e for e in result.report["regions"] if e["tensor"] == tensor)


def node(model: Model, output: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if output in n.output)


def steps(model: Model, *outputs: str) -> list[float]:
    """The step of the Q or DQ nodes with these outputs."""
    return [float(initializer(model, node(model, o).input[1]).max()) for o in outputs]


def scale_of(model: Model, n: onnx.NodeProto) -> Any:
    return initializer(model, n.input[1]).astype(np.float64).tolist()


def all_steps(model: Model) -> dict[str, list[float]]:
    """Steps by what the Q or DQ writes."""
    return {
        n.output[0]: initializer(model, n.input[1]).tolist()
        for n in model.graph.node
        if n.op_type in ("QuantizeLinear", "DequantizeLinear")
    }


def check_values(model: Model, result: RewriteResult, feed: dict[str, Array], tolerance: float = 1e-5) -> None:
    """The rewritten model against quantizers built from the report alone, and the original is something else."""
    tensors = [e["tensor"] for e in result.report["regions"] if e["tensor"] not in feed]
    probe = Model()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors)
    values = zoo.execute(probe, feed)[len(model.graph.output) :]
    ranks = {k: v.ndim for k, v in feed.items()} | {t: v.ndim for t, v in zip(tensors, values, strict=True)}
    entries = [
        e | {"status": "applied", "copies": e["copies"] or [0] * e["channels"]}
        if e["scale"] != e["scale_before"]
        else e
        for e in result.report["regions"]
    ]
    want = zoo.execute(wide_model(model, entries, ranks), feed)[0]
    for level in ("disable_all", "enable_all"):
        gap = np.abs(zoo.execute(result.model, feed, level)[0] - want)
        # a few may lie on a rounding tie
        assert np.mean(gap > tolerance * np.abs(want).max()) < 0.03
        assert gap.max() <= max(tolerance, 0.01) * np.abs(want).max()
    assert np.abs(zoo.execute(model, feed)[0] - want).max() > 1e-3 * np.abs(want).max(), "nothing was tested"


# ---- steps, with and without copies ---------------------------------------------------------------------------------

CASES = [
    "conv_relu_conv", "implicit_relu", "none_mid", "three_layers", "residual", "depthwise", "conv_transpose",
    "matmul_relu", "flatten_gemm", "concat_wide", "requantized", "requantized_twice",
    "many_dequantizers", "integer_max_pool", "two_different_quantizers", "output_float",
    "depthwise_per_channel", "clip_cuts", "int8", "qcdq2_residual", "int4", "opset10",
    "zero_absent", "shared_parameters", "unnamed", "unsorted", "fixed_batch",
]  # fmt: skip


def first_wide(name: str) -> str:
    return next(t for t, mode in zoo.CASES[name].wide.items() if mode != "carried")


@pytest.mark.parametrize(("name", "factor"), [(c, (0.37, 1.3)[k % 2]) for k, c in enumerate(CASES)])
def test_only_the_step(name: str, factor: float) -> None:
    model, feed = zoo.build(name)
    tensor = first_wide(name)
    result = apply(model, plan_for(model, **{tensor: (factor, 0, "late")}))
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    quantizers = [n for n in result.model.graph.node if n.op_type == "QuantizeLinear"]
    for r in regions_of(model):
        found = [e for e in result.report["regions"] if e["tensor"] == r.tensor and e["producer"] is not None]
        for e in found:
            if r.tensor == tensor:
                assert e["status"] == "applied" and e["mode"] == "rescale" and e["reason"] is None
                ratio = np.asarray(e["scale"]) / np.asarray(e["scale_before"])
                assert np.allclose(ratio, factor, rtol=1e-6)
                assert not np.any(e["copies"]) and not np.any(e["copies_low"])
            else:  # a carried one follows
                follows = any(
                    n.input[0] == r.tensor and scale_of(result.model, n) != e["scale_before"] for n in quantizers
                )
                assert (e["scale"] != e["scale_before"]) == follows
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert len(result.model.graph.node) >= len(model.graph.node)
    assert all(tuple(t.dims) == shapes.get(t.name, tuple(t.dims)) for t in result.model.graph.initializer)
    check_values(model, result, feed)
    again = api.rewrite(result.model, passes=[Translate(plan=plan_for(model, **{tensor: (factor, 0, "late")}))])
    assert not again.changed and again.model is result.model


@pytest.mark.parametrize(
    ("name", "factor", "copies", "mode"), in_turn(CASES, [(0.4, 2, "early"), (0.7, 1, "late")])
)  # fmt: skip
def test_step_and_copies(name: str, factor: float, copies: int, mode: str) -> None:
    model, feed = zoo.build(name)
    tensor = first_wide(name)
    plan = plan_for(model, **{tensor: (factor, copies, mode)})
    result = apply(model, plan)
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    e = entry(result, tensor)
    assert e["status"] == "applied" and e["copies"] == plan.regions[0].copies.tolist()
    assert np.allclose(e["scale"], np.asarray(e["scale_before"]) * factor, rtol=1e-6)
    assert e["mode"] in ("early", "late") and (mode == "early" or e["mode"] == "late")
    check_values(model, result, feed)
    again = api.rewrite(result.model, passes=[Translate(plan=plan)])
    assert not again.changed and again.model is result.model


def test_every_region_at_once() -> None:
    for name in ("residual", "depthwise", "three_layers"):
        model, feed = zoo.build(name)
        tensors = [r.tensor for r in adjustable(regions_of(model)).values() if r.walk.weights]
        wishes = {t: (f, n, "early") for t, f, n in zip(tensors, (0.8, 0.5, 0.6), (1, 0, 2), strict=False)}
        result = apply(model, plan_for(model, **wishes))
        assert result.verification is not None and result.verification.verdict == "PASSED"
        assert result.verification.rescaled == len(wishes)
        check_values(model, result, feed)


def test_quantizers_and_dequantizers_follow() -> None:
    """The Q, all DQs on its integers, and Q/DQ pairs further on that carry the same grid."""
    reads = {
        "conv_relu_conv": ["relu1_q", "relu1_dq"],
        "many_dequantizers": ["relu1_q", "reader0", "reader1", "reader2"],
        "two_equal_quantizers": ["relu1_q", "relu1_dq", "again_q", "again_dq"],
        "requantized": ["relu1_q", "relu1_dq", "maxpool1_q", "maxpool1_dq"],
        "requantized_twice": ["relu1_q", "relu1_dq", "again_q", "again_dq"],
        "resize_requantized": ["relu1_q", "relu1_dq", "resize1_q", "resize1_dq"],
        "multiplied": ["relu1_q", "relu1_dq", "again_q", "again_dq"],
        "integer_max_pool": ["relu1_q"],
    }
    for name, follow in reads.items():
        model, _ = zoo.build(name)
        result = apply(model, plan_for(model, relu1=(0.5, 0, "late")))
        old, new = all_steps(model), all_steps(result.model)
        assert old.keys() == new.keys()
        changed = {k for k in old if old[k] != new[k]}
        for k in changed:
            assert np.allclose(new[k], 0.5 * np.asarray(old[k])), k
        assert set(follow) <= changed, name
        assert {k for k in changed if k in old and "conv" not in k} - set(follow) <= {"maxpool1_dq"}, name


def test_shared_initializers_are_cloned() -> None:
    """A stranger's Q and DQ that have the same scale initializer keep the old value."""
    n, x = zoo.image(Style())
    a = n.qdq(n.op("Relu", n.conv(x)), scale=n.initializers["x_scale"])
    b = n.qdq(n.op("Relu", n.conv(a)), scale=n.initializers["x_scale"])
    model = n.model(n.conv(b))
    for k in model.graph.node:
        k.input[:] = ["x_scale" if i in ("relu1_scale", "relu2_scale") else i for i in k.input]
    for t in [t for t in model.graph.initializer if t.name in ("relu1_scale", "relu2_scale")]:
        model.graph.initializer.remove(t)
    old = float(initializer(model, "x_scale"))
    result = apply(model, plan_for(model, relu1=(0.5, 1, "early")))
    assert result.verification is not None and result.verification.verdict == "PASSED"
    assert initializer(result.model, "x_scale") == np.float32(old)
    new = result.model
    strangers = steps(new, "x_q", "x_dq", "relu2_q", "relu2_dq")
    assert strangers == [old] * 4
    mine = [k for k in all_steps(new) if k.startswith("relu1")]
    assert len(mine) == 2 and steps(new, *mine) == [old / 2] * 2
    check_values(model, result, n.feed)


def test_a_second_grid_of_the_same_tensor_stays() -> None:
    model, feed = zoo.build("two_different_quantizers")
    first, second = [r for r in regions_of(model) if r.tensor == "relu1"]
    result = apply(model, Plan(fingerprint(model), (planned(second, 0.5),)))
    assert steps(result.model, "relu1_q", "relu1_dq") == steps(model, "relu1_q", "relu1_dq")
    assert steps(result.model, "again_q", "again_dq") == [s / 2 for s in steps(model, "again_q", "again_dq")]
    states = [(e["mode"], e["status"]) for e in result.report["regions"] if e["tensor"] == "relu1"]
    assert states == [(None, "refused"), ("rescale", "applied")]
    check_values(model, result, feed)
    assert first.quantizer is not None
    merged = Plan(fingerprint(model), (replace(planned(second, 1), scale=first.quantizer.scale),))
    with pytest.raises(UserError, match="relu1"):  # both would have one grid
        apply(model, merged)


def test_a_grid_that_two_tensors_share_behind_a_concat() -> None:
    """The quantizer behind the Concat would have to have two steps."""
    model, _ = zoo.build("concat_requantized")
    for wishes in ({"relu1": (0.5, 1, "early")}, {"relu1": (0.5, 0, "late"), "relu2": (0.8, 1, "early")}):
        result = apply(model, plan_for(model, **wishes))  # type: ignore[arg-type]
        carried = next(n for n in result.model.graph.node if n.op_type == "QuantizeLinear" and "concat1" in n.output[0])
        own = [n for n in result.model.graph.node if n.op_type == "QuantizeLinear" and n.output[0].startswith("relu")]
        found = {float(initializer(result.model, n.input[1])) for n in (carried, *own)}
        assert len(found) == 1, "one of them clips what another does not"


# ---- integer biases -------------------------------------------------------------------------------------------------

def bias_of(model: Model, layer: onnx.NodeProto) -> tuple[Array, Array]:
    dq = node(model, layer.input[2])
    assert dq.op_type == "DequantizeLinear"
    return initializer(model, dq.input[0]), initializer(model, dq.input[1])


@pytest.mark.parametrize(
    ("name", "factor", "per_channel"), in_turn(BIASED, [(0.31, True), (1.3, False), (1.3, True), (0.31, False)], each=2)
)  # fmt: skip
def test_tied_biases_follow(name: str, factor: float, per_channel: bool) -> None:
    """The integers stand for the same values, to half a new step; the step is the product of the two others."""
    net, model = biased(name, per_channel=per_channel)
    result = apply(model, plan_for(model, relu1=(factor, 0, "late")))
    assert result.verification is not None and result.verification.verdict == "PASSED"
    new_step = initializer(result.model, node(result.model, "relu1_q").input[1])
    assert new_step.dtype == np.float32
    follow = 0
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm")]
    for old in layers:
        now = next(n for n in result.model.graph.node if n.name == old.name)
        (b, s), (b_now, s_now) = bias_of(model, old), bias_of(result.model, now)
        assert b.dtype == b_now.dtype == np.int32 and s.dtype == s_now.dtype == np.float32 and s.shape == s_now.shape
        reads = {old.input[0], *node(model, old.input[0]).input} if old.input[0] in all_outputs(model) else set()
        if "relu1_dq" in reads or "maxpool1_dq" in reads:
            follow += 1
            weight = initializer(result.model, node(result.model, now.input[1]).input[1])
            assert np.array_equal(s_now, np.broadcast_to(new_step.reshape(()) * weight.reshape(s.shape), s.shape))
            before, after = b * s.astype(np.float64), b_now * s_now.astype(np.float64)
            assert np.all(np.abs(after - before) <= 0.5 * s_now.astype(np.float64) + 1e-6 * np.abs(before))
        else:
            assert np.array_equal(b, b_now) and np.array_equal(s, s_now), old.name
    assert follow == (2 if name in ("two readers",) else 1)
    check_values(model, result, net.feed, 0.02)
    assert integer_kernels(result.model) == integer_kernels(model)


@pytest.mark.parametrize("given", [True, False])
def test_a_step_that_changes_twice(given: bool) -> None:
    """The bias is rounded once, from what the original holds; rounding what was rounded gives other integers."""
    _, model = biased("conv")
    for t in model.graph.initializer:
        if t.data_type == onnx.TensorProto.INT32:
            t.CopyFrom(numpy_helper.from_array(np.arange(numpy_helper.to_array(t).size, dtype=np.int32), t.name))
    new = Model()
    new.CopyFrom(model)
    for factor in (7.0, 0.4):
        graph = EditableGraph(new)
        region = next(r for r in find_regions(graph, infer_shapes(new)) if r.tensor == "relu1")
        assert isinstance(region, Region)
        rescale(graph, region, region.quantizer.scale * factor, Graph(model) if given else None)
        graph.commit(lambda n: None)
    samples = random_samples(model, 2, 0)
    assert verify(model, new, samples, 2).verdict == ("PASSED" if given else "FAILED")


def all_outputs(model: Model) -> set[str]:
    return {o for n in model.graph.node for o in n.output}


def integer_kernels(model: Model) -> int | None:
    return ort.integer_kernels(model)


@pytest.mark.parametrize("name", ["conv", "three layers", "depthwise", "transposed", "gemm", "residual"])
@pytest.mark.parametrize("mode", ["early", "late"])
def test_tied_biases_with_copies(name: str, mode: str) -> None:
    net, model = biased(name)
    wishes = {r.tensor: (0.45, 2, mode) for r in adjustable(regions_of(model)).values() if r.walk.weights}
    result = apply(model, plan_for(model, **wishes))
    assert result.verification is not None and result.verification.verdict == "PASSED"
    check_values(model, result, net.feed, 0.05)
    for n in result.model.graph.node:
        if n.op_type in ("Conv", "ConvTranspose", "Gemm"):
            source = node(result.model, n.input[0])
            if source.op_type == "DequantizeLinear":
                b, s = bias_of(result.model, n)
                x = initializer(result.model, source.input[1])
                w = initializer(result.model, node(result.model, n.input[1]).input[1])
                groups = next((a.i for a in n.attribute if a.name == "group"), 1)
                assert b.shape == (w.size if groups == 1 else b.size,)
                assert np.array_equal(s, x.reshape(()) * w), n.name


@pytest.mark.parametrize("factor", [0.5, 0.37])
@pytest.mark.parametrize("pow2", [True, False])
def test_float16(pow2: bool, factor: float) -> None:
    """Refused where half precision cannot hold X_clip exactly enough; else steps and products stay in float16."""
    net, model = biased("conv", half=True, opset=19, pow2=pow2)
    for copies in (0, 1):
        result = apply(model, plan_for(model, relu1=(factor, copies, "late")))
        if not result.changed:
            assert entry(result, "relu1")["reason"]["code"] == "half_precision"
            continue
        assert result.verification is not None and result.verification.verdict == "PASSED"
        assert all(initializer(result.model, n.input[1]).dtype == np.float16 for n in activations(result.model))
        check_values(model, result, net.feed, 0.02)


def activations(model: Model) -> list[onnx.NodeProto]:
    constants = {t.name for t in model.graph.initializer}
    return [
        n
        for n in model.graph.node
        if n.op_type in ("QuantizeLinear", "DequantizeLinear") and n.input[0] not in constants
    ]


def test_other_biases_stay() -> None:
    """In float; in int32 with another step than s_x * s_w; in int8."""
    for bias in ("float", "half", "int8"):
        n, outputs = zoo.conv_relu_conv(Style(bias=bias))
        model = n.model(*outputs)
        result = apply(model, plan_for(model, relu1=(0.5, 0, "late")))
        old = {t.name: t.SerializeToString() for t in model.graph.initializer}
        added = {t.name for t in result.model.graph.initializer} - old.keys()
        assert len(added) == 1 and "scale" in added.pop()
        layer = next(n for n in result.model.graph.node if n.name == "conv2/Conv")
        assert layer == next(n for n in model.graph.node if n.name == "conv2/Conv")


def test_a_bias_shared_with_another_layer_is_cloned() -> None:
    n, x = zoo.image(Style(bias="int32"))
    a = n.qdq(n.op("Relu", n.conv(x, out=4)))
    first = n.conv(a, out=6)
    model = n.model(first, n.op("Add", first, n.conv(a, out=6)))
    convs = [k for k in model.graph.node if k.op_type == "Conv"]
    stranger = helper.make_node("Conv", [x, convs[1].input[1], convs[1].input[2]], ["s"], name="s", pads=[1, 1, 1, 1])
    model.graph.node.append(stranger)
    model.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, ["N", 6, 6, 6]))
    result = apply(model, plan_for(model, relu1=(0.5, 0, "late")))
    now = {k.name: k for k in result.model.graph.node if k.op_type == "Conv"}
    assert now["s"].input[2] == stranger.input[2] != now[convs[1].name].input[2]
    assert np.array_equal(bias_of(result.model, now["s"])[0], bias_of(model, stranger)[0])
    feed = n.feed
    assert np.array_equal(zoo.execute(model, feed)[2], zoo.execute(result.model, feed)[2])


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [0, 1])
def test_integers_that_somebody_else_reads(run: Any, tmp_path: Path, copies: int) -> None:
    """A graph output of integers means what its step says: nothing is changed, and the file is the input."""
    model, _ = zoo.build("output_integer")
    onnx.save(model, tmp_path / "in.onnx")
    loaded = onnx.load(tmp_path / "in.onnx")
    plan = plan_for(loaded, relu1=(0.5, copies, "early"))
    (tmp_path / "p.json").write_text(plan.to_json())
    code, out, err = run("rewrite", "in.onnx", "o.onnx", "--plan", "p.json", "--report", "r.json")
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()
    e = next(e for e in json.loads((tmp_path / "r.json").read_text())["regions"] if e["tensor"] == "relu1")
    assert e["status"] == "refused" and e["reason"]["code"] == "integers_leave"
    assert e["scale"] == e["scale_before"] and not e["copies"]
    # copies at the old step are possible
    kept = apply(loaded, plan_for(loaded, relu1=(1.0, 1, "early")))
    assert kept.changed and entry(kept, "relu1")["status"] == "applied"


def integer_readers() -> dict[str, Model]:
    """Models in which something else computes with the integers."""
    found = {}
    for kind in ("cast", "other dq", "subgraph"):
        n, x = zoo.image(Style())
        q = n.q(n.op("Relu", n.conv(x)))
        y = n.conv(n.dq(q))
        if kind == "cast":
            y = n.op("Add", y, n.op("Cast", q, to=onnx.TensorProto.FLOAT))
        elif kind == "other dq":
            y = n.op("Add", y, n.op("DequantizeLinear", q, n.const("other_scale", 0.25), "relu1_zero"))
        else:
            out = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, ["N", 8, 6, 6])
            cast = helper.make_node("Cast", [q], ["inner"], to=onnx.TensorProto.FLOAT)
            body = helper.make_graph([cast], "body", [], [out])
            z = n.op("If", n.const("condition", True, np.bool_), then_branch=body, else_branch=body)
            y = n.op("Add", y, z)
        found[kind] = n.model(y)
    return found


@pytest.mark.parametrize("kind", ["cast", "other dq", "subgraph"])
def test_integers_that_somebody_computes_with(kind: str) -> None:
    model = integer_readers()[kind]
    result = apply(model, plan_for(model, relu1=(0.5, 1, "late")))
    assert not result.changed and result.model is model
    assert entry(result, "relu1")["reason"]["code"] == "integers_leave"


def test_bias_that_would_overflow() -> None:
    """The weights of a channel that is next to constant get coarser steps; the others stay bit for bit."""

    def read(m: Model) -> tuple[Array, Array, Array, Array]:
        layer = node(m, "conv2")
        weight, bias = node(m, layer.input[1]), node(m, layer.input[2])
        wide = (weight.input[0], weight.input[1], bias.input[0], bias.input[1])
        w, s, b, p = (initializer(m, name) for name in wide)
        return w.astype(np.int64), s, b.astype(np.int64), p

    model = large_bias()
    result = apply(model, plan_for(model, relu1=(0.2, 1, "late")))
    assert entry(result, "relu1")["status"] == "applied"
    (w, s, b, _), (new_w, new_s, new_b, product) = read(model), read(result.model)
    factor = new_s / s
    assert factor[3] in (8, 16) and np.all(np.delete(factor, 3) == 1)
    narrow = new_w[:, : w.shape[1]]
    assert np.array_equal(np.delete(narrow, 3, 0), np.delete(w, 3, 0))
    assert np.array_equal(narrow[3], np.rint(w[3] / factor[3]).astype(np.int64))
    assert new_b[3] > -(2**31) and abs(new_b[3] * 0.2 * factor[3] / b[3] - 1) < 1e-6
    assert np.array_equal(product, new_s * np.float32(steps(result.model, "relu1_dq")[0]))


@pytest.mark.parametrize("per_channel", [False, True])
def test_bias_that_cannot_follow(per_channel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that share one step, or that say too much beside the bias: of two regions one is refused."""
    if per_channel:
        monkeypatch.setattr("onnx_ocs.regions.steps.TOLERANCE", 1e-9)
    model = large_bias(per_channel)
    region = next(r for r in regions_of(model) if r.tensor == "relu1")
    assert region.quantizer is not None
    graph = EditableGraph(model)
    assert check_rescale(graph, region, region.quantizer.scale * 0.51) is None
    why = check_rescale(graph, region, region.quantizer.scale * 0.49)
    assert why is not None and why.code == "bias_range" and "conv2" in why.message
    result = apply(model, plan_for(model, relu1=(0.4, 1, "late")))
    assert not result.changed and entry(result, "relu1")["reason"]["code"] == "bias_range"
    result = apply(model, plan_for(model, relu1=(0.4, 1, "late"), x=(0.4, 0, "late")))
    assert (
        result.changed and entry(result, "relu1")["status"] == "refused" and entry(result, "x")["status"] == "applied"
    )
    assert steps(result.model, "relu1_q", "relu1_dq") == steps(model, "relu1_q", "relu1_dq")
    fine = apply(model, plan_for(model, relu1=(0.6, 0, "late")))
    assert entry(fine, "relu1")["status"] == "applied"


def test_checks_do_not_edit() -> None:
    for name in ("bias_int32", "output_integer", "requantized"):
        model, _ = zoo.build(name)
        before = model.SerializeToString(deterministic=True)
        graph = EditableGraph(model)
        for r in find_regions(graph, infer_shapes(model)):
            if isinstance(r, Region) and r.walk.weights:
                check_rescale(graph, r, r.quantizer.scale / 3)
        graph.commit()
        assert model.SerializeToString(deterministic=True) == before


# ---- verification ---------------------------------------------------------------------------------------------------


def test_scales_are_read_back() -> None:
    """By what each Q wrote in the original, whatever it is called now; the yardstick gets them all."""
    model, _ = zoo.build("residual")
    result = apply(model, plan_for(model, relu1=(0.5, 1, "early"), relu2=(0.75, 0, "late"), x=(1.0, 1, "late")))
    scales = read_scales(result.model)
    assert scales.keys() == {"relu1_q", "relu2_q"}
    old = {k: steps(model, k)[0] for k in scales}
    assert scales["relu1_q"] == np.float32(old["relu1_q"] * 0.5)
    assert scales["relu2_q"] == np.float32(old["relu2_q"] * 0.75)
    yardstick = rescaled(model, scales)
    assert steps(yardstick, "relu1_q", "relu1_dq") == [scales["relu1_q"]] * 2
    assert steps(yardstick, "x_q", "conv2_q") == steps(model, "x_q", "conv2_q")
    assert read_scales(model) == {}


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model, Model]:
    """A model with tied biases; rewritten in its steps alone; and with copies too."""
    _, model = biased("residual")
    steps_only = apply(model, plan_for(model, x=(0.5, 0, "late"), relu1=(0.4, 0, "late"), relu2=(0.6, 0, "late")))
    wide = apply(model, plan_for(model, x=(0.5, 1, "late"), relu1=(0.4, 2, "early"), relu2=(0.6, 1, "late")))
    return model, steps_only.model, wide.model


def dequantizer(m: Model) -> onnx.NodeProto:
    return next(n for n in m.graph.node if n.op_type == "DequantizeLinear" and n.output[0].startswith("relu1_dq"))


def quantizer(m: Model) -> onnx.NodeProto:
    return next(n for n in m.graph.node if n.op_type == "QuantizeLinear" and n.output[0].startswith("relu1_q"))


def bias_dq(m: Model) -> onnx.NodeProto:
    """Of the Conv that reads relu1."""
    return node(m, next(n for n in m.graph.node if n.name == "conv2/Conv").input[2])


def edit(m: Model, n: onnx.NodeProto, index: int, change: Callable[[Array], Array]) -> None:
    """Another constant for one input of one node."""
    value = np.asarray(change(initializer(m, n.input[index]).copy()))
    name = f"edited{len(m.graph.initializer)}"
    m.graph.initializer.append(numpy_helper.from_array(value, name))
    n.input[index] = name


def in_place(m: Model, n: onnx.NodeProto, index: int, change: Callable[[Array], Array]) -> None:
    """Another value for a constant, for all who read it."""
    t = next(t for t in m.graph.initializer if t.name == n.input[index])
    t.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(t).copy())), t.name))


def scale_of_the_dequantizer(m: Model) -> None:
    edit(m, dequantizer(m), 1, lambda s: s * np.float32(1.05))


def scale_of_the_quantizer(m: Model) -> None:
    edit(m, quantizer(m), 1, lambda s: s * np.float32(1.05))


def old_scale_in_the_dequantizer(m: Model) -> None:
    edit(m, dequantizer(m), 1, lambda s: s / np.float32(0.4))


def bias_integers(m: Model) -> None:
    edit(m, bias_dq(m), 0, lambda b: b // 2)


def one_bias_integer(m: Model) -> None:
    def change(b: Array) -> Array:
        b[2] += 400
        return b

    edit(m, bias_dq(m), 0, change)


def bias_scale(m: Model) -> None:
    edit(m, bias_dq(m), 1, lambda s: s * np.float32(0.8))


def bias_that_did_not_follow(m: Model) -> None:
    """The old integers with the new step."""
    edit(m, bias_dq(m), 0, lambda b: np.rint(b * 0.4).astype(np.int32))


def record_removed(m: Model) -> None:
    n = quantizer(m)
    kept = [p for p in n.metadata_props if p.key != "onnx_ocs.scale_before"]
    assert len(kept) < len(n.metadata_props)
    del n.metadata_props[:]
    n.metadata_props.extend(kept)


def record_on_another(m: Model) -> None:
    n = next(n for n in m.graph.node if n.op_type == "QuantizeLinear" and n.output[0].startswith("conv2_q"))
    n.metadata_props.add(key="onnx_ocs.scale_before", value="0.5")
    edit(m, n, 1, lambda s: s * np.float32(0.7))


CORRUPTIONS = [
    scale_of_the_dequantizer, scale_of_the_quantizer, old_scale_in_the_dequantizer, bias_integers, one_bias_integer,
    bias_scale, bias_that_did_not_follow, record_removed, record_on_another,
]  # fmt: skip


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda f: f.__name__)
def test_a_corrupted_file_fails(
    run: Any, tmp_path: Path, pair: tuple[Model, Model, Model], corrupt: Callable[[Model], None], copies: bool
) -> None:
    bad = Model()
    bad.CopyFrom(pair[2 if copies else 1])
    corrupt(bad)
    onnx.save(pair[0], tmp_path / "in.onnx")
    onnx.save(bad, tmp_path / "bad.onnx")
    code, out, err = run("verify", "in.onnx", "bad.onnx", "-q")
    assert code == 2, out
    assert "FAILED" in (out + err).splitlines()[-1] and "Traceback" not in err


def test_shift_of_the_copies_fails(run: Any, tmp_path: Path, pair: tuple[Model, Model, Model]) -> None:
    """The step of Q and DQ together, which the late copies' shift does not follow."""
    bad = Model()
    bad.CopyFrom(pair[2])
    late = next(n for n in bad.graph.node if n.op_type == "QuantizeLinear" and n.output[0].startswith("relu2_q"))
    in_place(bad, late, 1, lambda s: s * np.float32(1.1))
    onnx.save(pair[0], tmp_path / "in.onnx")
    onnx.save(bad, tmp_path / "bad.onnx")
    assert run("verify", "in.onnx", "bad.onnx", "-q")[0] == 2


def test_a_model_that_no_longer_loads_fails(run: Any, tmp_path: Path, pair: tuple[Model, Model, Model]) -> None:
    """A scale of shape [1] beside a residual Add: onnxruntime does not load it at its default level before 1.32."""
    bad = Model()
    bad.CopyFrom(pair[1])
    for n in (quantizer(bad), dequantizer(bad)):
        edit(bad, n, 1, lambda s: s.reshape(1))
    assert integer_kernels(pair[0]) is not None
    if tuple(int(v) for v in onnxruntime.__version__.split(".")[:2]) >= (1, 32):
        pytest.skip("this onnxruntime loads it")
    assert integer_kernels(bad) is None
    onnx.save(pair[0], tmp_path / "in.onnx")
    onnx.save(bad, tmp_path / "bad.onnx")
    assert run("verify", "in.onnx", "bad.onnx", "-q")[0] == 2


@pytest.mark.parametrize("kind", ["steps", "copies"])
def test_it_still_loads_at_the_default_level(pair: tuple[Model, Model, Model], kind: str) -> None:
    new = pair[1 if kind == "steps" else 2]
    assert integer_kernels(new) is not None
    scales = [n.input[1] for n in activations(new)]
    assert all(initializer(new, s).ndim == 0 for s in scales)


@pytest.mark.parametrize("which", [1, 2])
def test_the_verb_passes(run: Any, tmp_path: Path, pair: tuple[Model, Model, Model], which: int) -> None:
    model = pair[0]
    onnx.save(model, tmp_path / "in.onnx")
    loaded = onnx.load(tmp_path / "in.onnx")
    n = (0, 0, 2)[which]
    plan = plan_for(loaded, x=(0.5, n, "late"), relu1=(0.4, n, "early"), relu2=(0.6, n, "late"))
    (tmp_path / "p.json").write_text(plan.to_json())
    code, out, err = run("rewrite", "in.onnx", "o.onnx", "--plan", "p.json", "--report", "r.json")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verification"]["verdict"] == "PASSED"
    assert report["verification"]["oracle"]["rescaled_quantizers"] == 3
    assert report["verification"]["oracle"]["translated_quantizers"] == (3 if n else 0)
    code, out, err = run("verify", "in.onnx", "o.onnx", "--report", "v.json")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")
    assert json.loads((tmp_path / "v.json").read_text())["verification"]["oracle"]["rescaled_quantizers"] == 3
    for args in ([], ["--plan", "p.json"]):
        code, out, err = run("rewrite", "o.onnx", "twice.onnx", *args)
        assert (code, err) == (0, "")
        assert (tmp_path / "twice.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()
