"""The planner: within the budget by the real cost, never worse, as asked for; plans as files; the user's mistakes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from zoo import Net, Style

from onnx_ocs import api
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning import make as planning
from onnx_ocs.planning import search as trials
from onnx_ocs.planning.allocate import Recipe
from onnx_ocs.planning.choices import Budget
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.runtime import session as runtime

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
FLOAT8 = ROOT / "tests" / "data" / "ort_cnn_l17_f8.onnx"
FEW = ("--samples", 48, "--copies", 2)  # enough to plan by, and quick

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    """Small models run six times faster without onnxruntime's thread pools."""
    make = runtime._options

    def options(*args: Any) -> Any:
        o = make(*args)
        o.intra_op_num_threads = 1
        return o

    runtime._options = options
    yield
    runtime._options = make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")


@cache
def fed(name: str) -> tuple[Model, dict[str, Array]]:
    """A model of the zoo, and twelve samples for it."""
    model, feed = zoo.build(name)
    if name == "fixed_batch":
        return model, feed
    rng = np.random.default_rng(7)
    return model, {k: rng.standard_normal((12, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}


def saved(folder: Path, name: str) -> str:
    path = folder / f"{name}.npz"
    if not path.exists():
        np.savez(path, **fed(name)[1])
    return str(path)


def source(name: str, folder: Path) -> tuple[Model, str, int | None]:
    return (onnx.load(DIGITS), str(CALIB), 48) if name == "digits" else (fed(name)[0], saved(folder, name), None)


def files(tmp_path: Path, name: str) -> tuple[str, ...]:
    """A model of the zoo and its samples in files of this folder; arguments of the command line."""
    model, feed = fed(name)
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **feed)
    return "in.onnx", "--calib", "c.npz"


Planned = tuple[Plan, dict[str, Any]]
KNOWN: dict[Any, Planned] = {}


def plan(name: str, folder: Path, **options: Any) -> Planned:
    """A plan; the same one is made once only."""
    key = name, tuple(options.items())
    if key not in KNOWN:
        model, calib, limit = source(name, folder)
        KNOWN[key] = api.plan(model, calib, PlanOptions(**{"copies": 2, **options}), limit=limit)
    return KNOWN[key]


def carried_out(name: str, folder: Path, made: Plan, verify: bool = False) -> api.RewriteResult:
    model, calib, limit = source(name, folder)
    return api.rewrite(model, calib=calib, passes=[Translate(plan=made)], verify=verify, limit=limit)


def extra_macs(report: dict[str, Any]) -> float:
    return float(report["cost"]["macs_after"] / report["cost"]["macs_before"] - 1)


def mean_copies(made: Plan, channels: int) -> float:
    return float(sum(r.copies.sum() + r.copies_low.sum() for r in made.regions)) / channels


def not_worse(report: dict[str, Any]) -> bool:
    q = report["quality"]
    before, after = (np.inf if v is None else v for v in (q["sqnr_before_db"], q["sqnr_after_db"]))
    better = q["agreement_before"] is not None and q["agreement_after"] > q["agreement_before"]
    return bool(after >= before - 0.01 or better)


# ---- budgets --------------------------------------------------------------------------------------------------------

NETS = [
    "residual", "three_layers", "depthwise", "grouped", "conv_transpose", "matmul_gelu", "flatten_gemm",
    "concat_wide", "concat_narrow", "concat_requantized", "concat_depthwise", "concat_grouped", "concat_twice",
    "requantized", "depthwise_chain", "depthwise_flatten", "depthwise_pool", "groups_mixed",
    "output_integer", "attention", "bias_int8", "bias_int32_residual", "float16",
    "opset10", "fixed_batch",
]  # fmt: skip


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.3])
def test_budget_on_digits(folder: Path, budget: float) -> None:
    made, found = plan("digits", folder, budget=budget)
    result = carried_out("digits", folder, made)
    spent = extra_macs(result.report)
    assert spent <= budget + 1e-9
    assert spent == pytest.approx(made.predicted["extra_macs"], abs=1e-6)
    assert spent >= 0.5 * budget, "money was left"
    assert made.model == fingerprint(onnx.load(DIGITS))
    assert not_worse(result.report)
    assert made.predicted["objective_after"] < made.predicted["objective_before"]
    assert found["before"][0] == made.predicted["objective_before"]


@pytest.mark.parametrize("name", NETS)
def test_budget_on_small_networks(folder: Path, name: str) -> None:
    """Whatever stands between a tensor and its readers, the prediction is what the rewritten model costs."""
    made, _ = plan(name, folder, budget=0.4)
    result = carried_out(name, folder, made)
    assert result.changed
    assert extra_macs(result.report) <= 0.4 + 1e-9
    assert extra_macs(result.report) == pytest.approx(made.predicted["extra_macs"], abs=2e-3)
    assert not_worse(result.report)
    gain = result.report["quality"]["sqnr_after_db"] - result.report["quality"]["sqnr_before_db"]
    assert gain > 1, "all of these clip a fifth of their values"


