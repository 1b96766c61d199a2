"""A few random graphs; `python tests/whole/properties.py` looks at thousands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from properties import (
    COMMON,
    all_cases,
    cases,
    check,
    check_all,
    check_planned,
    check_refitted,
    planned_cases,
    refitted_cases,
)

from onnx_ocs.passes import Pass


@settings(max_examples=30, derandomize=True, **COMMON)
@cases
def test_random_graphs(graph: Any, ratio: float, copies: int, mode: Any, verify: bool) -> None:
    check(*graph, ratio, copies, mode, verify)


@settings(max_examples=15, derandomize=True, **COMMON)
@planned_cases
def test_random_graphs_planned(graph: Any, budget: float, mode: Any, effort: Any, seed: int) -> None:
    check_planned(*graph, budget, mode, effort, seed)


@settings(max_examples=6, derandomize=True, **COMMON)
@all_cases
def test_random_graphs_by_all_passes(graph: Any, first: Pass, seed: int) -> None:
    check_all(*graph, first, seed)


@settings(max_examples=3, derandomize=True, **COMMON)
@refitted_cases
def test_random_graphs_refitted(graph: Any, ratio: float, copies: bool, seed: int) -> None:
    check_refitted(*graph, ratio, copies, seed)


def test_a_wrong_result_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of the result is changed: the property must not hold."""
    import properties

    genuine = properties.execute
    seen = []

    def wrong(model: Any, feed: Any) -> Any:
        found = genuine(model, feed)
        if any(p.key == "onnx_ocs.passes" for p in model.metadata_props):
            seen.append(1)
            found = {k: v + np.float32(2**-16) for k, v in found.items()}
        return found

    monkeypatch.setattr(properties, "execute", wrong)

    @settings(max_examples=60, derandomize=True, phases=[Phase.generate], **COMMON)
    @cases
    def hold(graph: Any, ratio: float, copies: int, mode: Any, verify: bool) -> None:
        check(*graph, ratio, copies, mode, False)

    with pytest.raises(AssertionError, match="not what the oracle is"):
        hold()
    assert seen
