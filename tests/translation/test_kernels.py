"""Integer kernels: mode "integer" costs none, and a plan of mode "auto" none that it is not worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from covering import every_other

import onnx_ocs
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning import budget as spending
from onnx_ocs.planning.candidates import factors
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.targets.ort import INTEGER_KERNELS, integer_kernels, operators, optimized
from onnx_ocs.translation import kernels
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.kernels import behind_kernels, losing
from onnx_ocs.translation.together import agreed
from onnx_ocs.translation.widen import widened

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
DATA = ROOT / "tests" / "data"
FILES = sorted(p.stem for p in DATA.glob("**/*.onnx"))
LOSE = ["nncf_mbv2_l17_pt", "ort_hswish_l17_weightqdq", "ort_convnexttanh_l17_u8s8pt", "brevitas_mbv2_leg_w8a8i32bias"]


def read(name: str) -> onnx.ModelProto:
    return onnx.load(next(DATA.glob(f"**/{name}.onnx")))


def applied(result: onnx_ocs.RewriteResult) -> list[dict[str, Any]]:
    return [e for e in result.report["regions"] if e["status"] == "applied"]


@pytest.mark.parametrize("name", FILES)
def test_no_kernel_is_lost(name: str) -> None:
    model = read(name)
    kernels = integer_kernels(model)
    if not kernels:
        pytest.skip("runs without integer kernels")
    result = onnx_ocs.rewrite(model, passes=[Translate(0.5, 1, "integer")], verify=name in LOSE)
    assert integer_kernels(result.model) == kernels
    assert not any("integer kernels" in n or "on integers" in n for n in result.report["notes"])
    before, after = operators(model), operators(result.model)
    assert before is not None and after is not None and before.lost(after) == 0
    if name in LOSE and name != "ort_hswish_l17_weightqdq":  # whose products would all leave the integers
        assert applied(result) and result.report["verification"]["verdict"] == "PASSED"


@pytest.mark.parametrize("name", every_other(zoo.CASES))
def test_small_networks(name: str) -> None:
    model, _ = zoo.build(name)
    result = onnx_ocs.rewrite(model, passes=[Translate(0.5, 1, "integer")], verify=False)
    assert (integer_kernels(result.model) or 0) >= (integer_kernels(model) or 0)


@pytest.mark.parametrize("name", LOSE)
def test_the_report_says_when_kernels_are_lost(name: str) -> None:
    result = onnx_ocs.rewrite(read(name), passes=[Translate(0.5)], verify=False)
    cost = result.report["cost"]
    lost = cost["integer_kernels_before"] - cost["integer_kernels_after"]
    assert lost > 0
    assert any(n.startswith(f"{lost} of {cost['integer_kernels_before']} layers") for n in result.report["notes"])


def test_a_depthwise_kernel_behind_a_sum_of_copies_is_lost() -> None:
    model, _ = zoo.build("depthwise")
    result = onnx_ocs.rewrite(model, passes=[Translate(1.0, 1, "early")], verify=False)
    run = optimized(result.model)
    assert run is not None and sum(n.op_type in INTEGER_KERNELS for n in run.graph.node) == 1
    assert integer_kernels(model) == 2
    assert integer_kernels(result.model) == 1
    assert any(n.startswith("1 of 2 layers") for n in result.report["notes"])
    spared = onnx_ocs.rewrite(model, passes=[Translate(1.0, 1, "integer")], verify=False)
    assert integer_kernels(spared.model) == 2


def test_why_a_tensor_is_left() -> None:
    result = onnx_ocs.rewrite(read("nncf_mbv2_l17_pt"), passes=[Translate(0.5, 1, "integer")], verify=False)
    reasons = [e["reason"] for e in result.report["regions"] if e["status"] == "refused" and e["reason"]]
    assert any(r["code"] == "mode" and "integer kernel" in r["message"] for r in reasons)


@pytest.mark.parametrize("name", LOSE[:2])
def test_planned(name: str) -> None:
    model = read(name)
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(3)  # heavy tails, so that there is something to gain
    calib = {model.graph.input[0].name: rng.laplace(size=(16, *shape[1:])).astype(np.float32) * 3}
    options = onnx_ocs.PlanOptions(budget=0.5, copies=2, mode="integer")
    plan, _ = onnx_ocs.plan(model, calib, options)
    held = behind_kernels(graph := Graph(model), find_regions(graph, infer_shapes(model)))
    late = {r.tensor for r in plan.regions if r.mode == "late" and (r.copies.any() or r.copies_low.any())}
    assert held and plan.regions and not late & held
    result = onnx_ocs.rewrite(model, passes=[Translate(plan=plan)])
    assert integer_kernels(result.model) == integer_kernels(model)


def test_no_step_is_coarser_than_a_clip_needs() -> None:
    """One beyond its bounds only rounds more, and onnxruntime would have to compute the Clip."""
    graph = Graph(model := read("nncf_mbv2_l17_pt"))
    regions = find_regions(graph, infer_shapes(model))
    clipped = [r for r in regions if r.tensor in graph.producer and graph.producer[r.tensor].op_type == "Clip"]
    assert clipped
    for r in clipped:
        assert r.quantizer is not None
        found = factors(graph, r, 15)
        assert (
            found.min() < 0.1 and found.max() * float(r.quantizer.x_clip) <= max(6.0, float(r.quantizer.x_clip)) * 1.001
        )


def test_splitting_keeps_them_too() -> None:
    model = read("nncf_mbv2_l17_pt")
    result = onnx_ocs.rewrite(model, passes=[Split(0.5, "integer")], verify=False)
    assert integer_kernels(result.model) == integer_kernels(model)


def planned(**options: Any) -> tuple[onnx_ocs.Plan, dict[str, Any]]:
    """A plan for the example by some of its samples, and what was found on the way."""
    calib, floats = str(ROOT / "models" / "digits.calib.npz"), ROOT / "models" / "digits.fp32.onnx"
    return onnx_ocs.plan(DIGITS, calib, onnx_ocs.PlanOptions(**options), floats, limit=64)


def left(plan: onnx_ocs.Plan) -> int | None:
    return integer_kernels(onnx_ocs.rewrite(DIGITS, passes=[Translate(plan=plan)], verify=False).model)


def test_auto_weighs_kernels_against_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that costs kernels stands beside one that costs none, and needs a gain that is worth them."""
    before = integer_kernels(onnx.load(DIGITS))
    fast, found = planned(budget=0.1, effort="quick")
    whole = operators(onnx.load(DIGITS))
    assert whole is not None and whole.integer == found["kernels"]["of"]
    assert not found["kernels"]["kept"] and left(fast) < before
    layers = sum(n.op_type in ("Conv", "Gemm") for n in onnx.load(DIGITS).graph.node)
    worse = found["kernels"]["lost"] + found["kernels"]["transposes"]
    assert found["kernels"]["gain_db"] > spending.HALVED * worse / (layers + whole.integer - whole.layers) > 0
    monkeypatch.setattr(spending, "HALVED", 100.0)  # now no gain is worth an operator
    spared, found = planned(budget=0.1, effort="quick")
    assert found["kernels"]["kept"] and left(spared) == before
    integer, _ = planned(budget=0.1, mode="integer", effort="quick")
    assert spared.digest() == integer.digest()
    assert found["chosen"] == f"{integer.predicted['chosen']}, kernels kept"
    assert fast.predicted["objective_after"] < spared.predicted["objective_after"]