@pytest.mark.parametrize(
    ("name", "ratio"), [("digits", 0.5), ("residual", 0.05), ("residual", 0.5), ("concat_wide", 0.5)]
)
def test_ratio(folder: Path, name: str, ratio: float) -> None:
    made, _ = plan(name, folder, budget=None, ratio=ratio)
    result = carried_out(name, folder, made)
    channels = sum(e["channels"] or 0 for e in result.report["regions"] if e["consumers"])
    assert mean_copies(made, channels) <= ratio + 1e-9
    assert made.predicted["mean_copies"] <= ratio + 1e-9
    assert not_worse(result.report)
    if ratio == 0.5:
        assert mean_copies(made, channels) > 0.1


@pytest.mark.parametrize("name", ["digits", "residual", "depthwise"])
def test_budget_is_kept_and_pays(folder: Path, name: str) -> None:
    values = []
    for budget in (0.0, 0.02, 0.1, 0.3):
        made, _ = plan(name, folder, budget=budget)
        assert made.predicted["extra_macs"] <= budget + 1e-9
        values.append(made.predicted["objective_after"])
        assert values[-1] <= made.predicted["objective_before"] * (1 + 1e-9)
    assert min(values[1:]) < values[0]


def test_no_budget_at_all(folder: Path) -> None:
    """Other steps cost nothing; without them there is nothing to do."""
    made, _ = plan("residual", folder, budget=0.0)
    assert not any(r.copies.any() or r.copies_low.any() for r in made.regions)
    assert extra_macs(carried_out("residual", folder, made).report) == 0
    made, _ = plan("residual", folder, budget=0.0, rescale=False)
    assert made.regions == ()
    result = carried_out("residual", folder, made)
    assert not result.changed and result.model is not None


@pytest.mark.parametrize("name", ["qcdq2_residual", "matmul_gelu"])
def test_most_copies(folder: Path, name: str) -> None:
    for copies in (1, 2):
        made, _ = plan(name, folder, budget=2.0, copies=copies)
        assert max(max(r.copies.max(), r.copies_low.max()) for r in made.regions) <= copies


# ---- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "residual", "three_layers"])
def test_no_rescale_keeps_all_steps(folder: Path, name: str) -> None:
    made, _ = plan(name, folder, budget=0.2, rescale=False)
    result = carried_out(name, folder, made)
    assert made.regions and result.changed
    assert all(e["scale"] == e["scale_before"] for e in result.report["regions"])
    scales = {e["tensor"]: e["scale_before"] for e in result.report["regions"]}
    assert all(r.scale.tolist() == scales[r.tensor] for r in made.regions)
    assert not_worse(result.report)


def test_rescale_is_used_and_is_better(folder: Path) -> None:
    kept, _ = plan("residual", folder, budget=0.2, rescale=False)
    free, _ = plan("residual", folder, budget=0.2)
    assert free.predicted["objective_after"] < kept.predicted["objective_after"]
    result = carried_out("residual", folder, free, verify=True)
    assert any(e["scale"] != e["scale_before"] for e in result.report["regions"])
    assert result.verification is not None and result.verification.verdict == "PASSED"


@pytest.mark.parametrize(("macs", "effort"), [(planning.JUDGING_MACS, "full"), (1e6, "quick")])
def test_effort_follows_the_samples_that_plans_are_judged_on(
    folder: Path, macs: float, effort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "JUDGING_MACS", macs)
    budget = {"full": 0.11, "quick": 0.12}[effort]  # of this test alone: plans are remembered
    made, found = plan("digits", folder, budget=budget)
    asked, same = plan("digits", folder, budget=budget, effort=effort)
    assert found["effort"] == same["effort"] == effort
    assert made.digest() == asked.digest()
    assert ("weighed in place" in found["candidates"]) == (effort == "full")
    other = {"full": "quick", "quick": "full"}[effort]
    assert plan("digits", folder, budget=budget, effort=other)[1]["effort"] == other, "what is asked for is done"


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_quick_keeps_the_best_of_the_compared(folder: Path, name: str) -> None:
    """Little effort: a plan of those that are compared, not worked on, and never worse than no plan."""
    full, thorough = plan(name, folder, budget=0.2)
    made, found = plan(name, folder, budget=0.2, effort="quick")
    assert "weighed in place" in thorough["candidates"] and "weighed in place" not in found["candidates"]
    assert found["rolled_back"] == []
    values = {k: v["objective"] for k, v in found["candidates"].items()}
    assert {k: v["objective"] for k, v in thorough["candidates"].items() if k in values} == values
    assert found["chosen"] == min(values, key=lambda k: values[k])
    assert made.regions and full.regions
    assert not_worse(carried_out(name, folder, made).report)


@pytest.mark.parametrize("name", ["residual", "three_layers", "bias_int8", "depthwise"])
@pytest.mark.parametrize("mode", ["early", "late"])
def test_mode(folder: Path, name: str, mode: str) -> None:
    made, _ = plan(name, folder, budget=0.3, mode=mode)
    result = carried_out(name, folder, made)
    used = {e["mode"] for e in result.report["regions"] if e["status"] == "applied" and any(e["copies"])}
    assert used <= {mode, "carried"}
    assert {r.mode for r in made.regions} <= {"early only" if mode == "early" else mode}
    if name in ("residual", "three_layers"):
        assert mode in used


