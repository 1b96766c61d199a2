"""Differences of two models' integers and floats, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.verification.difference import FLIPS, TIE_WINDOW, Difference


def test_equal_integers() -> None:
    d = Difference()
    d.integers("t", np.arange(10), np.arange(10), None)
    assert (d.values, d.mismatches, d.max_steps, d.fraction, d.worst) == (10, 0, 0, 0.0, "")
    assert d.allowed == 10 * FLIPS


def test_differences_are_counted_and_the_largest_named() -> None:
    d = Difference()
    d.integers("a", np.asarray([1, 2, 3, 4]), np.asarray([1, 3, 3, 2]), None)
    d.integers("b", np.asarray([0, 0]), np.asarray([0, -5]), None)
    d.integers("c", np.asarray([0]), np.asarray([1]), None)
    assert (d.values, d.mismatches, d.max_steps, d.worst) == (7, 4, 5, "b")
    assert d.fraction == 4 / 7 and d.shift == 1 - 2 - 5 + 1


def test_no_overflow_in_narrow_types() -> None:
    d = Difference()
    d.integers("t", np.asarray([0, 255], np.uint8), np.asarray([255, 0], np.uint8), None)
    assert d.max_steps == 255 and d.shift == 0


def test_ties_are_told_apart() -> None:
    """A value at 2.5 may be rounded either way, one at 2.48 flips within the window, one at 2.3 may not."""
    exact = np.asarray([2.5, 2.5 - 0.9 * TIE_WINDOW, 2.3, -3.5])
    d = Difference()
    d.integers("t", np.asarray([2, 2, 2, -4]), np.asarray([3, 3, 3, -3]), exact)
    assert (d.mismatches, d.ties, d.off_tie) == (4, 2, 1)
    assert d.shift == 2  # exact ties are left out


def test_a_tie_that_float_arithmetic_misses_is_one() -> None:
    """Steps that are 1.3 times powers of two: what was exactly between two of them is so to float's accuracy."""
    expected, found, exact = np.asarray([2]), np.asarray([3]), np.asarray([2.5 - 5e-5])
    ties = []
    for noise in (0.0, 1e-4):
        d = Difference()
        d.integers("t", expected, found, exact, noise)
        ties.append(d.ties)
    assert ties == [0, 1]


def test_arithmetic_that_does_not_resolve_steps_has_no_ties() -> None:
    exact = np.asarray([2.3])
    coarse, fine = Difference(), Difference()
    coarse.integers("t", np.asarray([2]), np.asarray([3]), exact, noise=TIE_WINDOW)
    fine.integers("t", np.asarray([2]), np.asarray([3]), exact, noise=TIE_WINDOW / 100)
    assert (coarse.off_tie, fine.off_tie) == (0, 1)
    assert coarse.allowed > fine.allowed > FLIPS


def test_more_than_one_step_is_no_flip() -> None:
    d = Difference()
    d.integers("t", np.asarray([2]), np.asarray([4]), np.asarray([2.3]))
    assert (d.off_tie, d.max_steps) == (0, 2)


def test_floats_against_the_largest_over_all_batches() -> None:
    d = Difference()
    d.floats("y", np.asarray([1.0, -2.0], np.float32), np.asarray([1.5, -2.0], np.float32))
    d.floats("y", np.asarray([10.0], np.float32), np.asarray([10.25], np.float32))
    d.floats("z", np.asarray([0.0], np.float32), np.asarray([0.125], np.float32))
    assert d.outputs == {"y": (0.5, 10.0), "z": (0.125, 0.0)}
    assert d.max_abs == 0.5 and d.relative == 0.125  # an output of zeros has no size to measure by


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_must_be_the_same() -> None:
    d = Difference()
    d.floats("y", np.asarray([np.nan, np.inf, -np.inf, 4.0]), np.asarray([np.nan, np.inf, -np.inf, 4.0]))
    assert d.max_abs == 0 and d.outputs["y"] == (0.0, 4.0)
    d.floats("y", np.asarray([np.inf]), np.asarray([1.0]))
    assert d.max_abs == np.inf
    for a, b in ((np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.nan, np.inf), (-np.inf, np.nan)):
        d = Difference()
        d.floats("y", np.asarray([a, 2.0]), np.asarray([b, 2.0]))
        assert d.max_abs == d.outputs["y"][0] == np.inf


def test_another_shape_is_infinitely_far() -> None:
    d = Difference()
    d.floats("y", np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))
    assert d.max_abs == np.inf and d.worst == "y"


def test_a_sequence_is_compared_tensor_by_tensor() -> None:
    d = Difference()
    d.floats("s", [np.zeros(2), np.asarray([1.0, 4.0])], [np.zeros(2), np.asarray([1.0, 3.5])])
    assert d.max_abs == 0.5 and d.outputs["s[0]"][0] == 0 and d.outputs["s[1]"][0] == 0.5
    d.floats("s", [np.zeros(2)], [np.zeros(2), np.zeros(2)])
    assert d.max_abs == np.inf and d.worst == "s"


def test_integer_outputs_are_integers() -> None:
    d = Difference()
    d.floats("q", np.asarray([1, 2], np.uint8), np.asarray([1, 4], np.uint8))
    d.floats("empty", np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert (d.values, d.max_steps, d.max_abs) == (2, 2, 0.0)


@pytest.mark.parametrize("filled", [False, True])
def test_report_entry(filled: bool) -> None:
    d = Difference()
    if filled:
        d.integers("t", np.asarray([0, 0, 0, 0]), np.asarray([1, 0, 0, 2]), None)
    assert d.as_dict("disable_all") == {
        "level": "disable_all", "max_abs": 0.0, "max_steps": 2 * filled, "mismatch_fraction": 0.5 * filled,
        "mismatches_exactly_on_ties": 0, "mean_shift_steps": 0.75 * filled, "values": 4 * filled,
        "worst": "t" if filled else "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "strays"), [(0, 0), (1_000_000, 0), (33_000_000, 0), (34_000_000, 1), (75_000_000, 2)]
)
def test_one_value_of_thirty_million_may_stray(values: int, strays: int) -> None:
    """A single one in a decoder of 75 million: a proof of small models lets none pass."""
    assert Difference(values=values).strays == strays
