"""`rewrite`: each option reaches the pass or the planner that it is for; what reaches nobody is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from heads import detector

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Compensate, Reconstruct, Split, Translate
from onnx_ocs.passes.registry import Auto
from onnx_ocs.passes.regrid import Regrid
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.targets.choice import SLACK

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = str(ROOT / "models" / "digits.calib.npz")


class Asked(UserError):
    """Raised in place of the work."""


@pytest.fixture
def asked(run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call `rewrite` up to the work: what the work was asked for, and stderr."""
    seen: list[dict[str, Any]] = []

    def rewrite(model: object, output: object, **options: Any) -> None:
        seen.append(options)
        raise Asked("stopped here")

    monkeypatch.setattr(api, "rewrite", rewrite)

    def call(*args: object) -> Any:
        code, _, err = run("rewrite", DIGITS, "o.onnx", *args)
        assert code == 1
        if not seen:
            return SimpleNamespace(err=err)
        assert err.splitlines()[-1] == "Error: stopped here"
        return SimpleNamespace(err="".join(err.splitlines(keepends=True)[:-1]), **seen.pop())

    return call


@pytest.mark.parametrize(
    ("args", "passes", "options"),
    [
        ([], [Translate()], None),
        (["--ratio", "0.25", "--copies", "2", "--mode", "late", "--align", "8"], [Translate(0.25, 2, "late", 8)], None),
        (["--calib", CALIB], [Regrid(), Translate(), Reconstruct()], PlanOptions(max_latency=1.1)),
        (["--calib", CALIB, "--select", "mass"], [Regrid(), Translate(), Reconstruct()], None),
        (["--calib", CALIB, "--budget", "0.3", "--mode", "early"], [Regrid(), Translate(mode="early"), Reconstruct()],
         PlanOptions(budget=0.3, pace=SLACK, mode="early")),
        (["--calib", CALIB, "--ratio", "0.3"], [Regrid(), Translate(0.3), Reconstruct()],
         PlanOptions(budget=None, ratio=0.3)),
        (["--calib", CALIB, "--target-sqnr", "20", "--effort", "quick", "--objective", "kl"],
         [Regrid(), Translate(), Reconstruct()],
         PlanOptions(budget=1.0, target=Target("sqnr", 20.0), effort="quick", objective="kl")),
        (["--calib", CALIB, "--include", "a*", "--include", "b", "--exclude", "c", "--no-rescale"],
         [Regrid(), Translate(), Reconstruct()],
         PlanOptions(max_latency=1.1, include=("a*", "b"), exclude=("c",), rescale=False)),
        (["--passes", "split", "--ratio", "0.05", "--mode", "late"], [Split(0.05, "late")], None),
        (["--passes", "translate, compensate", "--nbc-budget", "0.2", "--nbc-form", "low-rank", "--nbc-form", "dense"],
         [Translate(), Compensate(0.2, ("low rank", "dense"))], None),
        (["--passes", "compensate", "--nbc-linear", "--calib", CALIB], [Compensate(linear=True)], None),
    ],
    ids=lambda v: " ".join(v).replace(CALIB, "C") if isinstance(v, list) and v and isinstance(v[0], str) else None,
)  # fmt: skip
def test_each_option_goes_where_it_belongs(asked, args: list[str], passes: list[Any], options: Any) -> None:
    done = asked(*args)
    assert (done.passes, done.options, done.err) == (passes, options, "")


def test_the_other_options(asked) -> None:
    done = asked("--calib", CALIB, "--float", "f.onnx", "--samples", "7", "--seed", "5", "--no-verify")
    assert (done.calib, done.float_model, done.limit) == (CALIB, Path("f.onnx"), 7)
    assert (done.seed, done.verify) == (5, False)


def test_a_plan(asked, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(Plan("", ()).to_json())
    done = asked("--plan", "p.json", "--passes", "translate,compensate", "--nbc-budget", "0.2")
    assert done.options is None and done.err == ""
    assert done.passes == [Translate(plan=Plan("", ())), Compensate(0.2)]


STEERING = [
    ["--ratio", "0.5"], ["--budget", "0.1"], ["--target-sqnr", "9"], ["--target-agreement", "0.5"], ["--copies", "1"],
    ["--align", "8"], ["--select", "mass"], ["--no-rescale"], ["--stats", "s.npz"],
    ["--include", "a"], ["--exclude", "a"],
]  # fmt: skip


@pytest.mark.parametrize("args", STEERING, ids=lambda a: a[0])
def test_a_plan_says_all(asked, args: list[str]) -> None:
    message = "Error: --plan says all that is to be done: leave the options that make a plan\n"
    assert asked("--plan", "p.json", "--calib", CALIB, *args).err == message


@pytest.mark.parametrize("args", [*STEERING[1:], ["--plan", "p.json"]], ids=lambda a: a[0])
def test_split_makes_no_plan(asked, args: list[str]) -> None:
    assert "the pass 'split' follows the paper's rule" in asked("--passes", "split", "--calib", CALIB, *args).err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--nbc-budget", "0.3"], "WARNING --nbc-budget is ignored: 'compensate' does not run\n"),
        (["--effort", "full"], "WARNING --effort is ignored: no plan is made\n"),
        (["--no-rescale"], "WARNING --rescale is ignored: no plan is made\n"),
        (["--passes", "compensate", "--ratio", "0.3"], "WARNING --ratio is ignored: no plan is made\n"),
        (["--passes", "compensate", "--calib", CALIB, "--budget", "0.3"],
         "WARNING --budget is ignored: no plan is made\n"),
        (["--passes", "split", "--mode", "late", "--objective", "kl"],
         "WARNING --objective is ignored: no plan is made\n"),
    ],
)  # fmt: skip
def test_what_is_ignored_is_said(asked, args: list[str], said: str) -> None:
    assert asked(*args).err == said


