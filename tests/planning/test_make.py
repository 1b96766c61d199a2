"""The planner: within the budget by the real cost, never worse, as asked for; plans as files; the user's mistakes."""

from __future__ import annotations

import json
import time
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from planned import CALIB, DIGITS, FEW, FLOAT8, ROOT, carried_out, extra_macs, fed, files, not_worse, plan, source
from zoo import Net, Style

from onnx_ocs import api
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.runtime import session as runtime

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto


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


@pytest.mark.parametrize("name", ["residual", "three_layers", "bias_int8", "depthwise"])
@pytest.mark.parametrize("mode", ["early", "late"])
def test_mode(folder: Path, name: str, mode: str) -> None:
    made, _ = plan(name, folder, budget=0.3, mode=mode, rescale=False)  # else a coarser step does it for nothing
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
    args = "--passes", "translate", "--include", "nothing*", "--exclude", "a"
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--calib", CALIB, *FEW, *args)
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
    args = ["--calib", CALIB, *FEW, "--budget", 0.15, "--passes", "translate", "--report", "r.json"]
    code, out, err = run("rewrite", DIGITS, "o.onnx", *args)
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


def complains(run: Any, *args: object) -> str:
    """Exit code 1, one line, no output."""
    code, out, err = run(*args)
    assert (code, out) == (1, ""), (out, err)
    assert err.startswith("Error: ") and len(err.splitlines()) == 1 and "Traceback" not in err
    return str(err)


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
    "plan without output": (["plan", DIGITS, "--calib", CALIB], "--out"),
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
    code, _, err = run("rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--select", "mass", "--passes", "translate",
                       "--report", "r.json")  # fmt: skip
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
    for args in (["--plan", "p.json"], ["--calib", "c.npz", "--no-rescale", "--no-zero-points"]):
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
    limits = ["--budget", 1.0, "--copies", 2, "--no-rescale"]
    code, out, err = run("plan", "in.onnx", "-o", "p.json", "--calib", "c.npz", *limits)
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
    calib, passes = str(tmp_path / "c.npz"), [Translate()]
    result = api.rewrite(model, calib=calib, passes=passes, options=PlanOptions(budget=0.0))
    report = result.report
    entry = next(r for r in report["regions"] if r["tensor"].startswith("conv1"))
    assert (entry["status"], entry["mode"], sum(entry["copies"])) == ("applied", "rescale", 0)
    assert entry["scale"] < entry["scale_before"] / 4
    assert report["quality"]["sqnr_after_db"] > report["quality"]["sqnr_before_db"] + 6
    assert (
        report["cost"]["macs_after"] == report["cost"]["macs_before"] and report["verification"]["verdict"] == "PASSED"
    )
    assert [x.op_type for x in result.model.graph.node] == [x.op_type for x in model.graph.node]
    fixed = api.rewrite(model, calib=calib, passes=passes, options=PlanOptions(budget=0.0, rescale=False))
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
