"""Latency before and after, as the report has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_ocs
from onnx_ocs.measurement import latency
from onnx_ocs.measurement.latency import LONGER, LOOK, SECONDS, Compared, Looks, compared, decided, latencies
from onnx_ocs.passes.translate import Translate

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS, CALIB = MODELS / "digits.w8a2.onnx", str(MODELS / "digits.calib.npz")


def product(size: int) -> onnx.ModelProto:
    w = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    x, y = (helper.make_tensor_value_info(t, TensorProto.FLOAT, [1, "n", size]) for t in "xy")
    g = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [w])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_takes_longer() -> None:
    one = product(96)
    more = onnx.ModelProto()
    more.CopyFrom(one)
    del more.graph.node[:]
    for k in range(10):  # ten times the work
        ends = "x" if k == 0 else f"t{k - 1}", "y" if k == 9 else f"t{k}"
        more.graph.node.append(helper.make_node("MatMul", [ends[0], "w"], [ends[1]]))
    feed = {"x": np.ones((1, 256, 96), np.float32)}
    found = latencies([one, more], feed)
    assert found is not None and 0 < 3 * found[0] < found[1]
    same = latencies([one, one], feed)
    assert same is not None and 0.3 < same[1] / same[0] < 3
    slower, faster = compared(one, more, feed, 0.2), compared(more, one, feed, 0.2)
    assert slower is not None and faster is not None
    assert slower.ratio > 3 and slower.exceeds(2) and not slower.holds(2)
    assert faster.ratio < 0.5 and faster.holds(0.9) and not faster.exceeds(0.9)


def test_what_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = product(8), {"x": np.ones((1, 2, 8), np.float32)}
    assert latencies([model, model], {"x": np.ones((1, 2, 9), np.float32)}) is None
    broken = product(8)
    broken.graph.node[0].op_type = "NoSuchOperator"
    assert latencies([model, broken], feed) is None is compared(model, broken, feed)
    monkeypatch.setattr(latency, "LARGE", 16)
    assert latencies([model, model], feed) is None


def test_a_limit_is_held_with_the_tolerance_and_exceeded_beyond_it() -> None:
    found = Compared(1.0, 1.1, 1.1, 0.05)
    assert [found.holds(x) for x in (1.1, 1.16)] == [False, True]
    assert [found.exceeds(x) for x in (1.04, 1.1)] == [True, False]


def test_a_disturbed_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest run of each is what is compared, whatever else the machine did."""
    took = [[1.0, 1.0, 1.0, 9.0, 1.0, 1.0], [1.2, 7.0, 1.2, 1.2, 1.2, 8.0]]
    monkeypatch.setattr(latency, "_took", lambda *_: took)
    found = compared(product(8), product(8), {})
    assert found is not None and (found.ratio, found.tolerance) == (pytest.approx(1.2), pytest.approx(0.0))


@pytest.mark.parametrize(("late", "wanted"), [(1.0, 2 * LOOK), (1.02, 4 * LOOK)])
def test_runs_end_when_two_looks_agree(late: float, wanted: int) -> None:
    """Once the ratio stays where it is; not while shorter runs are still found."""
    looks, rounds = Looks(), 0
    before, after = [], []
    while not looks.enough([before, after]):
        rounds += 1
        before.append(1.0 if rounds > LOOK else late)
        after.append(1.2)
        assert rounds <= 5 * LOOK
    assert rounds == wanted


def test_models_that_disturbances_keep_apart_run_on() -> None:
    looks = Looks()
    uneven = [[1.0, 1.1, 1.0] * LOOK, [1.2, 1.2, 1.3] * LOOK]
    assert not any(looks.enough([t[:n] for t in uneven]) for n in range(1, 3 * LOOK))


def test_in_the_report() -> None:
    result = onnx_ocs.rewrite(DIGITS, calib=CALIB, limit=16, passes=[Translate()])
    time = result.report["latency"]
    assert 0.2 < time["ratio"] < 10 and time["tolerance"] >= 0 and time["limit"] is None
    for report in (
        onnx_ocs.rewrite(DIGITS, calib=CALIB, limit=16, passes=[Translate()], verify=False).report,
        onnx_ocs.inspect(DIGITS),
    ):
        assert report["latency"]["ratio"] is None


def test_what_one_look_cannot_tell_a_longer_one_does() -> None:
    asked: list[float] = []

    def looks(*found: Compared | None) -> Compared | None:
        answers = iter(found)
        asked.clear()

        def look(seconds: float) -> Compared | None:
            asked.append(seconds)
            return next(answers)

        return decided(look, 1.1)

    noisy, fast, slow = Compared(1.0, 1.1, 1.1, 0.2), Compared(1.0, 1.0, 1.0, 0.0), Compared(1.0, 2.0, 2.0, 0.0)
    for sure in (fast, slow, None):
        assert looks(sure) is sure and asked == [SECONDS]
    assert looks(noisy, slow) is slow and asked == [SECONDS, LONGER]
    assert looks(noisy, None) is noisy