def test_include_and_exclude(run: Any, tmp_path: Path) -> None:
    globs = ["--include", "/block[13]/*", "--include", "*block4*", "--exclude", "*inner*", "--exclude", "*/relu1/*"]
    code, _, err = run("plan", DIGITS, "-o", "p.json", "--calib", CALIB, *FEW, "--budget", 0.3, *globs)
    assert (code, err) == (0, "")
    made = Plan.read(tmp_path / "p.json")
    tensors = {r.tensor for r in made.regions}
    assert "/block1/inner/Relu_output_0" in made.excluded and not tensors & set(made.excluded)
    allowed = {"/block1/outer/Relu_output_0", "/block3/outer/Relu_output_0", "/block4/relu2/Relu_output_0"}
    assert tensors and tensors <= allowed | {"/block4/outer/Relu_output_0"}
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--calib", CALIB, *FEW, "--include", "nothing*", "--exclude", "a")
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == DIGITS.read_bytes()


@pytest.mark.parametrize("objective", ["sqnr", "kl", "auto"])
def test_objective(folder: Path, objective: str) -> None:
    made, found = plan("flatten_gemm", folder, budget=0.3, objective=objective)
    assert found["objective"] == made.predicted["objective"] == {"auto": "kl and sqnr"}.get(objective, objective)
    assert made.predicted["objective_after"] < made.predicted["objective_before"]


def test_objective_for_images(run: Any, tmp_path: Path) -> None:
    model, feed = fed("residual")
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **feed)
    code, out, err = run("plan", "in.onnx", "-o", "p.json", "--calib", "c.npz", "--objective", "kl")
    assert (code, out) == (1, "") and err.startswith("Error: ") and "sqnr" in err and len(err.splitlines()) == 1


def test_float_reference(folder: Path) -> None:
    """Against the float model that is given, not against the stand-in."""
    model, calib, _ = source("residual", folder)
    other = Model()
    other.CopyFrom(zoo.build("residual")[0])
    plain, found = plan("residual", folder, budget=0.1)
    _, measured = api.plan(model, calib, PlanOptions(budget=0.1, copies=2), float_model=other)
    assert measured["before"][0] < 1e-9 < found["before"][0], "the model itself as its reference: no error at all"
    assert plain.regions
    nothing, _ = api.plan(model, calib, PlanOptions(budget=0.1, copies=2), float_model=other)
    assert nothing.regions == (), "nothing can be better than no error"


# ---- never worse ----------------------------------------------------------------------------------------------------


def random_model(share: float, **style: Any) -> tuple[Model, dict[str, Array]]:
    """Quantizers that express this share of the values: with 1.0 nothing is clipped."""
    n = Net(Style(**style), x=(4, 6, 6))
    x = n.qdq("x", "mid", share)
    y = n.conv(n.qdq(n.op("Relu", n.conv(x)), share=share))
    return n.model(y), n.feed


@pytest.mark.parametrize("style", [{}, {"dtype": "int8"}, {"bits": 2}, {"bias": "int32"}])
def test_where_nothing_helps_the_input_comes_back(run: Any, tmp_path: Path, style: dict[str, Any]) -> None:
    model, feed = random_model(1.0, **style)
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **feed)
    code, out, err = run("rewrite", "in.onnx", "o.onnx", "--calib", "c.npz", "--no-rescale", "--budget", 2)
    assert (code, err) == (0, "")
    assert "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_never_worse(folder: Path, seed: int) -> None:
    """Random networks, random quantizers; what the report measures is measured on all samples."""
    rng = np.random.default_rng(seed)
    names = rng.choice([c.name for c in zoo.TOPOLOGIES if c.name != "output_integer"], 3, replace=False)
    for name in names:
        model, calib, _ = source(str(name), folder)
        options = PlanOptions(
            budget=float(rng.choice([0.0, 0.05, 1.0])), copies=int(rng.integers(1, 4)), rescale=bool(rng.integers(2))
        )
        result = api.rewrite(model, calib=calib, options=options)
        assert result.changed or result.model is model
        assert not_worse(result.report), name
        assert extra_macs(result.report) <= (options.budget or 0) + 1e-9, name
        assert result.verification is None or result.verification.verdict == "PASSED"


def test_report_of_a_planned_rewrite(run: Any, tmp_path: Path) -> None:
    args = ["rewrite", DIGITS, "o.onnx", "--calib", CALIB, *FEW, "--budget", 0.15, "--report", "r.json"]
    code, out, err = run(*args)
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")
    report = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert extra_macs(report) <= 0.15 and not_worse(report)
    assert report["quality"]["sqnr_after_db"] > report["quality"]["sqnr_before_db"] + 0.3
    assert report["plan"]["objective"] == "kl and sqnr"
    assert all(c["extra_macs"] <= 0.15 + 1e-9 for c in report["plan"]["candidates"].values())
    states = {e["status"] for e in report["regions"]}
    assert states <= {"applied", "refused"} and "applied" in states
    for e in report["regions"]:
        assert (e["reason"] is None) == (e["status"] == "applied")
    code, out, err = run("verify", DIGITS, "o.onnx", "-q")
    assert (code, err) == (0, "") and out.startswith("PASSED")


