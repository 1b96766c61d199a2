"""The cheapest plan that reaches a target: the search on curves that are known, and the command line on real models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo

from onnx_ocs import PlanOptions, Target, api
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.planning.goal import Probe, search

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
FEW = ("--samples", 32, "--copies", 2)

# ---- the search -----------------------------------------------------------------------------------------------------

Curve = Callable[[float], float]


class World:
    """Plans that spend what they may, up to `most`, and reach what a curve says; more effort brings `bonus`."""

    def __init__(self, curve: Curve, most: float = np.inf, bonus: float = 0.0) -> None:
        self.curve, self.most, self.bonus = curve, most, bonus
        self.probes = [Probe(0.0, 0.0, curve(0.0), "as it is")]

    def _probe(self, amount: float, bonus: float) -> Probe:
        spent = min(amount, self.most)
        self.probes.append(Probe(amount, spent, self.curve(spent) + bonus, len(self.probes)))
        return self.probes[-1]

    def quick(self, amount: float) -> Probe:
        return self._probe(amount, 0.0)

    def thorough(self, amount: float) -> Probe:
        return self._probe(amount, self.bonus)

    def search(self, wanted: float, limit: float = np.inf) -> Probe:
        return search(self.probes[0], self.quick, self.thorough, limit, wanted)


def decibels(x: float) -> float:
    return float(6 + 4 * np.log1p(10 * x))


@pytest.mark.parametrize("wanted", [6.5, 8.0, 10.0, 12.0, 20.0])
def test_finds_the_cheapest_on_a_smooth_curve(wanted: float) -> None:
    world = World(decibels)
    found = world.search(wanted)
    least = float(np.expm1((wanted - 6) / 4) / 10)
    assert found.value >= wanted
    assert least <= found.spent <= max(least * 1.06, 0.002)
    assert len(world.probes) < 20


def test_a_model_that_is_good_enough_is_left_alone() -> None:
    world = World(decibels)
    assert world.search(6.0) is world.probes[0] and len(world.probes) == 1


def test_what_costs_nothing_is_tried_first() -> None:
    world = World(lambda x: 1.0 + x)
    world.probes[0] = Probe(0.0, 0.0, 0.5, "as it is")
    found = world.search(1.0)
    assert found.spent == 0 and found.value == 1.0 and len(world.probes) == 2


@pytest.mark.parametrize("limit", [0.0, 0.03, 0.25, 1.0])
def test_never_beyond_the_limit(limit: float) -> None:
    world = World(decibels)
    found = world.search(40.0, limit)
    assert max(p.allowed for p in world.probes) == limit
    assert found.value == decibels(limit) < 40, "the best is given where none reaches it"


@pytest.mark.parametrize(("wanted", "reached"), [(9.0, True), (9.5, False)])
def test_more_effort_where_the_limit_is_met(wanted: float, reached: bool) -> None:
    """What a quick plan misses by little at the limit, a better one reaches."""
    world = World(decibels, bonus=0.3)
    found = world.search(wanted, 0.1)
    assert decibels(0.1) == pytest.approx(8.77, abs=0.01)
    assert (found.value >= wanted) == reached and found.value == decibels(0.1) + 0.3


def test_ends_where_more_does_not_help() -> None:
    world = World(decibels, most=0.5)
    found = world.search(40.0)
    assert found.value == decibels(0.5) and found.spent == 0.5
    assert len(world.probes) < 12


@pytest.mark.parametrize("seed", range(20))
def test_curves_with_steps_and_noise(seed: int) -> None:
    """Whatever it finds was seen to reach the target, and nothing that was seen is cheaper."""
    rng = np.random.default_rng(seed)
    noise = {}

    def curve(x: float) -> float:
        return decibels(np.floor(20 * x) / 20) + noise.setdefault(x, float(rng.normal(0, 0.5)))

    world = World(curve, bonus=0.2)
    wanted = float(rng.uniform(4, 16))
    found = world.search(wanted, 2.0)
    reaching = [p for p in world.probes if p.value >= wanted]
    if reaching:
        assert found.value >= wanted and found.spent == min(p.spent for p in reaching)
    else:
        assert found.value == max(p.value for p in world.probes)


def test_outcomes() -> None:
    sqnr, agreement = Target("sqnr", 11.0), Target("agreement", 0.95)
    assert sqnr.value(Quality(None, None, 4)) == np.inf and agreement.value(Quality(3.0, 0.5, 4)) == 0.5
    assert sqnr.outcome(11.0)["shortfall"] is None and sqnr.outcome(11.0)["reached"]
    assert "10.25 dB instead of 11 dB" in sqnr.outcome(10.25)["shortfall"]
    assert "50.00 % of the samples instead of 95 %" in agreement.outcome(0.5)["shortfall"]


def test_agreement_of_what_is_no_class_score() -> None:
    with pytest.raises(UserError, match="--target-sqnr"):
        Target("agreement", 0.9).value(Quality(3.0, None, 4))


# ---- the command line -----------------------------------------------------------------------------------------------


def rewritten(run: Any, tmp_path: Path, *args: object) -> tuple[int, str, str, dict[str, Any]]:
    code, out, err = run(
        "rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--passes", "translate", *FEW, *args, "--report", "r.json"
    )
    return code, out, err, json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)


def spent(report: dict[str, Any]) -> float:
    return float(report["cost"]["macs_after"] / report["cost"]["macs_before"] - 1)


@pytest.mark.parametrize(
    ("option", "wanted", "key"),
    [("--target-sqnr", 10.5, "sqnr_after_db"), ("--target-agreement", 0.99, "agreement_after")],
)
def test_reached(run: Any, tmp_path: Path, option: str, wanted: float, key: str) -> None:
    """The figure that the report gives for the model that was written."""
    code, out, err, report = rewritten(run, tmp_path, option, wanted)
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")
    assert report["quality"][key] >= wanted > report["quality"][key.replace("after", "before")]
    assert report["target"] == {
        "kind": option.removeprefix("--target-"),
        "wanted": wanted,
        "got": report["quality"][key],
        "reached": True,
        "shortfall": None,
    }
    probes = report["plan"]["target"]["probes"]
    chosen = next(p for p in probes if p["chosen"])
    assert chosen["got"] == report["quality"][key]
    assert spent(report) == pytest.approx(chosen["extra_macs"], abs=1e-6)
    assert chosen["extra_macs"] == min(p["extra_macs"] for p in probes if p["got"] >= wanted)
    cheaper = [p["got"] for p in probes if p["extra_macs"] < chosen["extra_macs"]]
    assert max(cheaper, default=-np.inf) < wanted and len(probes) > 1
    code, out, err = run("plan", DIGITS, "-o", "p.json", "--calib", CALIB, *FEW, option, wanted)
    assert (code, err) == (0, "") and "The cheapest plan" in out
    assert run("rewrite", DIGITS, "p.onnx", "--plan", "p.json", "-q")[0] == 0
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


@pytest.mark.parametrize("limit", [("--budget", 0.05), ("--ratio", 0.03)])
def test_missed(run: Any, tmp_path: Path, limit: tuple[str, float]) -> None:
    """Within the limit nothing reaches it: the best is written, the shortfall said, exit code 3."""
    code, out, err, report = rewritten(run, tmp_path, "--target-sqnr", 14, *limit)
    got = report["quality"]["sqnr_after_db"]
    assert code == 3 and err == f"MISSED: the target was missed: an SQNR of {got:.2f} dB instead of 14 dB.\n"
    assert out.splitlines()[-1].startswith("PASSED") and "the target was missed" in out
    assert got > report["quality"]["sqnr_before_db"] and (tmp_path / "o.onnx").read_bytes() != DIGITS.read_bytes()
    probes = report["plan"]["target"]["probes"]
    assert report["target"]["reached"] is False and got == max(p["got"] for p in probes)
    assert any(report["target"]["shortfall"] == n for n in report["notes"])
    unit = {"--budget": "extra_macs", "--ratio": "mean_copies"}[limit[0]]
    assert all(p[unit] <= limit[1] + 1e-6 for p in probes)
    code, out, err = run("plan", DIGITS, "-o", "p.json", "--calib", CALIB, *FEW, "--target-sqnr", 14, *limit)
    assert code == 3 and err.startswith("MISSED: ") and (tmp_path / "p.json").exists()


def test_reached_already(run: Any, tmp_path: Path) -> None:
    code, out, err, report = rewritten(run, tmp_path, "--target-sqnr", 3)
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == DIGITS.read_bytes()
    assert report["target"]["reached"] and report["target"]["got"] == report["quality"]["sqnr_before_db"]


def test_missed_where_nothing_can_be_done(run: Any, tmp_path: Path) -> None:
    code, out, err, report = rewritten(run, tmp_path, "--target-sqnr", 30, "--exclude", "*")
    assert code == 3 and err.startswith("MISSED: ") and not report["target"]["reached"]
    assert "nothing" in out.splitlines()[-1] and (tmp_path / "o.onnx").read_bytes() == DIGITS.read_bytes()


def test_from_python(tmp_path: Path) -> None:
    model, feed = zoo.build("residual")
    rng = np.random.default_rng(3)
    samples = {k: rng.standard_normal((12, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}
    calib = str(tmp_path / "c.npz")
    np.savez(calib, **samples)
    before = api.inspect(model, calib)["quality"]["sqnr_before_db"]
    target = Target("sqnr", before + 2)
    result = api.rewrite(model, calib=calib, options=PlanOptions(budget=None, target=target, copies=2))
    assert result.report["target"]["reached"] and result.report["quality"]["sqnr_after_db"] >= before + 2
    assert result.changed


def test_public_names_are_the_verbs() -> None:
    """Not the modules of the same names, which they import."""
    code = "from onnx_ocs import *; import onnx_ocs; print([callable(getattr(onnx_ocs, n)) for n in onnx_ocs.__all__])"
    code += "; print(callable(plan), callable(verify), Target('sqnr', 1.0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "False" not in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--target-sqnr", 9, "--target-agreement", 0.9], "one of them"),
        (["--target-sqnr", "nan"], "decibels"),
        (["--target-agreement", 95], "--target-agreement"),
        (["--target-sqnr", 9, "--select", "mass"], "--select error"),
    ],
)
def test_users_mistakes(run: Any, args: list[object], words: str) -> None:
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--calib", CALIB, *args)
    assert (code, out) == (1, "") and err.startswith("Error: ") and words in err and len(err.splitlines()) == 1


def test_without_samples(run: Any) -> None:
    code, _, err = run("rewrite", DIGITS, "o.onnx", "--target-sqnr", 9)
    assert code == 1 and "--calib" in err
