"""The compensate pass: what branches bring and compute, what is refused, and what a damaged branch leads to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from branch_nets import image_net, signature, some_branch
from feeds import inputs
from onnx import helper, numpy_helper
from topologies import gelu_spelled, norm_fused, resnet, transformer
from zoo import Net, Style

from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.compensation.insert import insert
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.translate import Translate
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.branches import RECORD, read_branches, strip
from onnx_ocs.records.history import history
from onnx_ocs.regions.find import find_regions

ROOT = Path(__file__).resolve().parents[2]
DIGITS, CALIB, TEST = (ROOT / "models" / f"digits.{k}" for k in ("w8a2.onnx", "calib.npz", "test.npz"))
DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def digits() -> api.RewriteResult:
    return api.rewrite(DIGITS, calib=CALIB, passes=[Compensate()])


@pytest.fixture(scope="module")
def coarse() -> tuple[onnx.ModelProto, dict[str, np.ndarray], api.RewriteResult]:
    """A residual network of 2-bit activations, compensated."""
    model = resnet(Style(bits=2)).model("gemm1")
    samples = inputs(model, 192)
    return model, samples, api.rewrite(model, calib=samples, passes=[Compensate(budget=1.0)])


def applied(result: api.RewriteResult) -> list[dict[str, Any]]:
    return [e for e in result.report["compensations"] if e["status"] == "applied"]


# ---- gain -----------------------------------------------------------------------------------------------------------


def held_out(model: onnx.ModelProto, new: onnx.ModelProto, samples: Any) -> tuple[float, float]:
    """SQNR before and after against the float model, in dB."""
    ref = reference(model, find_regions(EditableGraph(model), infer_shapes(model)))
    a, b = compare(ref, [model, new], open_samples(samples, model))
    assert a.sqnr_db is not None and b.sqnr_db is not None
    return a.sqnr_db, b.sqnr_db


def test_gain_on_images_never_seen(digits: api.RewriteResult) -> None:
    with np.load(TEST) as z:
        before, after = held_out(onnx.load(DIGITS), digits.model, {"pixels": z["pixels"]})
    assert after > before + 3
    assert digits.report["verification"]["verdict"] == "PASSED"
    assert digits.report["verification"]["oracle"]["branches"] == len(applied(digits)) >= 2


def test_gain_of_a_zoo_network(coarse: Any) -> None:
    model, _, result = coarse
    before, after = held_out(model, result.model, inputs(model, 64, seed=1))
    assert after > before + 0.5 and applied(result)
    for e in applied(result):
        assert e["sqnr_after_db"] > e["sqnr_before_db"]


def side_by_side(model: onnx.ModelProto) -> None:
    """The projection before the block that it is beside."""
    writers = {o: n for n in model.graph.node for o in n.output}
    needed, stack = set[str](), [writers["sum2"].input[1]]
    while stack:
        if (n := writers.get(stack.pop())) is not None and not needed.issuperset(n.output):
            needed.update(n.output)
            stack += n.input
    nodes = sorted(model.graph.node, key=lambda n: needed.isdisjoint(n.output))
    assert [n.output[0] for n in nodes] != [n.output[0] for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def folded_late(model: onnx.ModelProto) -> None:
    """What a block starts from behind all that is read instead of it."""
    for n in model.graph.node:
        for names in (n.input, n.output):
            names[:] = ["block1_wide" if t == "block1" else t for t in names]
    model.graph.node.append(helper.make_node("Identity", ["block1_wide"], ["block1"]))


@pytest.mark.parametrize("move", [side_by_side, folded_late])
def test_blocks_in_another_order(move: Callable[[onnx.ModelProto], None]) -> None:
    """An earlier pass sorts the nodes again: the file's order is not the order in which blocks were found."""
    model = resnet(Style(bits=3, dtype="int8")).model("gemm1")
    samples, moved = inputs(model, 64), copy.deepcopy(model)
    move(moved)
    result = Compensate(budget=1.0).run(moved, Context(open_samples(samples, model), original=model))
    assert any(e["status"] == "applied" for e in result.compensations)
    assert all(e["reason"] is None or e["reason"]["code"] == "no_end_gain" for e in result.compensations)
    onnx.checker.check_model(moved, full_check=True)