# ---- determinism ----------------------------------------------------------------------------------------------------


def test_the_same_plan_twice(folder: Path) -> None:
    for name, options in (("residual", {"budget": 0.1}), ("attention", {"budget": 0.4})):
        first, _ = plan(name, folder, **options)
        model, calib, limit = source(name, folder)
        second, _ = api.plan(model, calib, PlanOptions(copies=2, **options), limit=limit)
        assert first.to_json() == second.to_json(), name


def test_the_same_plan_on_a_slow_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long something takes decides nothing."""
    model, calib, limit = source("attention", folder)
    options = PlanOptions(copies=1, budget=0.1)
    plans = []
    for slow in (0.0, 1.0, 30.0):
        ticks = count()
        if slow:
            for clock in ("perf_counter", "monotonic", "time", "process_time"):
                monkeypatch.setattr(time, clock, lambda t=ticks, s=slow: next(t) * s)
        plans.append(api.plan(model, calib, options, limit=limit)[0].to_json())
        monkeypatch.undo()
    assert plans[0] == plans[1] == plans[2]


# ---- plans as files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan_text(folder: Path) -> str:
    return plan("digits", folder, budget=0.1)[0].to_json()


def test_plan_file(run: Any, tmp_path: Path, plan_text: str) -> None:
    """Written, read back, and applied: the same bytes each time, and the same model as from Python."""
    code, out, err = run("plan", DIGITS, "-o", "p.json", "--calib", CALIB, *FEW, "--budget", 0.1)
    assert (code, err) == (0, "") and out
    assert (tmp_path / "p.json").read_text() == plan_text
    read = Plan.read(tmp_path / "p.json")
    assert read.to_json() == plan_text
    json.loads(plan_text, parse_constant=pytest.fail)
    for name in ("a", "b"):
        code, out, err = run("rewrite", DIGITS, f"{name}.onnx", "--plan", "p.json", "--report", f"{name}.json")
        assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() != DIGITS.read_bytes()
    result = api.rewrite(onnx.load(DIGITS), passes=[Translate(plan=read)], verify=False)
    assert result.model == onnx.load(tmp_path / "a.onnx")
    report = json.loads((tmp_path / "a.json").read_text())
    assert extra_macs(report) <= 0.1
    applied = {e["tensor"]: e for e in report["regions"] if e["status"] == "applied"}
    for r in read.regions:
        e = applied[r.tensor]
        assert (e["copies"], e["copies_low"], e["scale"]) == (
            r.copies.tolist(),
            r.copies_low.tolist(),
            r.scale.tolist(),
        )
    # once more on its own result: nothing to do
    code, out, err = run("rewrite", "a.onnx", "c.onnx", "--plan", "p.json")
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_rewrite_is_plan_and_apply(run: Any, tmp_path: Path) -> None:
    """`rewrite --budget` gives what `plan` and `rewrite --plan` give (the dry run is the same code path)."""
    args = [*files(tmp_path, "residual"), "--copies", 2, "--budget", 0.3]
    assert run("plan", "-o", "p.json", *args)[0] == 0
    assert run("rewrite", "in.onnx", "a.onnx", "--plan", "p.json", "-q")[0] == 0
    assert run("rewrite", args[0], "b.onnx", *args[1:], "-q")[0] == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "in.onnx").read_bytes()


def test_plan_written_by_hand(run: Any, tmp_path: Path, plan_text: str) -> None:
    """Without the hash of a model it is taken as it is."""
    data = json.loads(plan_text)
    del data["model"], data["predicted"]
    (tmp_path / "p.json").write_text(json.dumps(data))
    (tmp_path / "q.json").write_text(plan_text)
    for name in "pq":
        assert run("rewrite", DIGITS, f"{name}.onnx", "--plan", f"{name}.json", "-q")[0] == 0
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


def test_empty_plan(run: Any, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(Plan(fingerprint(onnx.load(DIGITS)), ()).to_json())
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--plan", "p.json")
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == DIGITS.read_bytes()


def region(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """A change of the plan's first region."""
    return lambda data: change(data["regions"][0])


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema": lambda d: d.update(schema="onnx_ocs.plan/2"),
    "no schema": lambda d: d.pop("schema"),
    "another model": lambda d: d.update(model="0" * 64),
    "no regions": lambda d: d.pop("regions"),
    "regions null": lambda d: d.update(regions=None),
    "regions a word": lambda d: d.update(regions="all"),
    "predicted a number": lambda d: d.update(predicted=5),
    "tensor": region(lambda r: r.update(tensor="nobody")),
    "tensor missing": region(lambda r: r.pop("tensor")),
    "quantizers": region(lambda r: r.update(quantizers=["nobody"])),
    "quantizers a number": region(lambda r: r.update(quantizers=5)),
    "channel missing": region(lambda r: r["copies"].pop()),
    "channel too many": region(lambda r: r["copies_low"].append(0)),
    "copies a number": region(lambda r: r.update(copies=1)),
    "copies words": region(lambda r: r.update(copies=["many"] * 16)),
    "copies null": region(lambda r: r.update(copies=None)),
    "copies fractions": region(lambda r: r.update(copies=[0.5] * len(r["copies"]))),
    "copies negative": region(lambda r: r["copies"].__setitem__(0, -1)),
    "copies_low negative": region(lambda r: r["copies_low"].__setitem__(0, -2)),
    "copies many": region(lambda r: r["copies"].__setitem__(0, 10**9)),
    "copies huge": region(lambda r: r["copies"].__setitem__(0, 10**30)),
    "mode": region(lambda r: r.update(mode="eager")),
    "mode missing": region(lambda r: r.pop("mode")),
    "scale zero": region(lambda r: r.update(scale=0.0)),
    "scale negative": region(lambda r: r.update(scale=-0.5)),
    "scale NaN": region(lambda r: r.update(scale=float("nan"))),
    "scale infinite": region(lambda r: r.update(scale=float("inf"))),
    "scale vanishes": region(lambda r: r.update(scale=1e-60)),
    "scale overflows": region(lambda r: r.update(scale=1e60)),
    "scale a list": region(lambda r: r.update(scale=[0.5, 0.5])),
    "scale a word": region(lambda r: r.update(scale="fine")),
    "region a word": lambda d: d["regions"].insert(0, "first"),
}


