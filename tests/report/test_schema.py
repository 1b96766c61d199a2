"""The published JSON schema: made from the types, and every report of every verb keeps to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import feeds
import onnx
import pytest
import zoo
from jsonschema import Draft202012Validator

import onnx_ocs
from onnx_ocs.errors import VerificationError
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.translate import Translate
from onnx_ocs.report.report import assemble, to_json
from onnx_ocs.report.schema import SCHEMA, json_schema
from onnx_ocs.verbs import rewrite as verb

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "report.schema.json"
CLOSED = Draft202012Validator(json_schema(closed=True))


def check(report: dict[str, Any]) -> dict[str, Any]:
    """Read as JSON, a report has no key that no type names, and keeps to the published schema."""
    read: dict[str, Any] = json.loads(to_json(report), parse_constant=pytest.fail)
    for validator in (CLOSED, Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))):
        errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(read)]
        assert not errors
    return read


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return zoo.build("conv_relu_conv")[0]


@pytest.fixture(scope="module")
def calib(model: onnx.ModelProto) -> dict[str, Any]:
    return feeds.inputs(model, 32)


def test_committed_as_generated() -> None:
    command = [sys.executable, "-m", "onnx_ocs.report.schema"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == PUBLISHED.read_text(encoding="utf-8"), f"{' '.join(command[1:])} > {PUBLISHED.name}"


def test_a_schema_that_explains_itself() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$defs"]["Report"]["properties"]["schema"]["const"] == SCHEMA
    for name, entry in schema["$defs"].items():
        assert entry["description"], name
        assert all(p["description"] for p in entry["properties"].values()), name
    assert "additionalProperties" not in schema["$defs"]["Report"], "keys are added to a version"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "onnx_ocs.report/2"),
        (("verb",), "guess"),
        (("regions",), None),
        (("quality", "samples"), "many"),
        (("latency",), {}),
        (("environment", "seed"), 0.5),
    ],
)
def test_what_the_schema_rejects(path: tuple[str, ...], value: Any) -> None:
    report: Any = json.loads(to_json(assemble("verify", 0)))
    published = Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    assert published.is_valid(report)
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not published.is_valid(report)


def test_inspect(model: onnx.ModelProto, calib: dict[str, Any]) -> None:
    assert "loss" not in check(onnx_ocs.inspect(model))
    report = check(onnx_ocs.inspect(model, calib))
    assert report["loss"]["samples"] == 32 and "error" in report["regions"][0]
    assert [o["name"] for o in report["outputs"]] == [o.name for o in model.graph.output]


def test_rewrite_and_verify(model: onnx.ModelProto, calib: dict[str, Any]) -> None:
    done = onnx_ocs.rewrite(model, calib=calib, passes=[Translate(), Reconstruct(), Compensate(budget=4.0)])
    report = check(done.report)
    assert (
        report["reconstructions"]
        and {r["status"] for r in report["regions"]} >= {"applied"}
        and report["compensations"]
    )
    assert report["verification"]["verdict"] == "PASSED" and report["outputs"][0]["samples"] == 32
    again = check(onnx_ocs.verify(model, done.model, calib))
    assert again["outputs"] == report["outputs"] and again["quality"] == report["quality"]
    check(onnx_ocs.inspect(done.model))


def test_plan_and_target(model: onnx.ModelProto, calib: dict[str, Any]) -> None:
    options = onnx_ocs.PlanOptions(target=onnx_ocs.Target("sqnr", 90.0), budget=0.5, effort="quick")
    report = check(onnx_ocs.rewrite(model, calib=calib, options=options).report)
    assert report["target"]["reached"] is False and report["plan"]["target"]["probes"]
    _, found = onnx_ocs.plan(model, calib, onnx_ocs.PlanOptions(budget=0.5, effort="full"), budgets=[0.1])
    report = check({**assemble("plan", 0), "plan": found})
    assert report["plan"]["sweep"][0]["budget"] == 0.1 and report["plan"]["candidates"]


def test_nothing_to_do(model: onnx.ModelProto, calib: dict[str, Any]) -> None:
    options = onnx_ocs.PlanOptions(exclude=("*",), target=onnx_ocs.Target("sqnr", 1.0))
    report = check(onnx_ocs.rewrite(model, calib=calib, passes=[Translate()], options=options).report)
    assert report["verification"] is None and report["plan"]["chosen"] == "nothing to change"


def test_a_failed_verification(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verb.verify_models

    def failing(*args: Any) -> Any:
        result = real(*args)
        result.fail("broken on purpose")
        return result

    monkeypatch.setattr(verb, "verify_models", failing)
    with pytest.raises(VerificationError) as stop:
        onnx_ocs.rewrite(model)
    assert check(stop.value.args[1])["verification"]["failures"] == ["broken on purpose"]
