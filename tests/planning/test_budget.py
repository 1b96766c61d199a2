"""Within a budget by the real cost, and worth it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from planned import DIGITS, NETS, carried_out, extra_macs, mean_copies, not_worse, plan

from onnx_ocs.model.files import fingerprint

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
        made, _ = plan(name, folder, budget=budget)
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
