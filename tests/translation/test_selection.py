"""Which channels are widened: those with most mass, as many as asked for, in numbers that hardware likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from regions_of import graph_and_regions

import onnx_ocs
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.outliers import Outliers
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.passes.translate import Translate
from onnx_ocs.refusals import Refusal
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.selection import Selection, aligned, find_outliers

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS = MODELS / "digits.w8a2.onnx"


@pytest.mark.parametrize(
    ("copies", "channels", "align", "most", "expected"),
    [
        (3, 16, 8, 16, 8),
        (8, 16, 8, 16, 8),
        (9, 16, 8, 16, 16),
        (3, 20, 8, 20, 4),
        (5, 20, 8, 20, 12),
        (9, 16, 8, 15, 8),  # 16 cannot be made
        (3, 16, 8, 7, 0),
        (3, 7, 32, 20, 0),
        (5, 16, 1, 16, 5),
    ],
)
def test_next_number(copies: int, channels: int, align: int, most: int, expected: int) -> None:
    assert aligned(copies, channels, align, most) == expected


def applied(report: dict[str, Any]) -> list[tuple[int, int]]:
    wide = [e for e in report["regions"] if e["status"] == "applied" and e["mode"] in ("early", "late")]
    return [(e["channels"], sum(e["copies"]) + sum(e["copies_low"])) for e in wide]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("mode", ["auto", "late"])
def test_the_papers_rule(ratio: float, mode: Any) -> None:
    plain = applied(onnx_ocs.rewrite(DIGITS, passes=[Translate(ratio, mode=mode)], verify=False).report)
    result = onnx_ocs.rewrite(DIGITS, passes=[Translate(ratio, mode=mode, align=8)])
    assert result.verification is not None and result.verification.verdict == "PASSED"
    found = applied(result.report)
    assert any((c + n) % 8 for c, n in plain) and found
    assert all(n and (c + n) % 8 == 0 for c, n in found)
    assert all(n >= m for (_, n), (_, m) in zip(found, plain, strict=True))


def test_a_plan_keeps_its_budget() -> None:
    options = onnx_ocs.PlanOptions(budget=0.2, align=4, effort="quick")
    calib = str(MODELS / "digits.calib.npz")
    result = onnx_ocs.rewrite(DIGITS, calib=calib, limit=32, options=options)
    found, cost = applied(result.report), result.report["cost"]
    assert found and all(n and (c + n) % 4 == 0 for c, n in found)
    assert cost["macs_after"] <= 1.2 * cost["macs_before"]
    assert result.report["verification"]["verdict"] == "PASSED"


# ---- by mass --------------------------------------------------------------------------------------------------------


def decided(name: str, upper: Any, lower: Any = None, **options: Any) -> Decision | Refusal:
    """What is decided for relu1 where its channels have the given masses beyond the range, (C, copies)."""
    graph, regions = graph_and_regions(zoo.build(name)[0])
    every = list(regions.values())
    up = np.asarray(upper, float)
    low = np.zeros_like(up) if lower is None else np.asarray(lower, float)
    nothing = Outliers(np.zeros_like(up), np.zeros_like(up), 0.0, 0.0)
    outliers = {k: Outliers(up, low, 0.1, 0.1) if r.tensor == "relu1" else nothing for k, r in enumerate(every)}
    settings = {"ratio": 0.5, "copies": 1, "mode": "auto"} | options
    found = Selection(**settings).decide(graph, every, outliers)
    return found[[r.tensor for r in every].index("relu1")]


MASS = [[5], [1], [7], [0], [2], [8], [3], [0]]


@pytest.mark.parametrize(
    ("ratio", "copies"),
    [(0.125, [0, 0, 0, 0, 0, 1, 0, 0]), (0.25, [0, 0, 1, 0, 0, 1, 0, 0]), (0.5, [1, 0, 1, 0, 0, 1, 1, 0]),
     (1.0, [1, 1, 1, 0, 1, 1, 1, 0])],
)  # fmt: skip
def test_channels_with_most_mass_get_the_copies(ratio: float, copies: list[int]) -> None:
    d = decided("conv_relu_conv", MASS, ratio=ratio)
    assert isinstance(d, Decision) and d.mode == "early"
    assert d.copies.tolist() == copies and not d.copies_low.any()


def test_a_second_copy_competes_with_first_ones() -> None:
    """Its mass is what lies beyond it; the first copy's is all."""
    upper = np.zeros((8, 2))
    upper[0], upper[1], upper[2] = (1, 9), (4, 0), (2, 0)
    d = decided("conv_relu_conv", upper, ratio=0.375, copies=2)
    assert isinstance(d, Decision) and d.copies.tolist() == [2, 1, 0, 0, 0, 0, 0, 0]


def test_both_sides_count_in_late_mode() -> None:
    lower = [[0], [9], [0], [0], [0], [0], [0], [0]]
    d = decided("conv_relu_conv", MASS, lower, ratio=0.25, mode="late")
    assert isinstance(d, Decision) and d.mode == "late"
    assert d.copies.tolist() == [0, 0, 0, 0, 0, 1, 0, 0] and d.copies_low.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_a_halved_channel_has_one_copy_for_both_sides() -> None:
    lower = [[0], [9], [0], [0], [0], [0], [0], [0]]
    d = decided("conv_relu_conv", MASS, lower, ratio=0.25, halved=True, mode="late")
    assert isinstance(d, Decision) and d.halved
    assert d.copies.tolist() == [0, 1, 0, 0, 0, 1, 0, 0] and not d.copies_low.any()


def test_groups_get_the_same_number_each() -> None:
    d = decided("grouped", MASS, ratio=0.5)
    assert isinstance(d, Decision) and d.copies.tolist() == [1, 0, 1, 0, 0, 1, 1, 0]
    uneven = [[9], [8], [7], [6], [1], [2], [0], [0]]
    d = decided("grouped", uneven, ratio=0.5)
    assert isinstance(d, Decision) and d.copies.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


def test_equal_masses_go_to_the_first_channels() -> None:
    d = decided("conv_relu_conv", np.ones((8, 1)), ratio=0.25)
    assert isinstance(d, Decision) and d.copies.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "upper", "options", "code"),
    [
        ("conv_relu_conv", np.zeros((8, 1)), {}, "no_outliers"),
        ("conv_relu_conv", MASS, {"ratio": 0.05}, "ratio"),
        ("float_read", MASS, {"mode": "early"}, "mode"),
        ("float_read", MASS, {}, "late"),
    ],
)
def test_what_becomes_of_the_others(name: str, upper: Any, options: dict[str, Any], code: str) -> None:
    d = decided(name, upper, **options)
    assert d.mode == code if isinstance(d, Decision) else d.code == code


def test_outliers_are_measured_where_there_are_samples_and_estimated_where_not() -> None:
    model, feed = zoo.build("conv_relu_conv")
    graph, regions = graph_and_regions(model)
    every = list(regions.values())
    k = [r.tensor for r in every].index("relu1")
    shapes = []
    for context in (Context(), Context(open_samples(feed, model)), Context(open_samples({"x": 0 * feed["x"]}, model))):
        found = find_outliers(model, graph, every, 2, context)[k].upper
        shapes.append((found.shape, bool(found.any())))
    assert shapes == [((8, 2), True), ((8, 2), True), ((8, 2), False)]  # of zeros nothing is clipped
