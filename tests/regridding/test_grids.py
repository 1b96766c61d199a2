"""Grids over intervals, and what is dead on them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.model.folding import integer_range
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regridding.grids import Extremes, Grid, current, grid_over, killed, living_grid


def quantizer(dtype: str = "uint8", scale: float = 1.25, zero_point: int = 0) -> Quantizer:
    d = np.dtype(dtype)
    return Quantizer(np.asarray(scale), np.asarray(zero_point), None, d, np.dtype(np.float32), *integer_range(d))


def seen(low: list[float], high: list[float]) -> Extremes:
    return Extremes(np.asarray(low), np.asarray(high))


@pytest.mark.parametrize(
    ("dtype", "zero_point", "interval", "wanted"),
    [
        ("uint8", 0, (0.0, 255.0), (1.0, 0)),
        ("uint8", 128, (-100.0, 155.0), (1.0, 100)),
        ("uint8", 7, (10.0, 255.0), (1.0, 0)),  # 0 is always on the grid
        ("uint8", 0, (-255.0, -5.0), (1.0, 255)),
        ("int8", -128, (0.0, 255.0), (1.0, -128)),
        ("int8", 0, (-1.0, 127.0), (1.0, 0)),  # symmetric stays symmetric
        ("int8", 0, (-256.0, 127.0), (2.0, 0)),
    ],
)
def test_a_grid_over_an_interval(
    dtype: str, zero_point: int, interval: tuple[float, float], wanted: tuple[float, int]
) -> None:
    grid = grid_over(quantizer(dtype, 1.0, zero_point), interval)
    assert (grid.scale, grid.zero_point) == wanted


def test_a_step_is_one_that_the_float_type_holds() -> None:
    scale = grid_over(quantizer(), (0.0, 1.0)).scale
    assert scale == float(np.float32(1 / 255)) and scale != 1 / 255


def test_what_is_dead() -> None:
    q = quantizer()
    assert current(q) == Grid(1.25, 0)
    extremes = seen([0, 0, 0, 5, -3], [0.3, 0.7, 0, 5.1, -1])  # alive is what moves to another integer
    assert killed(q, current(q), extremes).tolist() == [True, False, False, True, True]
    assert extremes.largest == 5.1


def test_a_grid_on_which_all_live() -> None:
    q = quantizer()
    known = living_grid(q, (0.0, 1.0), seen([0.0], [0.3]))
    assert known is not None and known.scale == pytest.approx(1 / 255), "what the values cannot leave"
    small = living_grid(q, (0.0, 1.0), seen([0.0], [1e-3]))
    assert small is not None and small.scale == pytest.approx(2e-3 / 255), "with a margin over what was seen"
    assert living_grid(q, (0.0, np.inf), seen([0.0, 0.0], [1e-3, 300.0])) is None, "no grid holds both"
    assert living_grid(q, (0.0, 0.0), seen([0.0], [0.0])) is None


def test_what_the_old_range_cuts_stays_cut() -> None:
    q = quantizer(scale=0.5, zero_point=10)  # -5 to 122.5
    grid = living_grid(q, (-np.inf, np.inf), seen([-50.0], [4.0]))
    assert grid is not None and -grid.zero_point * grid.scale >= -5.5


def test_extremes_are_joined() -> None:
    a = seen([0, 1], [2, 3]).joined(np.asarray([-1.0, 2.0]), np.asarray([1.0, 4.0]))
    assert (a.low.tolist(), a.high.tolist()) == ([-1, 1], [2, 4])
    b = a.joined(np.asarray([0.0, 0.0, -9.0]), np.asarray([1.0, 1.0, 9.0]))
    assert (b.low.tolist(), b.high.tolist()) == ([-9], [9]), "their number changes: all as one"
