"""What a file costs, in words."""

from __future__ import annotations

from onnx_ocs.report.costs import COSTS, MORE_IS_BETTER, told_change


def test_shares_and_numbers() -> None:
    assert told_change("macs", 200, 210) == "+5.0 %"
    assert told_change("nodes", 0, 3) == "+3"
    assert told_change("integer_kernels", 8, 7) == "-1" and told_change("transposes", 11, 11) == "+0"


def test_what_is_better_has_a_name() -> None:
    assert set(MORE_IS_BETTER) < set(COSTS)
