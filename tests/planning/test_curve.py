"""What copies save, and error against price, beside plain sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_ocs.planning.curve import Curve, savings
from onnx_ocs.planning.distortion import Readers, Table

Array = np.ndarray[Any, Any]
SAVED = np.asarray([1.0, 2.0, 2.0, 5.0])
CURVE = Curve(12.0, SAVED, np.concatenate([[0.0], np.cumsum(SAVED)]))


@pytest.mark.parametrize("price", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 9.0])
def test_copies_that_save_more_than_the_price_are_taken(price: float) -> None:
    taken = [s for s in SAVED if s > price]
    assert CURVE.at(price) == pytest.approx(12.0 - sum(taken) + price * len(taken))


def test_nothing_to_save() -> None:
    assert Curve(3.0, np.zeros(0), np.zeros(1)).at(1.0) == 3.0


def test_the_cost_is_the_least_of_all_choices() -> None:
    """No other set of copies has less error and price together."""
    for price in (0.0, 1.2, 2.5, 7.0):
        every = [
            12.0 - sum(s for k, s in enumerate(SAVED) if mask >> k & 1) + price * bin(mask).count("1")
            for mask in range(16)
        ]
        assert CURVE.at(price) == pytest.approx(min(every))


def readers(gain: Array) -> Readers:
    return Readers(gain, None, gain)


def table(square: Array, mean: Array | float = 0.0) -> Table:
    """Errors of 2 sides and as many copies as there are columns."""
    means = np.broadcast_to(mean, square.shape)
    upper, lower = (np.stack([square[:, k], means[:, k]]) for k in (0, 1))
    return Table((upper, lower), square.shape[2] - 1)


SQUARE = np.asarray([  # (2 channels, 2 sides, 0 to 3 copies)
    [[9.0, 4.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0]],
    [[8.0, 7.0, 2.0, 1.0], [1.0, 0.5, 0.25, 0.25]],
])  # fmt: skip


def test_every_further_copy_saves_what_the_table_says() -> None:
    gain = np.asarray([1.0, 3.0])
    s = savings(readers(gain), [table(SQUARE)], [(3, 3)], 3, False)
    (copies,), (curve,) = s.copies, s.curves
    assert copies.shape == (2, 2, 3) and copies.dtype == np.float32
    np.testing.assert_allclose(copies[0], [[5, 1, 0], [0, 0, 0]])
    # the second copy would save more than the first: it counts as much as that one, which comes before it
    np.testing.assert_allclose(copies[1], [[3, 3, 3], [1.5, 0.75, 0]])
    assert curve.base == 9 + 2 + 3 * (8 + 1)
    np.testing.assert_allclose(curve.savings, [0.75, 1, 1.5, 3, 3, 3, 5])
    np.testing.assert_allclose(curve.sums, [0, 0.75, 1.75, 3.25, 6.25, 9.25, 12.25, 17.25])


@pytest.mark.parametrize(
    ("room", "left"),
    [((1, 3), [[5, 0, 0], [0, 0, 0]]), ((1, 0), [[5], [0]]), ((0, 0), [[]] * 2), ((-1, 0), [[]] * 2)],
)
def test_where_there_is_no_room_nothing_is_saved(room: tuple[int, int], left: Any) -> None:
    s = savings(readers(np.ones(2)), [table(SQUARE)], [room], 3, False)
    np.testing.assert_allclose(s.copies[0][0], left)
    assert np.array_equal(s.curves[0].savings, np.sort(s.copies[0][s.copies[0] > 0]))


def test_no_more_copies_than_asked_for() -> None:
    s = savings(readers(np.ones(2)), [table(SQUARE)], [(3, 3)], 1, False)
    assert s.copies[0].shape == (2, 2, 1)
    np.testing.assert_allclose(s.curves[0].savings, [0.5, 1, 5])


def test_channels_that_must_be_alike_save_their_mean() -> None:
    s = savings(readers(np.ones(2)), [table(SQUARE)], [(3, 3)], 3, True)
    np.testing.assert_allclose(s.copies[0][0], s.copies[0][1])
    np.testing.assert_allclose(s.copies[0][0][0], [3, 3, 0.5])


def test_each_step_has_a_curve() -> None:
    s = savings(readers(np.ones(2)), [table(SQUARE), table(2 * SQUARE)], [(3, 3), (3, 3)], 3, False)
    assert s.curves[1].base == 2 * s.curves[0].base and len(s.copies) == 2


def test_errors_that_add_up_coherently_weigh_more() -> None:
    """The mean error counts with what exceeds the gain of independent errors."""
    mean = np.zeros_like(SQUARE)
    mean[0, 0] = [2.0, 1.0, 0.0, 0.0]
    r = Readers(np.asarray([1.0, 1.0]), None, np.asarray([3.0, 0.5]))
    s = savings(r, [table(SQUARE, mean)], [(3, 3)], 3, False)
    np.testing.assert_allclose(s.copies[0][0, 0], [5 + 2 * (4 - 1), 1 + 2 * 1, 0])
