"""What a plan may change."""

from __future__ import annotations

import pytest

from onnx_ocs.planning.options import PlanOptions


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (PlanOptions(), {"a", "ab", "b"}),
        (PlanOptions(include=("a*",)), {"a", "ab"}),
        (PlanOptions(exclude=("a*",)), {"b"}),
        (PlanOptions(include=("a*", "b"), exclude=("ab",)), {"a", "b"}),
        (PlanOptions(include=("c",)), set()),
    ],
)
def test_include_and_exclude(options: PlanOptions, allowed: set[str]) -> None:
    assert {t for t in ("a", "ab", "b") if options.allows(t)} == allowed