def complains(run: Any, *args: object) -> str:
    """Exit code 1, one line, no output."""
    code, out, err = run(*args)
    assert (code, out) == (1, ""), (out, err)
    assert err.startswith("Error: ") and len(err.splitlines()) == 1 and "Traceback" not in err
    return str(err)


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_plan(run: Any, tmp_path: Path, plan_text: str, name: str) -> None:
    data = json.loads(plan_text)
    DAMAGES[name](data)
    (tmp_path / "p.json").write_text(json.dumps(data))
    complains(run, "rewrite", DIGITS, "o.onnx", "--plan", "p.json")
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"no plan", b"[1, 2]", b'"plan"', b"null", b"{}", b"\xff\xfe\x00", b"{"])
def test_file_that_is_no_plan(run: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.json").write_bytes(content)
    assert "p.json" in complains(run, "rewrite", DIGITS, "o.onnx", "--plan", "p.json")
    assert not (tmp_path / "o.onnx").exists()


def test_plan_of_another_model(run: Any, tmp_path: Path, plan_text: str) -> None:
    """Another network; and the same one with other weights, which the plan was not made for."""
    (tmp_path / "p.json").write_text(plan_text)
    onnx.save(fed("residual")[0], tmp_path / "other.onnx")
    complains(run, "rewrite", "other.onnx", "o.onnx", "--plan", "p.json")
    model = onnx.load(DIGITS)
    weight = next(t for t in model.graph.initializer if "weight" in t.name and len(t.dims) == 4)
    weight.raw_data = weight.raw_data[::-1]
    onnx.save(model, tmp_path / "retrained.onnx")
    complains(run, "rewrite", "retrained.onnx", "o.onnx", "--plan", "p.json")
    assert not (tmp_path / "o.onnx").exists()


# ---- the user's mistakes --------------------------------------------------------------------------------------------

MASS = ["rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--select", "mass"]
BAD: dict[str, tuple[list[object], str]] = {
    "budget without calib": (["rewrite", DIGITS, "o.onnx", "--budget", 0.1], "--calib"),
    "budget zero without calib": (["rewrite", DIGITS, "o.onnx", "--budget", 0], "--calib"),
    "stats without calib": (["rewrite", DIGITS, "o.onnx", "--stats", "s.npz"], "--calib"),
    "rescale without calib": (["rewrite", DIGITS, "o.onnx", "--rescale"], "--calib"),
    "select error without calib": (["rewrite", DIGITS, "o.onnx", "--select", "error"], "--calib"),
    "include without calib": (["rewrite", DIGITS, "o.onnx", "--include", "a*"], "--calib"),
    "ratio and budget": (["rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--ratio", 1, "--budget", 0.1], "--budget"),
    "rescale, mass": ([*MASS, "--rescale"], "--rescale"),
    "budget, mass": ([*MASS, "--budget", 1], "--budget"),
    "exclude, mass": (
        ["rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--select", "mass", "--exclude", "a"],
        "--exclude",
    ),
    "budget negative": (["rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--budget", -0.1], "budget"),
    "budget NaN": (["rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--budget", "nan"], "budget"),
    "budget no number": (["rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--budget", "some"], "budget"),
    "copies zero": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--copies", 0], "copies"),
    "copies too many": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--copies", 1000], "copies"),
    "select": (["rewrite", DIGITS, "o.onnx", "--select", "best"], "select"),
    "objective": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--objective", "accuracy"], "objective"),
    "plan missing": (["rewrite", DIGITS, "o.onnx", "--plan", "nothing.json"], "nothing.json"),
    "plan and budget": (["rewrite", DIGITS, "o.onnx", "--plan", "p.json", "--budget", 0.1], "--plan"),
    "plan and include": (["rewrite", DIGITS, "o.onnx", "--plan", "p.json", "--include", "a*"], "--plan"),
    "plan a folder": (["rewrite", DIGITS, "o.onnx", "--plan", "."], ""),
    "plan without calib": (["plan", DIGITS, "-o", "p.json"], "--calib"),
    "plan without output": (["plan", DIGITS, "--calib", CALIB], "output"),
    "plan: ratio and budget": (
        ["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--ratio", 1, "--budget", 1],
        "--budget",
    ),
    "plan over the model": (["plan", DIGITS, "-o", DIGITS, "--calib", CALIB], ""),
    "plan over the samples": (["plan", DIGITS, "-o", CALIB, "--calib", CALIB], ""),
    "plan into a missing folder": (["plan", DIGITS, "-o", "no/p.json", "--calib", CALIB], "no"),
    "sweep": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--sweep", "0.1,much"], "--sweep"),
    "sweep negative": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--sweep", "0.1,-1"], "sweep"),
    "sweep NaN": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--sweep", "0.1,nan"], "sweep"),
    "stats that are none": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--stats", CALIB], "statistics"),
    "no model": (["plan", "nothing.onnx", "-o", "p.json", "--calib", CALIB], "nothing.onnx"),
    "no samples": (["plan", DIGITS, "-o", "p.json", "--calib", "nothing.npz"], "nothing.npz"),
    "float model": (["plan", ROOT / "models" / "digits.fp32.onnx", "-o", "p.json", "--calib", CALIB], "QuantizeLinear"),
    "float model missing": (["plan", DIGITS, "-o", "p.json", "--calib", CALIB, "--float", "no.onnx"], "no.onnx"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes(run: Any, tmp_path: Path, name: str) -> None:
    args, word = BAD[name]
    before = DIGITS.read_bytes(), CALIB.read_bytes()
    assert word in complains(run, *args)
    assert list(tmp_path.iterdir()) == []
    assert (DIGITS.read_bytes(), CALIB.read_bytes()) == before


def test_options_of_the_paper_still_work(run: Any, tmp_path: Path) -> None:
    code, _, err = run("rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--select", "mass", "--report", "r.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "r.json").read_text())
    assert "plan" not in report
    assert all(e["scale"] == e["scale_before"] for e in report["regions"])


# ---- sweep, statistics ----------------------------------------------------------------------------------------------


def test_sweep(run: Any, tmp_path: Path) -> None:
    args = [*files(tmp_path, "residual"), "--copies", 2, "--budget", 0.1, "--sweep", "0.3,0.02,0.1"]
    code, out, err = run("plan", "-o", "p.json", *args)
    assert (code, err) == (0, "")
    assert "as it is" in out and "written" in out
    table = out[out.index("Gain against") :]
    places = [table.index(f" {b} ") for b in ("2.0 %", "10.0 %", "30.0 %")]
    assert places == sorted(places)
    assert (tmp_path / "p.json").exists()


def test_sweep_from_python(folder: Path) -> None:
    model, calib, _ = source("residual", folder)
    budgets = (0.5, 0.05, 0.2)
    _, found = api.plan(model, calib, PlanOptions(copies=2), budgets=budgets)
    assert [p["budget"] for p in found["sweep"]] == sorted(budgets)
    for p in found["sweep"]:
        assert p["extra_macs"] <= p["budget"] + 1e-9
    values = [p["objective"] for p in found["sweep"]]
    assert all(b <= 1.02 * a for a, b in pairwise(values))


def test_statistics_are_kept(run: Any, tmp_path: Path) -> None:
    args = [*files(tmp_path, "residual"), "--copies", 2, "--stats", "s.npz"]
    plans = []
    for name in ("a.json", "b.json"):
        code, _, err = run("plan", *args, "-o", name)
        assert (code, err) == (0, "")
        plans.append((tmp_path / name).read_text())
    assert plans[0] == plans[1]
    error = complains(run, "plan", DIGITS, "-o", "c.json", "--calib", CALIB, "--stats", "s.npz")
    assert "another model" in error


# ---- little to go by ------------------------------------------------------------------------------------------------


def nothing_to_do() -> dict[str, tuple[Model, dict[str, Array]]]:
    found = {}
    n = Net(Style(), x=(4, 6, 6))
    found["no layer"] = n.model(n.op("Sigmoid", n.qdq("x", "mid"))), n.feed
    n = Net(Style(), x=(4, 6, 6))
    found["weights alone"] = n.model(n.conv(n.op("Relu", n.conv("x")))), n.feed
    n = Net(Style(), x=(4, 6, 6))
    found["sigmoid"] = n.model(n.conv(n.qdq(n.op("Sigmoid", "x"), scale=1 / 255))), n.feed
    return found


@pytest.mark.parametrize("name", ["no layer", "weights alone", "sigmoid"])
def test_nothing_to_plan(run: Any, tmp_path: Path, name: str) -> None:
    """Exit code 0, a plan without regions (or one of a finer step), and a sentence that says so."""
    model, feed = nothing_to_do()[name]
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **feed)
    code, out, err = run("plan", "in.onnx", "-o", "p.json", "--calib", "c.npz", "--no-rescale")
    assert (code, err) == (0, "")
    assert "nothing" in out.lower()
    data = json.loads((tmp_path / "p.json").read_text(), parse_constant=pytest.fail)
    assert data["regions"] == []
    for args in (["--plan", "p.json"], ["--calib", "c.npz", "--no-rescale"]):
        code, out, err = run("rewrite", "in.onnx", "o.onnx", *args)
        assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
        assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


def test_nothing_to_plan_in_float8(run: Any, tmp_path: Path) -> None:
    model = onnx.load(FLOAT8)
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    np.savez(tmp_path / "c.npz", **{model.graph.input[0].name: np.random.default_rng(0).random(shape, np.float32)})
    code, out, err = run("plan", FLOAT8, "-o", "p.json", "--calib", "c.npz")
    assert (code, err) == (0, "") and "nothing" in out.lower()
    assert Plan.read(tmp_path / "p.json").regions == ()


@pytest.mark.parametrize("name", ["residual", "matmul_gelu", "flatten_gemm", "fixed_batch"])
def test_one_sample(folder: Path, name: str) -> None:
    model, feed = fed(name)
    first = 2 if name == "fixed_batch" else 1
    path = folder / f"{name}.one.npz"
    np.savez(path, **{k: v[:first] for k, v in feed.items()})
    result = api.rewrite(model, calib=str(path), options=PlanOptions(budget=0.3, copies=2))
    assert result.changed and not_worse(result.report)
    assert result.verification is not None and result.verification.verdict == "PASSED"


@pytest.mark.parametrize(("value", "bias"), [(0.0, "float"), (0.0, "none"), (0.7, "float"), (50.0, "int32")])
def test_constant_input(run: Any, tmp_path: Path, bias: str, value: float) -> None:
    """All values of a tensor are equal; without biases and with zeros nothing but zeros is ever seen."""
    model, feed = random_model(0.8, bias=bias)
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **{k: np.full_like(v, value) for k, v in feed.items()})
    code, out, err = run("plan", "in.onnx", "-o", "p.json", "--calib", "c.npz", "--budget", 0.3, "--copies", 2)
    assert (code, err) == (0, "") and out
    data = json.loads((tmp_path / "p.json").read_text(), parse_constant=pytest.fail)
    if value == 0 and bias == "none":
        assert data["regions"] == []
    args = ["--calib", "c.npz", "--budget", 0.3, "--copies", 2, "--report", "r.json"]
    code, out, err = run("rewrite", "in.onnx", "o.onnx", *args)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert not_worse(report) and extra_macs(report) <= 0.3 + 1e-9


def test_empty_channels(run: Any, tmp_path: Path) -> None:
    """Channels that are zero in all samples: no copies for them, and no NaN."""
    model, feed = random_model(0.5)
    onnx.save(model, tmp_path / "in.onnx")
    x = np.repeat(feed["x"], 4, axis=0)
    x[:, 1:3] = 0
    np.savez(tmp_path / "c.npz", x=x)
    code, out, err = run("plan", "in.onnx", "-o", "p.json", "--calib", "c.npz", "--budget", 1.0, "--copies", 2)
    assert (code, err) == (0, "")
    made = Plan.read(tmp_path / "p.json")
    first = next(r for r in made.regions if r.tensor == "x")
    assert not (first.copies[1:3].any() or first.copies_low[1:3].any())
    assert first.copies[[0, 3]].any() or first.copies_low[[0, 3]].any()
    code, out, err = run("rewrite", "in.onnx", "o.onnx", "--plan", "p.json")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")


@pytest.mark.parametrize("where", ["file", "function"])
def test_nan_in_the_samples(run: Any, tmp_path: Path, where: str) -> None:
    """Said with its place, whether it stands in a file or comes from the user's code in the middle of the pass."""
    args = files(tmp_path, "residual")
    with np.load(tmp_path / "c.npz") as archive:
        x = archive["x"].copy()
    x[9, 0, 0, 0] = np.nan
    np.savez(tmp_path / "c.npz", x=x)
    (tmp_path / f"ocs_nan_{where}.py").write_text(
        "import numpy as np\ndef feeds():\n    return ({'x': x[None]} for x in np.load('c.npz')['x'])\n"
    )
    source = "c.npz" if where == "file" else f"ocs_nan_{where}:feeds"
    for jobs in (1, 2):
        error = complains(run, "plan", args[0], "-o", "p.json", "--calib", source, "--jobs", jobs)
        assert "NaN or infinity" in error and ("sample 9" in error or "feed 9" in error)
    assert not (tmp_path / "p.json").exists()


def test_samples_that_end(folder: Path) -> None:
    """Fewer samples than asked for, and sources that can be read only feed by feed."""
    model, feed = fed("residual")
    path = folder / "residual.two.npz"
    np.savez(path, **{k: v[:2] for k, v in feed.items()})
    samples = open_samples(str(path), model)
    made, _ = api.plan(model, samples, PlanOptions(budget=0.2, copies=2), limit=100)
    again, _ = api.plan(model, samples, PlanOptions(budget=0.2, copies=2))
    assert made.to_json() == again.to_json() and made.regions


def test_the_step_of_a_tensor_that_no_layer_reads(tmp_path: Path) -> None:
    """Q and DQ in front of a SiLU too, as quantizers put them there, with a range that is never filled."""
    n = Net(Style(), x=(4, 8, 8))
    y = n.conv(n.qdq("x", "mid", 1.0))
    y = n.qdq(y, "mid", scale=12 * np.abs(n.values(y)).max() / 127)
    y = n.qdq(n.op("Mul", y, n.op("Sigmoid", y)), "mid", 1.0)
    model = n.model(n.conv(y))
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "c.npz", x=rng.standard_normal((32, 4, 8, 8)).astype(np.float32))
    result = api.rewrite(model, calib=str(tmp_path / "c.npz"), options=PlanOptions(budget=0.0))
    report = result.report
    entry = next(r for r in report["regions"] if r["tensor"].startswith("conv1"))
    assert (entry["status"], entry["mode"], sum(entry["copies"])) == ("applied", "rescale", 0)
    assert entry["scale"] < entry["scale_before"] / 4
    assert report["quality"]["sqnr_after_db"] > report["quality"]["sqnr_before_db"] + 6
    assert (
        report["cost"]["macs_after"] == report["cost"]["macs_before"] and report["verification"]["verdict"] == "PASSED"
    )
    assert [x.op_type for x in result.model.graph.node] == [x.op_type for x in model.graph.node]
    fixed = api.rewrite(model, calib=str(tmp_path / "c.npz"), options=PlanOptions(budget=0.0, rescale=False))
    assert fixed.model.SerializeToString() == model.SerializeToString()


def test_a_step_does_not_lift_a_folded_bound(tmp_path: Path) -> None:
    """x * Clip(x + 3, 0, 6) / 6 without its Clip: a quantizer that reached beyond 6 would compute something else."""
    n = Net(Style(), x=(4, 8, 8))
    x = n.op("Mul", n.conv(n.qdq("x", "mid", 1.0)), n.const("ten", 10.0))
    base = n.qdq(x, "mid", 1.0)
    plus = n.op("Add", base, n.const("three", 3.0))
    hard = n.op("Div", n.op("Mul", base, n.qdq(plus, scale=4.7 / 255)), n.const("six", 6.0))
    model = n.model(n.conv(n.qdq(hard, "mid", 1.0)))
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "c.npz", x=rng.standard_normal((32, 4, 8, 8)).astype(np.float32))
    made = api.plan(model, str(tmp_path / "c.npz"), PlanOptions(budget=0.0))[0]
    steps = {r.tensor: float(r.scale) for r in made.regions}
    assert 4.7 / 255 < steps[plus] <= 6 / 255 * (1 + 1e-6)


