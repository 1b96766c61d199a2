"""What a file costs, in words."""

from __future__ import annotations

from onnx_ocs.report.costs import COSTS, MORE_IS_BETTER, latency_label, told_change


def test_shares_and_numbers() -> None:
    assert told_change("macs", 200, 210) == "+5.0 %"
    assert told_change("nodes", 0, 3) == "+3"
    assert told_change("integer_kernels", 8, 7) == "-1" and told_change("transposes", 11, 11) == "+0"


def test_what_is_better_has_a_name() -> None:
    assert set(MORE_IS_BETTER) < set(COSTS)


def test_another_runtime_is_named() -> None:
    assert latency_label({}) == latency_label({"runtime": None}) == latency_label({"runtime": "onnxruntime"})
    assert latency_label({"runtime": "OpenVINO"}) == "latency in OpenVINO, one thread"
