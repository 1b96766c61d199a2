"""Every model of the zoo, rewritten in every mode, computes what the wide quantizer does, by a second opinion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
from checks import LEVELS, applied, check_outputs, check_structure
from covering import in_turn
from onnx import numpy_helper
from random_plans import random_plan
from reference import initializer, is_repetition, layer_weights

from onnx_ocs.api import rewrite
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import DEFAULT
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region

MODES = ("auto", "late", "early")
COPIES = ((0.5, 1), (1, 2))
MIXED = [(m, *k) for k, m in zip(COPIES * 3, MODES * 2, strict=True)]  # neighbours differ in mode and copies
MATRIX = in_turn([c.name for c in zoo.TOPOLOGIES], MIXED)
MATRIX += in_turn([c.name for c in (*zoo.VARIANTS, *zoo.DIALECTS)], MIXED[:2])


def expected_modes(case: zoo.Case, mode: str) -> dict[str, str]:
    """The tensors that are translated, and how."""
    if mode == "auto":
        return case.wide
    if mode == "late":
        return {t: m if m == "carried" else "late" for t, m in case.wide.items()}
    return {t: m for t, m in case.wide.items() if m != "late"}


def check_weights(model: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Every widened weight holds bit-identical copies of the old one's rows and columns; depthwise layers stay."""
    old, now = layer_weights(model), layer_weights(new)
    assert old.keys() == now.keys()
    widened = 0
    for name, (layer, weight) in now.items():
        node, original = old[name]
        widened += weight.shape != original.shape
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups == 1 or weight.shape[0] != original.shape[0] or node.op_type == "ConvTranspose":
            assert is_repetition(weight, original), name
        else:  # every group repeats its own columns
            for a, b in zip(np.split(weight, groups), np.split(original, groups), strict=True):
                assert is_repetition(a, b), name
        assert layer.op_type == node.op_type
    assert widened or any(depthwise(node, weight) for node, weight in old.values())


