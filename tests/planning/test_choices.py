"""What may be spent, and what a plan does."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.planning.choices import Budget, Choice


@pytest.mark.parametrize(
    ("budget", "macs", "ratio", "allowed"),
    [
        (Budget(0.1), 0.1, 99.0, True),
        (Budget(0.1), 0.1001, 0.0, False),
        (Budget(None, 0.5), 99.0, 0.5, True),
        (Budget(None, 0.5), 0.0, 0.5001, False),
        (Budget(0.1, 0.5), 0.1, 0.6, False),
        (Budget(), 99.0, 99.0, True),
        (Budget(time=0.1), 99.0, 99.0, True),
        (Budget(0.0), 0.0, 0.0, True),
    ],
)
def test_what_is_allowed(budget: Budget, macs: float, ratio: float, allowed: bool) -> None:
    assert budget.allows(macs, ratio) is allowed


def test_rounding_is_not_held_against_a_plan() -> None:
    assert Budget(0.3).allows(0.1 + 0.2, 0.0)


def test_a_share_of_it() -> None:
    assert Budget(0.2, None).times(0.5) == Budget(0.1, None)
    assert Budget(0.2, 4.0).times(0.25) == Budget(0.05, 1.0)


def test_copies_of_both_sides_count() -> None:
    assert Choice(np.asarray(1.0), np.asarray([0, 2, 1]), np.asarray([1, 0, 0])).count == 4


def test_time_is_a_third_limit() -> None:
    assert Budget(0.1, None, 0.2).allows(0.1, 9.0, 0.2) and not Budget(0.1, None, 0.2).allows(0.1, 9.0, 0.21)
    assert Budget(time=0.2).times(0.5) == Budget(None, None, 0.1)
