"""What loses in the runtime that a rewrite is for is not applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_ocs
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Regrid, Translate
from onnx_ocs.targets import timing
from onnx_ocs.targets.timing import Timing
from onnx_ocs.verbs import on_target

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS, CALIB = MODELS / "digits.w8a2.onnx", MODELS / "digits.calib.npz"
PIXELS = {"pixels": np.load(CALIB)["pixels"][:32]}


def rewritten(monkeypatch: pytest.MonkeyPatch, load: Any) -> Any:
    """A rewrite for a target that is installed, and run by `load`."""
    monkeypatch.setattr(on_target, "timing_of", lambda runtime: Timing("a board", load))
    return onnx_ocs.rewrite(str(DIGITS), calib=PIXELS, passes=[Translate(ratio=1.0, runtime="openvino")], verify=False)


def is_original(model: onnx.ModelProto) -> bool:
    return len(model.graph.node) == len(onnx.load(DIGITS).graph.node)


def test_both_models_are_run_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With onnxruntime as the other runtime the figures are about those of the files as they are written."""
    done = rewritten(monkeypatch, timing.ONNXRUNTIME.load)
    there, here = done.report["on_target"], done.report["outputs"]
    assert done.changed and there["runtime"] == "a board"
    for a, b in zip(there["outputs"], here, strict=True):
        for key in ("sqnr_before_db", "sqnr_after_db"):
            assert a[key] == pytest.approx(b[key], abs=0.5)
    assert done.report["verdict"]["brought"][-1].startswith("in a board ")


def test_what_loses_there_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: onnx.ModelProto) -> Any:
        run, wrong = timing.ONNXRUNTIME.load(model), not is_original(model)
        return lambda feed: {k: -np.asarray(v) if wrong else v for k, v in run(feed).items()}

    done = rewritten(monkeypatch, load)
    assert not done.changed and "on_target" not in done.report
    assert any("lost in a board on the calibration data (" in n for n in done.report["notes"])


def test_a_runtime_that_computes_something_else_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model itself is garbage there, and the rewritten one more so."""

    def load(model: onnx.ModelProto) -> Any:
        run, factor = timing.ONNXRUNTIME.load(model), -1 if is_original(model) else -9
        return lambda feed: {k: factor * np.asarray(v) for k, v in run(feed).items()}

    done = rewritten(monkeypatch, load)
    assert done.changed and "on_target" not in done.report
    assert any("a board computes something else than the model says" in n for n in done.report["notes"])


def test_samples_are_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()

    def load(model: onnx.ModelProto) -> Any:
        run = timing.ONNXRUNTIME.load(model)
        return lambda feed: sizes.add(len(feed["pixels"])) or run(feed)

    assert rewritten(monkeypatch, load).changed and sizes == {1}


def test_what_the_user_says_holds_whatever_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(on_target, "timing_of", lambda r: asked.append(r) or timing.ONNXRUNTIME)
    onnx_ocs.rewrite(str(DIGITS), calib=PIXELS, passes="reconstruct", verify=False, runtime="openvino")
    assert asked and set(asked) == {"openvino"}


def test_what_does_not_run_there_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: onnx.ModelProto) -> Any:
        if not is_original(model):
            raise UserError("no such operator")
        return timing.ONNXRUNTIME.load(model)

    done = rewritten(monkeypatch, load)
    assert not done.changed
    assert any("does not run in a board as the model did (no such operator)" in n for n in done.report["notes"])


def test_a_model_that_never_ran_there_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: onnx.ModelProto) -> Any:
        raise UserError("no such operator")

    done = rewritten(monkeypatch, load)
    assert done.changed and "on_target" not in done.report
    assert "the quality in a board is not known: no such operator" in done.report["notes"]


def test_onnxruntime_is_asked_once() -> None:
    done = onnx_ocs.rewrite(str(DIGITS), calib=PIXELS, passes=[Translate(ratio=1.0)], verify=False)
    assert done.changed and "on_target" not in done.report


def test_in_openvino() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")
    passes = [Regrid(runtime="openvino"), Translate(ratio=1.0, runtime="openvino")]
    done = onnx_ocs.rewrite(str(DIGITS), calib=PIXELS, passes=passes, verify=False)
    (there,), (here,) = done.report["on_target"]["outputs"], done.report["outputs"]
    assert done.changed and done.report["on_target"]["runtime"] == "OpenVINO"
    assert there["sqnr_after_db"] == pytest.approx(here["sqnr_after_db"], abs=1.0)
    assert there["sqnr_after_db"] > there["sqnr_before_db"] + 3
