"""The pass regrid on the command line, by default and by name, with the planner and with a plan."""

from __future__ import annotations

import json
from pathlib import Path

import detectors
import numpy as np
import onnx
import pytest
import zoo
from feeds import inputs
from typer.testing import CliRunner

from onnx_ocs.cli.app import app
from onnx_ocs.errors import UserError
from onnx_ocs.passes import DEFAULT, DEFAULT_BLIND, Regrid


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnx.save(detectors.build("one_output"), tmp_path / "in.onnx")
    np.savez(tmp_path / "calib.npz", **detectors.samples())
    return tmp_path


def test_it_runs_first_with_samples() -> None:
    assert DEFAULT[0] is Regrid and Regrid not in DEFAULT_BLIND


def test_from_end_to_end(files: Path) -> None:
    """inspect names what is dead and why; rewrite mends it, with steps planned behind; verify needs the files alone."""
    model, out, report = files / "in.onnx", files / "out.onnx", files / "r.json"
    told = run("inspect", model, "--calib", files / "calib.npz", "--report", report)
    assert "Dead channels 5..6 of 'y': the quantizer of 'sigmoid2' has a step of 1.25" in " ".join(told.split())
    assert [g["status"] for g in json.loads(report.read_text())["grids"]] == ["candidate"] * 2
    passes = "--passes", "regrid,translate"
    told = run("rewrite", model, out, "--calib", files / "calib.npz", "--report", report, *passes)
    assert "PASSED: 2 new grids" in told
    found = json.loads(report.read_text())
    assert [g["status"] for g in found["grids"]] == ["applied"] * 2
    (y,) = found["outputs"]
    assert y["constant_channels_before"] == [5, 6] and y["constant_channels"] == []
    assert all(g["sqnr_after_db"] >= g["sqnr_before_db"] for g in y["groups"])
    scores = zoo.execute(onnx.load(out), detectors.samples(8, 5))[0][:, 4:]
    assert np.all(scores.std((0, 2, 3)) > 0)
    assert "PASSED: 2 new grids" in run("verify", model, out)


def test_a_plan_is_for_the_model_as_it_is(files: Path) -> None:
    model, plan, out = files / "in.onnx", files / "p.json", files / "out.onnx"
    run("plan", model, "--calib", files / "calib.npz", "-o", plan)
    run("rewrite", model, out, "--plan", plan, "--calib", files / "calib.npz", "--passes", "translate")
    wrong = "rewrite", model, out, "--plan", plan, "--calib", files / "calib.npz", "--passes", "regrid,translate"
    result = CliRunner().invoke(app, [str(a) for a in wrong])
    assert isinstance(result.exception, UserError) and "made for another model" in str(result.exception)


def test_nothing_is_left_out_on_request(files: Path) -> None:
    report = files / "r.json"
    run("rewrite", files / "in.onnx", files / "out.onnx", "--calib", files / "calib.npz", "--passes", "regrid",
        "--no-leave-out", "--report", report)  # fmt: skip
    assert [g["edit"] for g in json.loads(report.read_text())["grids"]] == ["new grid", "split"]


def test_16_bits_on_the_command_line(files: Path) -> None:
    """Told in the table, the verdict and the report; verify needs the files alone; targets without 16 bits say so."""
    model, out, report = files / "sum.onnx", files / "out.onnx", files / "r.json"
    net, _ = zoo.build("residual")
    onnx.save(net, model)
    np.savez(files / "sum.npz", **inputs(net, 32))
    asked = "rewrite", model, out, "--calib", files / "sum.npz", "--passes", "regrid", "--bits16", "--report", report
    told = " ".join(run(*asked, "--max-latency", "none").split())
    assert "quantizers with 16 bits" in told and "16 bits in place of 8 or fewer" in told and "PASSED" in told
    assert {g["type"] for g in json.loads(report.read_text())["grids"] if g["status"] == "applied"} == {"uint16"}
    assert "PASSED" in run("verify", model, out)
    assert "uint16" in {g["type"] for g in json.loads(report.read_text())["grids"] if "type" in g}
    run("inspect", out, "--calib", files / "sum.npz")
    run(*asked, "--target", "qnn", "--no-verify")
    refused = CliRunner().invoke(app, [str(a) for a in (*asked, "--target", "openvino")])
    assert isinstance(refused.exception, UserError) and "openvino takes no activations of 16" in str(refused.exception)