@pytest.mark.parametrize("options", [{"budget": None, "ratio": 0.5}, {"budget": 0.2, "mode": "late"}])
def test_what_is_asked_for_is_done(options: dict[str, Any]) -> None:
    """So many copies, or late ones, are wanted: that is no question of time."""
    _, found = planned(effort="quick", **options)
    assert "kernels" not in found


def test_the_report_says_that_kernels_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "HALVED", 100.0)
    calib = str(ROOT / "models" / "digits.calib.npz")
    options = onnx_ocs.PlanOptions(budget=0.1, effort="quick")
    floats = ROOT / "models" / "digits.fp32.onnx"
    given: Any = {"calib": calib, "float_model": floats, "options": options, "limit": 64}
    report = onnx_ocs.rewrite(DIGITS, passes=[Translate()], verify=False, **given).report
    assert any(n.startswith("copies were left out: they would cost 2 of 9") for n in report["notes"])
    assert report["cost"]["integer_kernels_after"] == report["cost"]["integer_kernels_before"]


@pytest.mark.parametrize("name", [*LOSE[:2], "ort_cnn_l17_dedicated", "ort_silu_d21_u8w4pc"])
def test_what_is_read_off_the_graph_is_what_trying_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every region late: where an integer operator writes the quantized tensor, nothing need be tried."""
    model = read(name)
    regions = [r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region) and not r.refusal]
    one = [np.ones(r.walk.channels, np.int64) for r in regions]
    late = [Decision(r, "late", n, 0 * n) for r, n in zip(regions, one, strict=True)]
    decisions = [d for d in agreed(Graph(model), late) if isinstance(d, Decision)]
    asked = []

    def counted(*a: Any) -> onnx.ModelProto:
        asked[-1] += 1
        return widened(*a)

    monkeypatch.setattr(kernels, "widened", counted)
    found = []
    for known in (True, False):
        if not known:
            monkeypatch.setattr(kernels, "integer_outputs", lambda _: set())
        asked.append(0)
        found.append({d.region.tensor for d in losing(model, decisions)})
    assert found[0] == found[1] != set()
    assert asked[0] < asked[1]
