"""The option --target: one flag for all that ask it."""

from __future__ import annotations

import pytest

from onnx_ocs.cli.options import flags_of
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.targets import choice
from onnx_ocs.targets.choice import RUNTIME, SLACK, pace_of, time_of


def test_passes_and_plans_share_it() -> None:
    found = [next(f for f in flags_of(kind) if f.name == "--target") for kind in (Translate, PlanOptions)]
    assert all(f.option == RUNTIME and f.default == "ort" and "generic-int8" in f.choices for f in found)


def test_a_budget_bounds_the_time_where_nobody_counts_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: object())
    assert time_of("openvino", 0.25) == SLACK * 1.25
    assert time_of("openvino", 0.0) is time_of("openvino", None) is time_of("ort", 0.25) is None
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    assert time_of("openvino", 0.25) is None


@pytest.mark.parametrize("there", [True, False])
def test_who_is_held_to_multiply_accumulates(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: object() if there else None)
    assert pace_of("ort", 0.25, False) == pace_of("openvino", 0.25, False) == SLACK
    assert pace_of("ort", 0.25, True) is pace_of("qnn", 0.25, False) is pace_of("ort", 0.0, False) is None
    assert pace_of("ort", None, False) is None and pace_of("openvino", 0.25, True) == (SLACK if there else None)