def test_nothing_but_nodes_is_added(digits: api.RewriteResult, coarse: Any) -> None:
    for old, new in ((onnx.load(DIGITS), digits.model), (coarse[0], coarse[2].model)):
        assert signature(old) == signature(new)
        onnx.checker.check_model(new, full_check=True)
        assert {n.domain for n in new.graph.node} == {n.domain for n in old.graph.node}
        stamps = [p.value for n in new.graph.node for p in n.metadata_props if p.key == "onnx_ocs.pass"]
        assert len(stamps) >= len(new.graph.node) - len(old.graph.node) > 0
        assert [e["pass"] for e in history(new)] == ["compensate"]
        assert cost(new).integer_kernels == cost(old).integer_kernels


def test_strip_gives_the_model_back(digits: api.RewriteResult, coarse: Any) -> None:
    for old, new in ((onnx.load(DIGITS), digits.model), (coarse[0], coarse[2].model)):
        bare = strip(new)
        key = lambda n: (n.op_type, list(n.input), list(n.output), [a.SerializeToString() for a in n.attribute])  # noqa: E731
        assert sorted(map(key, bare.graph.node)) == sorted(map(key, old.graph.node))
        assert {t.name: t.SerializeToString() for t in bare.graph.initializer} == {
            t.name: t.SerializeToString() for t in old.graph.initializer
        }
        assert signature(bare) == signature(old)
        onnx.checker.check_model(bare)


def test_a_second_run_adds_nothing(digits: api.RewriteResult) -> None:
    again = api.rewrite(digits.model, calib=CALIB, limit=32, passes=[Translate(), Compensate()])
    assert not again.changed and again.model.SerializeToString() == digits.model.SerializeToString()


def test_inspect_shows_branches(digits: api.RewriteResult) -> None:
    shown = api.inspect(digits.model)["compensations"]
    assert [(e["output"], e["form"], e["rank"]) for e in shown] == [
        (e["output"], e["form"], e["rank"]) for e in applied(digits)
    ]
    assert api.inspect(DIGITS)["compensations"] == []


# ---- verification ---------------------------------------------------------------------------------------------------


def _record(model: onnx.ModelProto, change: Callable[[dict[str, Any]], object]) -> None:
    p = next(p for n in model.graph.node for p in n.metadata_props if p.key == RECORD)
    e = json.loads(p.value)
    change(e)
    p.value = json.dumps(e)


def _text(model: onnx.ModelProto, value: str) -> None:
    next(p for n in model.graph.node for p in n.metadata_props if p.key == RECORD).value = value


def _constant(model: onnx.ModelProto, end: str, factor: float) -> None:
    t = next(t for t in model.graph.initializer if "_nbc_" in t.name and t.name.endswith(end))
    t.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(t) * factor).astype(np.float32), t.name))


def _operator(model: onnx.ModelProto, old: str, new: str) -> None:
    next(n for n in model.graph.node if n.op_type == old and "_nbc_" in n.output[0]).op_type = new


def _bypass(model: onnx.ModelProto) -> None:
    """Leave the bounds of a regressor out."""
    n = next(n for n in model.graph.node if n.op_type == "Clip" and "_bounded" in n.output[0])
    for reader in model.graph.node:
        for k, t in enumerate(reader.input):
            if t == n.output[0]:
                reader.input[k] = n.input[0]


DAMAGE: dict[str, Callable[[onnx.ModelProto], object]] = {
    "one weight a little": lambda m: _constant(m, "weight0", 1.001),
    "weights": lambda m: _constant(m, "weight0", -1),
    "bias": lambda m: _constant(m, "_bias", 1.5),
    "upper bound": lambda m: _constant(m, "clipped_high", 1.2),
    "reach": lambda m: _constant(m, "bounded0_high", 2),
    "alpha in the record": lambda m: _record(m, lambda e: e.update(alpha=[a + 0.1 for a in e["alpha"]])),
    "bound in the record": lambda m: _record(m, lambda e: e.update(high=e["high"] * 1.01)),
    "beta in the record": lambda m: _record(m, lambda e: e.update(beta=e["beta"] * 1.01 + 0.01)),
    "no digest": lambda m: _record(m, lambda e: e.pop("digest")),
    "a name in the record": lambda m: _record(m, lambda e: e.update(before="nobody")),
    "a missing key": lambda m: _record(m, lambda e: e.pop("alpha")),
    "a wrong type": lambda m: _record(m, lambda e: e.update(alpha=None)),
    "an operator": lambda m: _operator(m, "Exp", "Sqrt"),
    "a sign": lambda m: _operator(m, "Sign", "Abs"),
    "a bound left out": _bypass,
    "no JSON": lambda m: _text(m, "{"),
}  # fmt: skip


