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
from heads import detector, hits, two_heads

import onnx_ocs
from onnx_ocs.errors import UserError, VerificationError
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import PassResult
from onnx_ocs.verbs import rewrite as verb


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return zoo.build("conv_relu_conv")[0]


@pytest.fixture(scope="module")
def calib(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return feeds.inputs(model, 32)


@pytest.mark.parametrize("apart", [True, False], ids=["two outputs", "one output"])
def test_no_output_and_no_group_of_channels_gets_worse(apart: bool) -> None:
    """The step that is best for the one head ruins the other: none is taken that does not gain at both."""
    model, floats, calib = two_heads(apart)
    options = onnx_ocs.PlanOptions(budget=0.1)
    done = onnx_ocs.rewrite(model, calib=calib, float_model=floats, options=options, passes=[Translate()])
    rows = done.report["outputs"] if apart else done.report["outputs"][0]["groups"]
    assert len(rows) == 2
    assert all(r["sqnr_after_db"] >= r["sqnr_before_db"] - 0.1 for r in rows)
    held = {k: v + 0.1 for k, v in feeds.inputs(model, 16).items()}
    models = floats, model, done.model
    truth, before, after = (np.split(np.concatenate(zoo.execute(m, held), 1), [4], 1) for m in models)
    for t, b, a in zip(truth, before, after, strict=True):
        assert np.square(t - a).sum() <= 1.05 * np.square(t - b).sum(), "on samples that nobody has seen"


class Harmful:
    """A pass that makes one output worse: the scores' weights are turned around."""

    name, version = "harmful", "1"

    def run(self, model: onnx.ModelProto, context: Any) -> Any:
        t = next(t for t in model.graph.initializer if t.name == "scores_w")
        if context.again:
            return PassResult(False)
        t.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(t), "scores_w"))
        return PassResult(True, [{"tensor": "t", "status": "applied", "reason": None, "copies": [], "copies_low": []}])


def test_what_alone_does_no_harm_is_kept() -> None:
    """One of two passes ruins an output: the other one is applied, and the report says what was dropped, and why."""
    model, floats, calib = two_heads()
    wider = Translate(mode="late", copies=3, ratio=1.0)
    done = onnx_ocs.rewrite(model, calib=calib, float_model=floats, passes=[Harmful(), wider], verify=False)
    assert done.changed
    boxes, scores = done.report["outputs"]
    assert scores["sqnr_after_db"] > scores["sqnr_before_db"] + 1 and boxes["sqnr_after_db"] >= boxes["sqnr_before_db"]
    note = next(n for n in done.report["notes"] if "left out" in n)
    assert note.startswith(f"with the pass 'harmful' the rewrite lost on the calibration data ('{scores['name']}' ")
    assert any(r["status"] == "applied" for r in done.report["regions"])
    alone = onnx_ocs.rewrite(model, calib=calib, float_model=floats, passes=[wider], verify=False)
    assert alone.model.SerializeToString() == done.model.SerializeToString()


def test_nothing_is_kept_where_every_part_loses(tmp_path: Path) -> None:
    model, floats, calib = two_heads()
    source = tmp_path / "in.onnx"
    onnx.save(model, source)
    passes = [Harmful(), Translate(ratio=0.0)]
    done = onnx_ocs.rewrite(source, tmp_path / "o.onnx", calib=calib, float_model=floats, passes=passes)
    assert not done.changed and (tmp_path / "o.onnx").read_bytes() == source.read_bytes()
    (lost,) = [r for r in done.report["regions"] if (r["reason"] or {}).get("code") == "loses"]
    assert lost["tensor"] == "t" and "so it was not applied" in lost["reason"]["message"]


def test_the_users_metric_decides() -> None:
    """A detector's hit rate: boxes count, scores do not; labels come with the samples."""
    model, floats, calib = detector()
    options = onnx_ocs.PlanOptions(budget=0.0)
    kept = onnx_ocs.rewrite(model, calib=calib, float_model=floats, options=options, passes=[Translate()])
    judging = onnx_ocs.Judging(metric=hits)
    done = onnx_ocs.rewrite(
        model, calib=calib, float_model=floats, options=options, passes=[Translate()], judging=judging
    )
    q, p = done.report["quality"], done.report["plan"]
    assert not kept.changed and "metric_after" not in kept.report["quality"]
    assert done.changed and q["metric_after"] > q["metric_before"] + 0.05
    assert p["objective"] == "metric" and all(0 <= c["metric"] <= 1 for c in p["candidates"].values())
    labels = {"truth": calib["truth"]}
    found = [zoo.execute(m, {"x": calib["x"]}) for m in (model, done.model)]
    own = [hits(dict(zip("ab", f, strict=True)), {}, labels) for f in found]
    np.testing.assert_allclose(own, [q["metric_before"], q["metric_after"]], atol=0.01)
    scores = done.report["outputs"][1]
    assert scores["sqnr_after_db"] < scores["sqnr_before_db"], "or nothing was decided"


@pytest.mark.parametrize("given", [True, False], ids=["float model", "no float model"])
def test_an_excluded_output_may_get_worse(given: bool) -> None:
    model, floats, calib = two_heads()
    scores = model.graph.output[1].name
    done = onnx_ocs.rewrite(
        model, calib=calib, float_model=floats if given else None, options=onnx_ocs.PlanOptions(), passes=[Translate()],
        judging=onnx_ocs.Judging(excluded=(scores,)),
    )  # fmt: skip
    boxes, other = done.report["outputs"]
    assert done.changed and boxes["sqnr_after_db"] > boxes["sqnr_before_db"] + 3
    assert (boxes["weight"], other["weight"]) == (1.0, 0.0)


def test_a_target_of_the_users_metric() -> None:
    model, floats, calib = detector()
    options = onnx_ocs.PlanOptions(budget=1.0, target=onnx_ocs.Target("metric", 0.97))
    done = onnx_ocs.rewrite(
        model, calib=calib, float_model=floats, options=options, passes=[Translate()],
        judging=onnx_ocs.Judging(metric=hits),
    )  # fmt: skip
    target = done.report["target"]
    assert target["reached"] and target["got"] == done.report["quality"]["metric_after"] >= 0.97
    missed = onnx_ocs.Target("metric", 2.0).outcome(0.97)["shortfall"]
    assert missed == "the target was missed: a metric of 0.97 instead of 2"


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
        patch.setattr("onnx_ocs.verbs.gain.losing", lambda *_: "everything")
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

MANAGER = "onnx_ocs.passmanager"
LOGGERS = ["onnx_ocs.calibration", MANAGER, MANAGER, "onnx_ocs.planning", "onnx_ocs.verification"]


@pytest.mark.parametrize("name", ["conv_relu_conv", "three_layers"])
def test_one_line_each(name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Manager, planner, calibration, verification: a line each time they are asked (the manager also before the plan),
    however large the graph is; nothing is printed."""
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
    assert sum(r.name == MANAGER for r in caplog.records) == 2  # before the plan and behind it
