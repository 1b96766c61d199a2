"""What a report says of a limit of time."""

from __future__ import annotations

import onnx
import pytest

from onnx_ocs.calibration.context import Context
from onnx_ocs.measurement.cost import Cost
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.passmanager import PassResult
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verbs import limits
from onnx_ocs.verbs.limits import kernel_notes, time_notes, what_is_left
from onnx_ocs.verbs.outcome import Outcome, Prepared

MEASURED = [
    {"allowed": 0.3, "ratio": 1.4, "tolerance": 0.02, "limit": 1.2},
    {"allowed": 0.1, "ratio": 1.1, "tolerance": 0.02, "limit": 1.2},
]
TIMED = {"time": {"limit": 1.2, "measured": MEASURED}}
LIMITED = PlanOptions(budget=None, max_latency=1.2)


def test_time_that_decided_is_told() -> None:
    done = Outcome(onnx.ModelProto(), True, planned=TIMED, latency=Compared(1.0, 1.1, 1.1, 0.01))
    (note,) = time_notes(done, LIMITED)
    assert note.startswith("the plan was timed 2 times until it held x 1.2 (x 1.10, to 0.02): time decided")


def test_plans_that_all_took_too_long_are_told() -> None:
    time = {"limit": 1.3806, "measured": [{"allowed": 3.0, "ratio": 4.0, "tolerance": 0.02, "limit": 1.38064}]}
    (note,) = time_notes(Outcome(onnx.ModelProto(), True, planned={"time": time}), PlanOptions(pace=1.15))
    assert note.startswith("copies were left out: what was timed, 1 time, took longer than x 1.38: time decided")


def test_the_file_is_held_to_what_was_asked_for() -> None:
    """A plan may have less, behind 16 bits and while passes are chosen."""
    lower = {"time": {"limit": 1.05, "measured": []}}
    done = Outcome(onnx.ModelProto(), True, planned=lower, latency=Compared(1.0, 1.08, 1.08, 0.001))
    assert time_notes(done, LIMITED) == []
    (note,) = time_notes(done, PlanOptions(pace=1.15))
    assert note.endswith("more than x 1.05")


def test_a_file_that_takes_longer_after_all_is_told() -> None:
    """Such as branches, which no plan counts."""
    done = Outcome(onnx.ModelProto(), True, latency=Compared(1.0, 1.5, 1.5, 0.1))
    (note,) = time_notes(done, LIMITED)
    assert note == "the finished file takes x 1.50 of the time, which is more than x 1.2"


@pytest.mark.parametrize("options", [None, PlanOptions(), LIMITED])
def test_nothing_to_tell(options: PlanOptions | None) -> None:
    assert time_notes(Outcome(onnx.ModelProto(), True, latency=Compared(1.0, 1.25, 1.25, 0.1)), options) == []
    assert time_notes(Outcome(onnx.ModelProto(), False, latency=None, planned=TIMED), options) == []


def test_operators_that_left_the_integers_are_told() -> None:
    before = Cost(1, 1, 1, 1, 8, 20, 3)
    assert kernel_notes((before, before), None) == []
    (note,) = kernel_notes((before, Cost(1, 1, 1, 1, 7, 19, 3)), None)
    assert note.startswith("1 of 8 layers with integer kernels")
    assert note.endswith("the mode 'integer' makes no copies there")
    shorts = [{"edit": "bits16", "status": "applied"}]
    (note,) = kernel_notes((before, Cost(1, 1, 1, 1, 7, 19, 3)), None, shorts)
    assert note.endswith("it has none for 16 bits")
    (note,) = kernel_notes((before, Cost(1, 1, 1, 1, 8, 15, 30)), None)
    assert note.startswith("onnxruntime runs 15 of 20 operators on integers now, with 30 Transposes instead of 3")
    (note,) = kernel_notes((before, before), {"kept": True, "why": "for a reason", "gain_db": 0.1})
    assert note == "copies were left out: for a reason"


def test_a_plan_has_the_time_that_16_bits_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "first_sample", lambda *_: {})
    monkeypatch.setattr(limits, "compared", lambda *_: Compared(1.0, 1.1, 1.1, 0.0))
    monkeypatch.setattr(Prepared, "fed", None)
    ready = Prepared(onnx.ModelProto(), None, Context(), (), False)
    shorts = {"regrid": PassResult(True, grids=[{"edit": "bits16", "status": "applied"}])}
    other = {"regrid": PassResult(True, grids=[{"edit": "split", "status": "applied"}])}
    assert what_is_left(ready, onnx.ModelProto(), shorts, LIMITED) == pytest.approx(1.2 / 1.1)
    assert what_is_left(ready, onnx.ModelProto(), other, LIMITED) == 1.2
    assert what_is_left(ready, onnx.ModelProto(), shorts, PlanOptions(max_latency=1.05)) == 1.0
    assert what_is_left(ready, onnx.ModelProto(), shorts, PlanOptions()) is None
    qnn = PlanOptions(budget=None, max_latency=1.2, runtime="qnn")
    assert what_is_left(ready, onnx.ModelProto(), shorts, qnn) == 1.2, "16 bits cost nothing there"
    slow = Outcome(onnx.ModelProto(), True, latency=Compared(1.0, 1.5, 1.5, 0.1), grids=tuple(shorts["regrid"].grids))
    (note,) = time_notes(slow, qnn)
    assert "x 1.50 of the time in onnxruntime on this CPU, which has no integer kernels for 16 bits" in note
