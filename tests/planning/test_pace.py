"""Plans that take far longer than their multiply-accumulates say are made again; others keep their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planned import carried_out, plan

from onnx_ocs.measurement.latency import Compared
from onnx_ocs.planning import budget as spending
from onnx_ocs.planning import make, pace
from onnx_ocs.planning.pace import FAR
from onnx_ocs.planning.prices import Price
from onnx_ocs.targets.choice import SLACK


def timed(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> None:
    found = iter(ratios)
    monkeypatch.setattr(spending, "compared", lambda *_: Compared(1.0, 1.0, next(found), 0.01))


@pytest.mark.parametrize("far", [1.0, 0.98 * FAR])
def test_what_is_near_stays(folder: Path, monkeypatch: pytest.MonkeyPatch, far: float) -> None:
    without, _ = plan("depthwise", folder, budget=0.4)
    timed(monkeypatch, far * (1 + without.predicted["extra_macs"]))
    assert without.predicted["extra_macs"] > 0
    made, found = plan("depthwise", folder, budget=0.4, pace=SLACK)
    assert made.digest() == without.digest() and "time" not in found


def test_what_is_far_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without, _ = plan("depthwise", folder, budget=0.39)
    timed(monkeypatch, 4.0, 1.7, *(1.2,) * 9)
    made, found = plan("depthwise", folder, budget=0.39, pace=SLACK)
    measured = found["time"]["measured"]
    assert [m["ratio"] for m in measured[:3]] == [4.0, 1.7, 1.2]
    assert measured[0]["limit"] == pytest.approx(FAR * (1 + without.predicted["extra_macs"]), rel=1e-3)
    assert made.predicted["extra_macs"] < without.predicted["extra_macs"]
    assert found["time"]["limit"] == pytest.approx(SLACK * (1 + made.predicted["extra_macs"]), rel=1e-3)


@pytest.mark.parametrize("options", [{"budget": 0.0, "pace": SLACK}, {"budget": 0.4}, {"budget": None, "ratio": 0.5}])
def test_nobody_asks(folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.setattr(spending, "compared", lambda *_: pytest.fail("timed"))
    made, _ = plan("residual", folder, **options)
    assert made.regions


def test_kernels_are_weighed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report says of kernels is said of the plan that is taken."""
    even = lambda _m, _g, _s, candidates, *_: {c.index: Price(0.0, 0.02) for c in candidates if c.shares}  # noqa: E731
    monkeypatch.setattr(make, "find_prices", even)
    timed(monkeypatch, 4.0, *(1.0,) * 30)
    monkeypatch.setattr(pace, "MOVED", 1e9)
    made, found = plan("digits", folder, budget=0.4, rescale=False, pace=SLACK)
    result = carried_out("digits", folder, made)
    cost = result.report["cost"]
    lost = cost["integer_operators_before"] - cost["integer_operators_after"]
    assert found["time"]["measured"][0]["ratio"] == 4.0
    assert not lost or not found["kernels"]["kept"], "kernels that are said to be kept are there"
