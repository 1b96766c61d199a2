"""The verb plan: a plan is data, and what it promises is what rewrite measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import feeds
import numpy as np
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.regrid import Regrid
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass, run_passes
from onnx_ocs.planning.options import LATENCY, PlanOptions
from onnx_ocs.verbs import plan as module
from onnx_ocs.verbs.plan import Measured, by_plan, unsaid

OPTIONS = onnx_ocs.PlanOptions(budget=0.5, effort="quick")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return zoo.build("conv_relu_conv")[0]


@pytest.fixture(scope="module")
def calib(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return feeds.inputs(model, 32)


def test_the_plan_that_rewrite_makes(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    made, found = onnx_ocs.plan(model, calib, OPTIONS)
    done = onnx_ocs.rewrite(model, calib=calib, options=OPTIONS, verify=False)
    again = onnx_ocs.rewrite(model, passes=[Translate(plan=made)], verify=False)
    assert made.regions and done.report["plan"]["chosen"] == found["chosen"] == made.predicted["chosen"]
    assert done.model.SerializeToString(deterministic=True) == again.model.SerializeToString(deterministic=True)


def test_a_plan_is_measured_as_the_report_will_say_it(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    made, _ = onnx_ocs.plan(model, calib, OPTIONS)
    quality = Measured(model, [Translate()], Context(open_samples(calib, model)))(made)
    report = onnx_ocs.rewrite(model, calib=calib, passes=[Translate(plan=made)], verify=False).report
    assert report["ranking"] == "a plan that was made before"
    assert quality.sqnr_db == report["quality"]["sqnr_after_db"]
    assert [o.sqnr_db for o in quality.outputs] == [o["sqnr_after_db"] for o in report["outputs"]]


def test_what_was_measured_is_not_made_again(
    model: onnx.ModelProto,
    calib: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, _ = onnx_ocs.plan(model, calib, OPTIONS)
    plans = [replace(whole, regions=r) for r in (whole.regions, whole.regions[:1], whole.regions[1:])]
    assert len({p.digest() for p in plans}) == len(plans)
    ran: list[str] = []

    def counted(given: onnx.ModelProto, passes: Sequence[Pass], *args: object) -> object:
        ran.append(next(p.plan.digest() for p in passes if isinstance(p, Translate) and p.plan))
        return run_passes(given, passes, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run_passes", counted)
    measure = Measured(model, [Translate()], Context(open_samples(calib, model)))
    for p in plans:
        measure(p)
    caplog.set_level("INFO", "onnx_ocs")
    first, *kept = plans  # the two latest are kept
    plans = [*kept, first]
    made = [measure.carried_out(p)[0] for p in plans]
    assert ran == [p.digest() for p in (first, *kept, first)]
    assert sum("translate changed the model" in r.message for r in caplog.records) == len(plans)
    again = [onnx_ocs.rewrite(model, passes=[Translate(plan=p)], verify=False).model for p in plans]
    assert [m.SerializeToString(deterministic=True) for m in made] == [
        m.SerializeToString(deterministic=True) for m in again
    ]


def test_plans_are_compared_without_the_refinement(
    model: onnx.ModelProto, calib: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_ocs.reconstruction.train.check_torch", lambda: None)  # nothing is trained here
    made, _ = onnx_ocs.plan(model, calib, OPTIONS)
    asked: list[str | None] = []

    def refined(given: onnx.ModelProto, passes: Sequence[Pass], *_: object) -> object:
        asked.extend(p.refine for p in passes if isinstance(p, Reconstruct))
        return given, {}

    monkeypatch.setattr(module, "run_passes", refined)
    for refine, wanted in (("30m", [None, "30m"]), (None, [None])):
        measure = Measured(model, [Translate(), Reconstruct(refine=refine)], Context(open_samples(calib, model)))
        measure(made)
        measure.carried_out(made)
        assert asked == wanted
        asked.clear()


def test_only_translate_follows_a_plan(model: onnx.ModelProto, calib: dict[str, np.ndarray]) -> None:
    made, _ = onnx_ocs.plan(model, calib, OPTIONS)
    translate, compensate = by_plan([Translate(ratio=0.1), Compensate()], made)
    assert isinstance(translate, Translate) and translate.plan is made and translate.ratio == 0.1
    assert compensate == Compensate()


def test_samples_of_another_model(model: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match="lacks input 'x'"):
        onnx_ocs.plan(model, {"pixels": np.zeros((4, 8), np.float32)}, OPTIONS)


def test_what_is_planned_where_nobody_says_so() -> None:
    """From Python as on the command line; a `Translate` that the caller made goes by its own ratio."""
    usual = PlanOptions(max_latency=LATENCY)
    assert unsaid(None, [Regrid(), Translate()]) == unsaid("translate", [Translate()]) == usual
    assert unsaid(["translate"], [Translate()]) == usual
    own = Translate(ratio=0.25)
    assert unsaid([own], [own]) is None and unsaid([own, "reconstruct"], [own, Reconstruct()]) is None
    assert unsaid("reconstruct", [Reconstruct()]) is None


def test_a_rewrite_plans_as_the_command_line_does() -> None:
    model = zoo.build("conv_relu_conv")[0]
    calib = feeds.inputs(model, 32)
    report = onnx_ocs.rewrite(model, calib=calib, passes="translate", verify=False).report
    assert report["ranking"].startswith("planned by measured error") and report["latency"]["limit"] == LATENCY
    assert report["ranking"].endswith(", 32 samples)")
    assert all(not any(r["copies"]) for r in report["regions"] if r["status"] == "applied")
    assert "plan" not in onnx_ocs.rewrite(model, calib=calib, passes=[Translate()], verify=False).report