@pytest.fixture(scope="module")
def nonlinear() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model, and the same with a branch of every kind of node."""
    model, block = image_net(Style(opset=17))
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    insert(graph, block, some_branch("dense", (0, 1), (8, 8), True), [block.output, str(block.input)], 4)
    graph.commit()
    return model, new


def test_verify_passes(nonlinear: Any, tmp_path: Path, run: Any) -> None:
    for m, name in zip(nonlinear, ("old.onnx", "new.onnx"), strict=True):
        onnx.save(m, tmp_path / name)
    assert run("verify", "old.onnx", "new.onnx")[0] == 0
    assert run("verify", "new.onnx", "new.onnx")[0] == 0


@pytest.mark.parametrize("how", DAMAGE)
def test_verify_sees_damage(how: str, nonlinear: Any, tmp_path: Path, run: Any) -> None:
    model, new = nonlinear[0], onnx.ModelProto()
    new.CopyFrom(nonlinear[1])
    DAMAGE[how](new)
    assert new.SerializeToString() != nonlinear[1].SerializeToString()
    onnx.save(model, tmp_path / "old.onnx")
    onnx.save(new, tmp_path / "new.onnx")
    code, out, err = run("verify", "old.onnx", "new.onnx")
    assert code == 2 and "Traceback" not in out + err
    assert run("inspect", "new.onnx")[0] in (0, 1)


def test_a_lost_branch_of_the_original(nonlinear: Any) -> None:
    report = api.verify(nonlinear[1], nonlinear[0])
    assert report["verification"]["verdict"] == "FAILED"


# ---- budget, determinism --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.0, 0.001, 0.01])
def test_budget_is_kept(budget: float) -> None:
    result = api.rewrite(DIGITS, calib=CALIB, limit=96, passes=[Compensate(budget=budget)], verify=False)
    c = result.report["cost"]
    assert c["macs_after"] <= c["macs_before"] * (1 + budget)
    assert sum(e["macs"] for e in applied(result)) <= c["macs_before"] * budget
    if not budget:
        assert {e["form"] for e in applied(result)} <= {"bias"} and "budget" in codes(result)


def test_forms_and_linear() -> None:
    result = api.rewrite(
        DIGITS, calib=CALIB, limit=96, passes=[Compensate(forms=("low rank",), linear=True)], verify=False
    )
    assert {e["form"] for e in applied(result)} <= {"bias", "low rank"} and applied(result)
    assert all(e["alpha"] == 0 and e["beta"] == 0 for e in applied(result))
    assert not {"Log", "Exp"} & {n.op_type for n in result.model.graph.node}


@pytest.mark.parametrize("last", [False, True], ids=["images", "tokens"])
def test_grouped_branches(last: bool) -> None:
    """Groups of 8 channels, behind a layer of 16, in images and in tokens: offered, verified, shown, and taken out."""
    n = Net(Style(bits=3), x=(12, 16) if last else (3, 8, 8))
    layer = n.matmul if last else n.conv
    h = layer(n.qdq("x", "mid", 0.4), 16)
    y = n.op("Add", layer(n.qdq(h, "mid", 0.4), 16), h, out="sum")
    model = n.model((layer(n.qdq(y, "mid", 0.4), 16), onnx.TensorProto.FLOAT))
    result = api.rewrite(model, calib=inputs(model, 128), passes=[Compensate(budget=1.0, forms=("grouped",))])
    assert ("grouped", 2) in {(e["form"], e["groups"]) for e in applied(result)}
    assert {e["form"] for e in applied(result)} <= {"grouped", "bias"}
    assert result.verification is not None and result.verification.verdict == "PASSED"
    before, after = held_out(model, result.model, inputs(model, 64, seed=1))
    assert after > before
    shown = api.inspect(result.model)["compensations"]
    assert [(e["form"], e["groups"]) for e in shown] == [(e["form"], e["groups"]) for e in applied(result)]
    feed = inputs(model, 2, seed=3)
    for a, b in zip(zoo.execute(strip(result.model), feed), zoo.execute(model, feed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_groups_in_matrices() -> None:
    result = api.rewrite(DIGITS, calib=CALIB, limit=96, passes=[Compensate(forms=("grouped",))], verify=False)
    heads = [e for e in applied(result) if e["kind"] == "head"]
    assert all(e["form"] == "bias" for e in heads)


# ---- refusals and odd models ----------------------------------------------------------------------------------------


def codes(result: api.RewriteResult) -> set[str]:
    return {e["reason"]["code"] for e in result.report["compensations"] if e["reason"] is not None}


def test_command_line(tmp_path: Path, run: Any) -> None:
    rewrite = "rewrite", DIGITS, "out.onnx", "--passes"
    code, _, err = run(*rewrite, "translate,compensate")
    assert code == 1 and "--calib" in err and not (tmp_path / "out.onnx").exists()
    code, out, err = run(*rewrite, "compensate", "--calib", CALIB, "--samples", 8)
    assert code == 0 and "fewer than 16" in out + err
    assert (tmp_path / "out.onnx").read_bytes() == DIGITS.read_bytes()
    code, out, err = run(*rewrite, "compensate", "--calib", CALIB, "--samples", 32, "--nbc-budget", 0, "--nbc-linear")
    assert code == 0, err
    assert run(*rewrite, "compensate", "--calib", CALIB, "--nbc-budget", "nan")[0] != 0
    assert run(*rewrite, "compensate,compensate", "--calib", CALIB)[0] == 1


def test_translated_before(run: Any) -> None:
    assert run("rewrite", DIGITS, "wide.onnx", "-q")[0] == 0
    code, out, err = run("rewrite", "wide.onnx", "out.onnx", "--passes", "compensate", "--calib", CALIB)
    assert code == 0 and "start from the original" in " ".join((out + err).split())


def test_order_of_passes() -> None:
    """Translation after compensation is refused: it would work on the branches, too."""
    both = api.rewrite(DIGITS, calib=CALIB, limit=48, passes=[Compensate(), Translate()])
    assert {e["reason"]["code"] for e in both.report["regions"]} == {"already_translated"}
    assert applied(both) and both.verification is not None and both.verification.verdict == "PASSED"


def test_after_translation() -> None:
    one = api.rewrite(DIGITS, calib=CALIB, limit=96, passes=[Translate(ratio=0.25)])
    both = api.rewrite(DIGITS, calib=CALIB, limit=96, passes=[Translate(ratio=0.25), Compensate()])
    assert both.verification is not None and both.verification.verdict == "PASSED"
    assert both.report["quality"]["sqnr_after_db"] > one.report["quality"]["sqnr_after_db"] + 1
    assert both.verification.translated == one.report["verification"]["oracle"]["translated_quantizers"] > 0


ODD = {
    "uint4": Style(dtype="uint4", opset=21),
    "int4": Style(dtype="int4", opset=21),
    "float16": Style(half=True, opset=19),
    "fixed batch": Style(bits=2, batch=2),
    "whole batch": Style(bits=2),
    "weight constants": Style(bits=2, weight_constant=True),
    "int4 weight constants": Style(bits=2, weight="int4", opset=21, weight_constant=True),
    "contrib opset 9": Style(domain="com.microsoft", opset=9, per_channel=False),
    "shuffled": Style(bits=2, shuffled=True),
    "listed": Style(bits=2, listed=True),
    "value info": Style(bits=2, inferred=True),
    "unnamed": Style(bits=2, named=False),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models(name: str) -> None:
    model = resnet(ODD[name]).model("gemm1")
    if name == "whole batch":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 48
        feeds: Any = [inputs_of(model, 48)]
    else:
        feeds = inputs_of(model, 64)
    result = api.rewrite(model, calib=feeds, passes=[Translate(ratio=0.2), Compensate(budget=1.0)])
    assert result.verification is None or result.verification.verdict == "PASSED"
    assert result.report["compensations"]
    if name == "float16":
        assert codes(result) >= {"not_float"} and not applied(result)
    elif name == "contrib opset 9":
        assert all(b.entry["strides"] in ([], [1, 1]) for b in read_branches(result.model))
    elif name == "whole batch":
        assert "few_samples" in codes(result) and not applied(result)
    else:
        assert applied(result), codes(result)


def test_more_channels_than_equations_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a language model has 50,000: their equations would take 50 GB."""
    model = resnet(Style(bits=2)).model("gemm1")
    monkeypatch.setattr("onnx_ocs.compensation.compensate.CHANNELS", 8)
    result = api.rewrite(model, calib=inputs(model, 64), passes=[Compensate(budget=1.0)])
    wide = {e["output"] for e in result.report["compensations"] if e["channels"] > 8}
    assert wide and wide.isdisjoint(e["output"] for e in applied(result)) and "many_channels" in codes(result)


