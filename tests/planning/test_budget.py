"""Within a budget by the real cost, and worth it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from planned import DIGITS, NETS, carried_out, extra_macs, mean_copies, not_worse, plan

from onnx_ocs.measurement.latency import Compared
from onnx_ocs.model.files import fingerprint
from onnx_ocs.planning import budget as spending
from onnx_ocs.planning import make
from onnx_ocs.planning.prices import Price
from onnx_ocs.planning.timely import RAISES, SLOWER

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.3])
def test_budget_on_digits(folder: Path, budget: float) -> None:
    made, found = plan("digits", folder, budget=budget)
    result = carried_out("digits", folder, made)
    spent = extra_macs(result.report)
    assert spent <= budget + 1e-9
    assert spent == pytest.approx(made.predicted["extra_macs"], abs=1e-6)
    assert spent >= 0.5 * budget, "money was left"
    assert made.model == fingerprint(onnx.load(DIGITS))
    assert not_worse(result.report)
    assert made.predicted["objective_after"] < made.predicted["objective_before"]
    assert found["before"][0] == made.predicted["objective_before"]


@pytest.mark.parametrize("name", NETS)
def test_budget_on_small_networks(folder: Path, name: str) -> None:
    """Whatever stands between a tensor and its readers, the prediction is what the rewritten model costs."""
    made, _ = plan(name, folder, budget=0.4)
    result = carried_out(name, folder, made)
    assert result.changed
    assert extra_macs(result.report) <= 0.4 + 1e-9
    assert extra_macs(result.report) == pytest.approx(made.predicted["extra_macs"], abs=2e-3)
    assert not_worse(result.report)
    gain = result.report["quality"]["sqnr_after_db"] - result.report["quality"]["sqnr_before_db"]
    assert gain > 1, "all of these clip a fifth of their values"


@pytest.mark.parametrize(
    ("name", "ratio"), [("digits", 0.5), ("residual", 0.05), ("residual", 0.5), ("concat_wide", 0.5)]
)
def test_ratio(folder: Path, name: str, ratio: float) -> None:
    made, _ = plan(name, folder, budget=None, ratio=ratio)
    result = carried_out(name, folder, made)
    channels = sum(e["channels"] or 0 for e in result.report["regions"] if e["consumers"])
    assert mean_copies(made, channels) <= ratio + 1e-9
    assert made.predicted["mean_copies"] <= ratio + 1e-9
    assert not_worse(result.report)
    if ratio == 0.5:
        assert mean_copies(made, channels) > 0.1


@pytest.mark.parametrize("name", ["digits", "residual", "depthwise"])
def test_budget_is_kept_and_pays(folder: Path, name: str) -> None:
    values = []
    for budget in (0.0, 0.02, 0.1, 0.3):
        made, _ = plan(name, folder, budget=budget, rescale=name != "residual")  # a coarser step is enough there
        assert made.predicted["extra_macs"] <= budget + 1e-9
        values.append(made.predicted["objective_after"])
        assert values[-1] <= made.predicted["objective_before"] * (1 + 1e-9)
    assert min(values[1:]) < values[0]


def test_no_budget_at_all(folder: Path) -> None:
    """Other steps cost nothing; without them there is nothing to do."""
    made, _ = plan("residual", folder, budget=0.0)
    assert not any(r.copies.any() or r.copies_low.any() for r in made.regions)
    assert extra_macs(carried_out("residual", folder, made).report) == 0
    made, _ = plan("residual", folder, budget=0.0, rescale=False)
    assert made.regions == ()
    result = carried_out("residual", folder, made)
    assert not result.changed and result.model is not None


@pytest.mark.parametrize("name", ["qcdq2_residual", "matmul_gelu"])
def test_most_copies(folder: Path, name: str) -> None:
    for copies in (1, 2):
        made, _ = plan(name, folder, budget=2.0, copies=copies)
        assert max(max(r.copies.max(), r.copies_low.max()) for r in made.regions) <= copies


def test_a_limit_of_time_is_measured_and_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each plan is timed; what takes too long is cut back, and what is left at last adds no copies."""
    even = lambda _m, _g, _s, candidates, *_: {c.index: Price(0.0, 0.02) for c in candidates if c.shares}  # noqa: E731
    monkeypatch.setattr(make, "find_prices", even)
    ratios = iter([1.8, 1.23, 1.17])
    monkeypatch.setattr(spending, "compared", lambda *_: Compared(1.0, 1.0, next(ratios), 0.02))
    _made, found = plan("residual", folder, budget=None, max_latency=1.2)
    log = found["time"]["measured"]
    assert [m["ratio"] for m in log] == [1.8, 1.23, 1.17] and found["time"]["limit"] == 1.2
    allowed = [m["allowed"] for m in log]
    assert allowed == sorted(allowed, reverse=True) and allowed[1] < allowed[0] * 0.2 / 0.8
    monkeypatch.setattr(spending, "compared", lambda *_: Compared(1.0, 9.0, 9.0, 0.0))
    none, found = plan("residual", folder, budget=None, max_latency=1.3)
    assert 1 <= len(found["time"]["measured"]) <= SLOWER + RAISES
    assert not any(r.copies.any() or r.copies_low.any() for r in none.regions)


def test_steps_alone_are_not_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "compared", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(make, "find_prices", lambda *_: pytest.fail("priced"))
    first, found = plan("residual", folder, budget=0.0, max_latency=1.1)
    second, _ = plan("residual", folder, budget=0.0)
    assert first.digest() == second.digest() and first.regions and not found["time"]["measured"]
