"""`report`: shows again what a verb has shown, and makes the same page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
OLD = ROOT / "tests" / "data" / "report_0.1.0.json"
WRITTEN = ("--report", "r.json", "--html", "r.html")


@pytest.mark.parametrize(
    "args", [("inspect", DIGITS), ("rewrite", DIGITS, "o.onnx", "--no-verify"), ("verify", DIGITS, DIGITS)],
    ids=lambda a: a[0],
)  # fmt: skip
def test_what_the_verb_has_shown(run, tmp_path: Path, args: tuple[object, ...]) -> None:
    code, told, _ = run(*args, *WRITTEN)
    assert code == 0
    code, again, err = run("report", "r.json", "--html", "again.html")
    assert (code, err) == (0, "")
    if args[0] == "inspect":
        assert again == told
    else:  # the last line is without the time
        assert again.splitlines()[:-1] == told.splitlines()[:-1]
        assert told.splitlines()[-1].startswith(again.splitlines()[-1])
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "r.html").read_bytes()


def test_a_failed_verification_stays_one(run) -> None:
    assert run("verify", DIGITS, ROOT / "tests" / "data" / "ort_cnn_l17_f8.onnx", *WRITTEN)[0] == 2
    code, out, _ = run("report", "r.json", "-q")
    assert code == 0 and out.startswith("FAILED: ") and len(out.splitlines()) == 1


def test_a_report_of_an_earlier_version(run) -> None:
    code, page, tables = run("report", OLD, "--html", "-")  # the tables make room for the page
    assert code == 0 and page.startswith("<!DOCTYPE html>") and "<h1>report_0.1.0.json</h1>" in page
    assert tables.splitlines()[-1].startswith("PASSED: 6 changed steps, 1 branch as declared; 34,176 values")


def test_a_plan_and_a_target(run, tmp_path: Path) -> None:
    report = json.loads(OLD.read_text(encoding="utf-8"))
    probe = {"allowed": 0.1, "plan": "steps", "extra_macs": 0.0, "mean_copies": 0.0, "got": 8.9, "chosen": True}
    target = {"kind": "sqnr", "wanted": 8.5, "got": 8.9, "reached": True, "shortfall": None, "probes": [probe]}
    report["plan"] |= {
        "target": target, "regions": 1, "extra_macs": 0.0, "mean_copies": 0.0, "objective_before": 1.0,
        "objective_after": 0.5, "sqnr_before_db": 7.0, "sqnr_after_db": 8.9,
    }  # fmt: skip
    for verb in ("rewrite", "plan"):
        (tmp_path / "r.json").write_text(json.dumps({**report, "verb": verb}), encoding="utf-8")
        code, out, _ = run("report", "r.json")
        assert code == 0 and "The cheapest plan with output SQNR ≥ 8.50 dB" in out
        assert ("Plans, by" in out) is (verb == "plan") and ("PASSED" in out) is (verb == "rewrite")


@pytest.mark.parametrize("args", [("nothing.json",), (DIGITS,), ("r.json", "--html", "r.json"), (OLD, "--seed", 1)])
def test_mistakes_are_one_line(run, tmp_path: Path, args: tuple[object, ...]) -> None:
    (tmp_path / "r.json").write_bytes(OLD.read_bytes())
    code, out, err = run("report", *args)
    assert (code, out) == (1, "") and err.startswith("Error: ") and len(err.splitlines()) == 1
    assert (tmp_path / "r.json").read_bytes() == OLD.read_bytes()