def inputs_of(model: onnx.ModelProto, count: int) -> dict[str, np.ndarray]:
    initial = {t.name for t in model.graph.initializer}
    keep = onnx.ModelProto()
    keep.graph.input.extend(i for i in model.graph.input if i.name not in initial)
    return inputs(keep, count)


def test_dynamic_size_keeps_its_freedom() -> None:
    """A stride that fits the samples' size need not fit others: such a model still runs on all sizes."""
    model = resnet(Style(bits=2)).model("gemm1")
    for d, symbol in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        d.dim_param = symbol
    result = api.rewrite(model, calib={"x": np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)},
                         passes=[Compensate(budget=1.0)])  # fmt: skip
    assert applied(result)
    assert zoo.execute(result.model, {"x": np.zeros((1, 3, 13, 11), np.float32)})[0].shape == (1, 5)


def test_transformer() -> None:
    n = transformer(norm_fused, gelu_spelled)
    model = n.model(n.nodes[-1].output[0])
    result = api.rewrite(model, calib=inputs(model, 128), passes=[Compensate(budget=1.0)])
    assert result.verification is not None and result.verification.verdict == "PASSED"
    assert any(e["kind"] == "residual" for e in applied(result))
    before, after = held_out(model, result.model, inputs(model, 64, seed=2))
    assert after > before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite(value: float) -> None:
    """A division by zero in some samples' positions: these are left out of the fit."""
    n = Net(Style(bits=2), x=(4, 6, 6))
    x = n.qdq("x", "mid")
    h = n.op("Where", n.op("Greater", "x", n.const("edge", 2.5)), n.const("bad", value), n.conv(x, 4))
    y = n.conv(n.qdq(n.op("Add", n.conv(n.qdq(h, "mid", scale=0.5), 4), h, out="sum"), "mid", scale=0.5), 4)
    model = n.model((y, onnx.TensorProto.FLOAT))
    result = api.rewrite(model, calib=inputs(model, 64), passes=[Compensate(budget=1.0)], verify=False)
    for b in read_branches(result.model):
        assert np.isfinite([b.entry["low"], b.entry["high"], *b.entry["reach"], *b.entry["alpha"]]).all()
    for t in result.model.graph.initializer:
        assert "_nbc_" not in t.name or np.isfinite(numpy_helper.to_array(t).astype(float)).all()