def depthwise(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Copies are added up in front of it."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "Conv" and groups > 1 and weight.shape[1] == 1


@pytest.mark.parametrize(("name", "mode", "ratio", "copies"), MATRIX)
def test_rewrite(name: str, mode: str, ratio: float, copies: int) -> None:
    case = zoo.CASES[name]
    model, feed = zoo.build(name)
    before = model.SerializeToString(deterministic=True)
    passes = [Translate(ratio, copies, mode)]  # type: ignore[arg-type]
    result = rewrite(model, passes=passes)
    assert model.SerializeToString(deterministic=True) == before, "the input model was changed"
    assert applied(result) == expected_modes(case, mode)
    if not expected_modes(case, mode):
        assert not result.changed and result.model is model
        return
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    for e in result.report["regions"]:
        if e["status"] == "applied":
            mean = (sum(e["copies"]) + sum(e["copies_low"])) / len(e["copies"])
            whole = len(e["copies"]) == 1  # of one channel: whole copies
            assert 0 < mean <= (np.ceil(ratio) if whole else ratio) and max(e["copies"] + e["copies_low"]) <= copies
    check_outputs(case, model, result, feed, LEVELS, 0.01)
    check_structure(model, result.model, "translate 1")
    check_weights(model, result.model)
    again = rewrite(result.model, passes=passes, verify=False)
    assert not again.changed and again.model is result.model


@pytest.mark.parametrize("name", ["conv_relu_conv", "conv_transpose", "gemm", "matmul_gelu", "output_float"])
def test_measured_outliers_widen_the_graph_input_too(name: str, tmp_path: Path) -> None:
    case = zoo.CASES[name]
    model, feed = zoo.build(name)
    np.savez(tmp_path / "calib.npz", **feed)
    result = rewrite(model, calib=str(tmp_path / "calib.npz"), passes=[p() for p in DEFAULT])
    assert applied(result) == {"x": "late", **case.wide}
    check_outputs(case, model, result, feed, ("disable_all",), 0.01)
    check_structure(model, result.model, "regrid 1", "translate 1", "reconstruct 1")
    quality = result.report["quality"]
    assert quality["sqnr_after_db"] > quality["sqnr_before_db"] + 0.5


@pytest.mark.parametrize(("name", "seed"), in_turn(zoo.CASES, [(0,), (4,)]))
def test_any_plan_is_applied_exactly(name: str, seed: int) -> None:
    """Steps and copies that no planner would choose, in all mixtures."""
    model, feed = zoo.build(name)
    plan = random_plan(model, seed, folds=True)
    result = rewrite(model, passes=[Translate(plan=plan)])
    assert result.changed == bool(plan.regions)
    entries = [e for e in result.report["regions"] if e["status"] == "applied"]
    regions = {r.key: r for r in find_regions(Graph(model), infer_shapes(model))}
    for p in plan.regions:
        up, low = regions[p.key].alive(p.scale)  # none beyond a bound
        copies, copies_low = np.minimum(p.copies, up), np.minimum(p.copies_low, low)
        wanted = (p.tensor, copies.tolist(), copies_low.tolist(), p.scale.tolist())
        assert any((e["tensor"], e["copies"], e["copies_low"], e["scale"]) == wanted for e in entries), p.tensor
    if result.changed:
        check_outputs(zoo.CASES[name], model, result, feed, LEVELS, 0.0)
        check_structure(model, result.model, "translate 1")


@pytest.mark.parametrize("copies", [0, 1])
@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("requantized", "maxpool1"), ("resize_requantized", "resize1"), ("requantized_twice", "relu1_dq"),
        ("multiplied", "mul1"), ("divided", "div1"), ("multiplied_int32", "mul1"),
    ],
)  # fmt: skip
def test_a_quantizer_that_carries_copies_follows_the_step(name: str, carried: str, copies: int) -> None:
    model, feed = zoo.build(name)
    region = next(r for r in find_regions(Graph(model), infer_shapes(model)) if r.tensor == "relu1")
    assert isinstance(region, Region)
    scale = (0.6 * region.quantizer.scale).astype(np.float32).astype(np.float64)
    n = np.full(8, copies)
    plan = Plan("", (PlannedRegion("relu1", region.outputs, scale, n, 0 * n, "early"),))
    result = rewrite(model, passes=[Translate(plan=plan)])
    found = {e["tensor"]: (e["status"], e["scale"], e["copies"]) for e in result.report["regions"]}
    assert found["relu1"] == ("applied", scale.tolist(), n.tolist())
    factor = {"multiplied": 0.3, "multiplied_int32": 0.3, "divided": 1 / 3}.get(name, 1.0)
    assert found[carried] == ("applied", pytest.approx((scale * factor).tolist(), rel=1e-6), n.tolist())
    check_outputs(zoo.CASES[name], model, result, feed, LEVELS, 0.01)


def test_ratio_zero_leaves_everything() -> None:
    model, _ = zoo.build("conv_relu_conv")
    result = rewrite(model, passes=[Translate(ratio=0.0)])
    assert result.model is model and not result.changed
    assert {e["reason"]["code"] for e in result.report["regions"]} == {"ratio", "no_outliers"}


def test_same_seed_gives_the_same_file() -> None:
    model, _ = zoo.build("residual")
    first, second = (rewrite(model, verify=False).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_per_channel_parameters_are_extended_with_their_channels() -> None:
    model, _ = zoo.build("depthwise_per_channel")
    result = rewrite(model, passes=[Translate(1, 1, "auto")], verify=False)
    q = next(n for n in result.model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "relu1")
    old = initializer(model, "relu1_scale")
    new = initializer(result.model, q.input[1])
    assert new.dtype == old.dtype and new.tolist() == np.tile(old, 2).tolist()


def test_copies_are_the_channels_with_most_mass() -> None:
    """The estimate ranks by the Gaussian's mass; channels of a wider spread come first."""
    model, _ = zoo.build("conv_relu_conv")
    entry = next(
        e
        for e in rewrite(model, passes=[Translate(0.25, 1, "auto")], verify=False).report["regions"]
        if e["status"] == "applied"
    )
    w = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "conv1_w")).astype(float)
    spread = np.abs(w * initializer(model, "conv1_w_scale")[:, None, None, None]).sum((1, 2, 3))
    assert sum(entry["copies"]) == 2
    assert spread[np.asarray(entry["copies"]) > 0].min() >= np.median(spread)