def test_the_passes_are_listed(run) -> None:
    text = " ".join(run("rewrite", "--help")[1].replace("│", " ").split())
    assert "translate: OCS+" in text and "split: OCS by halving" in text and "compensate: NBC" in text


# ---- what is judged -------------------------------------------------------------------------------------------------

METRIC = """
import numpy as np

def hits(outputs, references, labels):
    boxes = next(iter(outputs.values()))
    return np.mean(np.abs(boxes - labels["truth"]).max(1) <= 0.1)
"""


@pytest.fixture
def detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a detector, its float twin, samples with labels, and a module with its hit rate."""
    model, floats, calib = detector()
    onnx.save(model, tmp_path / "q.onnx")
    onnx.save(floats, tmp_path / "f.onnx")
    np.savez(tmp_path / "c.npz", **calib)
    (tmp_path / "ocs_detection.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("ocs_detection", None)


def test_a_detectors_hit_rate_decides(run, detection: Path) -> None:
    common = ("rewrite", "q.onnx", "o.onnx", "--calib", "c.npz", "--float", "f.onnx", "--passes", "translate", "-q")
    code, _, err = run(*common, "--metric", "ocs_detection:hits", "--report", "r.json")
    assert code == 0, err
    report = json.loads((detection / "r.json").read_text())
    q = report["quality"]
    assert q["metric_after"] > 0.95 > 0.8 > q["metric_before"]
    assert report["verification"]["verdict"] == "PASSED" and (detection / "o.onnx").exists()
    code, _, err = run(*common, "--metric", "ocs_detection:misses")
    assert code == 1 and "--metric ocs_detection:misses failed (AttributeError" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--exclude-output", "nobody"], "the model has no output 'nobody': it has '"),
        (["--output", "nobody=2"], "the model has no output 'nobody': it has '"),
        (["--output", "half"], "--output half: give NAME=WEIGHT"),
    ],
)
def test_an_output_that_is_not_there(run, detection: Path, args: list[str], message: str) -> None:
    for verb in (["rewrite", "q.onnx", "o.onnx"], ["plan", "q.onnx", "-o", "p.json"], ["inspect", "q.onnx"]):
        code, _, err = run(*verb, "--calib", "c.npz", *args)
        assert code == 1 and message in err, verb
    code, _, err = run("rewrite", "q.onnx", "o.onnx", *args)
    assert code == 1 and (message in err or "need --calib: outputs are judged on samples" in err)


AUTO = Auto((Regrid(), Translate(), Reconstruct(), Compensate()))


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ([], PlanOptions(budget=None, max_latency=1.1)),
        (["--max-latency", "1.3"], PlanOptions(budget=None, max_latency=1.3)),
        (["--max-latency", "none"], PlanOptions(budget=1.0)),
        (["--budget", "0.2"], PlanOptions(budget=0.2, pace=SLACK)),
        (["--target-sqnr", "20"], PlanOptions(budget=1.0, target=Target("sqnr", 20.0))),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_auto(asked, args: list[str], options: PlanOptions) -> None:
    """Time may be spent where nothing else is said; the passes have their options."""
    done = asked("--passes", "auto", "--calib", CALIB, *args)
    assert (done.passes, done.options, done.err) == (AUTO, options, "")


def test_auto_has_the_passes_options(asked) -> None:
    done = asked("--passes", "auto", "--calib", CALIB, "--nbc-budget", "0.3", "--mode", "early")
    assert done.passes == Auto((Regrid(), Translate(mode="early"), Reconstruct(), Compensate(0.3)))
    assert done.err == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--passes auto needs --calib: what it tries is judged on samples"),
        (["--calib", CALIB, "--plan", "p.json"], "--plan says what is to be done, --passes auto finds it: give one of"),
        (["--calib", CALIB, "--select", "mass"], "--passes auto plans by measured error: leave --select mass"),
    ],
    ids=lambda v: " ".join(v).replace(CALIB, "C") if isinstance(v, list) else None,
)
def test_auto_and_what_does_not_go_with_it(asked, args: list[str], message: str) -> None:
    assert message in asked("--passes", "auto", *args).err