@pytest.mark.parametrize("level", [0.0, 3.7])
def test_constant_activations(level: float) -> None:
    """The same values for every sample: nothing to divide by."""
    model = resnet(Style(bits=2)).model("gemm1")
    samples = {"x": np.full((32, 3, 8, 8), level, np.float32)}
    result = api.rewrite(model, calib=samples, passes=[Compensate(budget=1.0)])
    assert result.verification is None or result.verification.verdict == "PASSED"
    for t in result.model.graph.initializer:
        assert "_nbc_" not in t.name or np.isfinite(numpy_helper.to_array(t).astype(float)).all()


def test_a_block_that_would_lose_is_refused() -> None:
    """Few samples, many channels: least squares would fit them exactly, and do harm elsewhere."""
    n = Net(Style(bits=4), seed=3, x=(96,))
    y = n.gemm(n.qdq("x", "mid", 0.98), 96)
    n.gemm(n.qdq(y, "mid", 0.98), 96)
    model = n.model("gemm2")
    samples, others = inputs(model, 24, seed=4), inputs(model, 256, seed=5)
    result = api.rewrite(model, calib=samples, passes=[Compensate(budget=32.0)])
    before, after = held_out(model, result.model, others)
    assert after >= before - 0.01
    assert codes(result) and not [e for e in applied(result) if e["form"] == "dense"]


# ---- the corpus -----------------------------------------------------------------------------------------------------

STEMS = [
    "aimet_cnn_l17_w8a8i32bias", "brevitas_cnn_leg_w4a4", "brevitas_gemm_leg_w4a8pc", "modelopt_cnn_l17_int8",
    "modelopt_gemm_l17_int4rtn", "modelopt_mbv2_l17_dqonly", "modelopt_silu_l17_fp16", "nncf_cnn_l17_default",
    "nncf_mlp_d21_wcint4sym", "nncf_mlp_l20_sq", "nncf_mbv2_l17_pt", "ort_cnn_l17_dedicated", "ort_mlp_l20_nobias",
    "pt2e_cnn_d18_x86noopt", "pt2e_convnext_d18_x86",
]  # fmt: skip


@pytest.mark.parametrize("stem", STEMS)
def test_corpus(stem: str) -> None:
    old = onnx.load(DATA / f"{stem}.onnx")
    result = api.rewrite(old, calib=random_samples(old, 16, 0), passes=[Translate(), Compensate()])
    assert result.verification is None or result.verification.verdict == "PASSED"
    assert signature(old) == signature(result.model)
    assert result.report["compensations"]
    json.dumps(result.report)
