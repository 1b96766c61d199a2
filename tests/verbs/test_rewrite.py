"""The verb rewrite: what loses is not applied, what fails is not written, and what is told on the way."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import feeds
import numpy as np
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.errors import UserError, VerificationError
from onnx_ocs.passes.translate import Translate
from onnx_ocs.verbs import rewrite as verb


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return zoo.build("conv_relu_conv")[0]


@pytest.fixture(scope="module")
def calib(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return feeds.inputs(model, 32)


def two_heads() -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """Two outputs that read one tensor: of large channels the one, of small ones the other.  With its float twin."""

    def built(float_twin: bool) -> onnx.ModelProto:
        net = zoo.Net(zoo.Style(weight="float", bias="none"), x=(4, 6, 6))
        rng = np.random.default_rng(1)
        w = rng.normal(0, 0.3, (16, 4, 3, 3))
        w[:12] *= 0.06
        y = net.op("Relu", net.op("Conv", "x", net.const("w0", w), kernel_shape=[3, 3], pads=[1] * 4))
        y = y if float_twin else net.qdq(y, scale=6 / 255)
        boxes, scores = rng.normal(0, 3, (4, 16, 1, 1)), rng.normal(0, 0.3, (3, 16, 1, 1))
        boxes[:, 12:], scores[:, :12] = 0, 0
        outputs = [net.op("Conv", y, net.const(n, v)) for n, v in (("boxes_w", boxes), ("scores_w", scores))]
        return net.model(*outputs)

    quantized = built(False)
    return quantized, built(True), feeds.inputs(quantized, 48)


def test_no_output_gets_worse() -> None:
    """The step that is best for the first output ruins the second one: the rewrite is not applied, and that is said."""
    model, floats, calib = two_heads()
    done = onnx_ocs.rewrite(model, calib=calib, float_model=floats, options=onnx_ocs.PlanOptions(budget=0.1))
    boxes, scores = done.report["outputs"]
    assert done.model is model and not done.changed and done.verification is None
    assert boxes["sqnr_before_db"] == boxes["sqnr_after_db"] == done.report["quality"]["sqnr_after_db"]
    note = next(n for n in done.report["notes"] if "lost on the calibration data" in n)
    assert f"'{scores['name']}' {scores['sqnr_before_db']:.2f} dB -> " in note and boxes["name"] not in note
    lost = [r for r in done.report["regions"] if (r["reason"] or {}).get("code") == "loses"]
    assert lost and all(r["status"] == "refused" and r["reason"]["node"] == r["tensor"] for r in lost)
    assert not any(r["status"] == "applied" for r in done.report["regions"])


def test_every_output_has_a_row(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    report = onnx_ocs.rewrite(model, calib=calib).report
    (row,) = report["outputs"]
    assert row["name"] == model.graph.output[0].name and row["kind"] == "values" and row["samples"] == 32
    assert row["sqnr_after_db"] == report["quality"]["sqnr_after_db"] > row["sqnr_before_db"]
    assert onnx_ocs.rewrite(model).report["outputs"] == []


def test_what_passes_return_is_not_changed(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    """An outcome is made anew: the entries of a pass are what they were, also where the rewrite is taken back."""
    kept: list[Any] = []

    class Spied(Translate):
        def run(self, model: onnx.ModelProto, context: Any) -> Any:
            kept.append(super().run(model, context))
            return kept[-1]

    translate = Spied()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "losing", lambda *_: "everything")
        done = onnx_ocs.rewrite(model, calib=calib, passes=[translate])
    assert not done.changed and "lost on the calibration data (everything)" in " ".join(done.report["notes"])
    assert any(e["status"] == "applied" for e in kept[0].regions)
    assert all("error" not in e and "x_clip_after" not in e for e in kept[0].regions)


def test_a_failed_verification_writes_nothing(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verb.verify_models

    def failing(*args: Any) -> Any:
        result = real(*args)
        result.fail("broken on purpose")
        return result

    monkeypatch.setattr(verb, "verify_models", failing)
    with pytest.raises(VerificationError, match="broken on purpose") as stop:
        onnx_ocs.rewrite(model, tmp_path / "o.onnx")
    assert stop.value.args[1]["verification"]["verdict"] == "FAILED" and not any(tmp_path.iterdir())


def test_nothing_to_do_writes_the_input(model: onnx.ModelProto, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(model.SerializeToString())
    done = onnx_ocs.rewrite(source, tmp_path / "o.onnx", passes=[Translate(ratio=0.0)])
    assert not done.changed and done.report["notes"][-1] == "nothing was rewritten: the output is the input"
    assert (tmp_path / "o.onnx").read_bytes() == source.read_bytes()
    assert set(done.report["latency"].values()) == {None}


def test_a_float_model_without_samples(model: onnx.ModelProto) -> None:
    report = onnx_ocs.rewrite(model, float_model=model).report
    assert "--float is used with --calib only: there are no samples to compare the models on" in report["notes"]


def test_the_output_is_not_the_input(model: onnx.ModelProto, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="give it another name"):
        onnx_ocs.rewrite(source, source)


# ---- the log --------------------------------------------------------------------------------------------------------

LOGGERS = ["onnx_ocs.calibration", "onnx_ocs.passmanager", "onnx_ocs.planning", "onnx_ocs.verification"]


@pytest.mark.parametrize("name", ["conv_relu_conv", "three_layers"])
def test_one_line_each(name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Manager, planner, calibration and verification: one line each, however large the graph is; nothing is printed."""
    model = zoo.build(name)[0]
    with caplog.at_level(logging.INFO, "onnx_ocs"):
        done = onnx_ocs.rewrite(model, calib=feeds.inputs(model, 32), options=onnx_ocs.PlanOptions(budget=0.5))
    assert done.changed
    told = {r.name: r.getMessage() for r in caplog.records}
    assert sorted(r.name for r in caplog.records) == LOGGERS
    assert told["onnx_ocs.calibration"].endswith("on 32 samples")
    assert told["onnx_ocs.passmanager"].startswith("passes: translate changed the model (")
    assert f"{done.report['plan']['chosen']}" in told["onnx_ocs.planning"]
    assert told["onnx_ocs.verification"].startswith("verification: PASSED")
    assert capfd.readouterr() == ("", "")


def test_details_for_who_asks(
    model: onnx.ModelProto, calib: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "onnx_ocs"):
        report = onnx_ocs.rewrite(model, calib=calib).report
    said = [r.getMessage() for r in caplog.records if r.name == "onnx_ocs.passmanager" and r.levelno == logging.DEBUG]
    places = [r["tensor"] for r in report["regions"]] + [r["layer"] for r in report["reconstructions"]]
    assert len(said) == len(places)
    assert all(f"'{place}' " in line for place, line in zip(places, said, strict=True))


def test_plans_that_are_only_tried_are_no_news(
    model: onnx.ModelProto, calib: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    options = onnx_ocs.PlanOptions(target=onnx_ocs.Target("sqnr", 40.0), budget=0.5, effort="quick")
    with caplog.at_level(logging.INFO, "onnx_ocs"):
        report = onnx_ocs.rewrite(model, calib=calib, options=replace(options, copies=1)).report
    assert len(report["plan"]["target"]["probes"]) > 1
    assert sum(r.name == "onnx_ocs.passmanager" for r in caplog.records) == 1