# ---- a plan that was worked on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "others", "kept"),
    [
        ((0.5, 1.1), (1.0, 1.0), True),  # a large gain, and next to nothing lost where the plan came from
        ((0.9, 1.3), (1.0, 1.0), False),  # fitted to the samples that were asked
        ((0.9, 0.9), (1.0, 1.0), True),
        ((1.0, 1.0), (1.0, 1.0), False),  # nothing changed
    ],
)
def test_all_samples_decide_on_refinement(
    held: tuple[float, float], others: tuple[float, float], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`held`: the refined plan's objective on the samples it was refined with, and on the others."""
    recipe = Recipe(2, lambdas={1: 1.0})
    choices: Any = {1: SimpleNamespace()}
    before = trials.Trial("a plan", recipe, choices)
    values = {1: others, 0: held}
    problem: Any = SimpleNamespace(settings=len, describe=lambda _: {}, without=lambda _: problem)

    class Judge:
        def __init__(self, part: int) -> None:
            self.part = part

        def __call__(self, settings: int) -> tuple[float, float]:
            return values[settings][self.part], 0.0

        def halves(self, _: int) -> list[float]:
            return [1.0]

    monkeypatch.setattr(trials, "weigh_in_place", lambda *_: {1: 7.0})
    monkeypatch.setattr(trials, "solve", lambda *_: choices)
    monkeypatch.setattr(trials, "_roll_back", lambda *_: ({}, (3,)))  # one region is left out
    judge: list[Any] = [Judge(0), Judge(1)]
    trial = trials.improve(problem, *judge, Budget(0.1), PlanOptions(), before, lambda *_: None, {})
    if kept:
        assert (trial.name, trial.choices, trial.dropped) == ("a plan", {}, (3,))
        assert trial.recipe == replace(recipe, lambdas={1: 7.0}), "weights belong to their plan"
    else:
        assert trial is before


def test_a_model_that_the_optimizer_does_not_take(folder: Path) -> None:
    """onnxruntime's optimizer fails on a Clip in front of a 4-bit quantizer; without it the model runs."""
    net, outputs = zoo.activation(lambda n, x: n.clip(x, 0, 6))(Style(dtype="int4", opset=21))
    model = net.model(*outputs)
    zoo.execute(model, net.feed)
    rng = np.random.default_rng(7)
    calib = {k: rng.standard_normal((12, *v.shape[1:])).astype(v.dtype) for k, v in net.feed.items()}
    result = api.rewrite(model, calib=calib, options=PlanOptions(copies=2, budget=0.5))
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    assert not_worse(result.report)


def test_a_model_that_nobody_loads_is_said() -> None:
    model = fed("residual")[0]
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UserError, match=r"does not load the model.*NoSuchOperator"):
        runtime.as_written(broken)
