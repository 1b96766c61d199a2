"""Numbers of channels that hardware likes: `align`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnx_ocs
from onnx_ocs.passes.translate import Translate
from onnx_ocs.translation.selection import aligned

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
    options = onnx_ocs.PlanOptions(budget=0.2, align=4)
    calib = str(MODELS / "digits.calib.npz")
    result = onnx_ocs.rewrite(DIGITS, calib=calib, limit=32, options=options)
    found, cost = applied(result.report), result.report["cost"]
    assert found and all(n and (c + n) % 4 == 0 for c, n in found)
    assert cost["macs_after"] <= 1.2 * cost["macs_before"]
    assert result.report["verification"]["verdict"] == "PASSED"
