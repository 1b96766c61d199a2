"""Layouts of widened tensors: which channel and which copy stands where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.wide import Wide, join
from onnx_ocs.translation.decision import arrange

Array = np.ndarray[Any, Any]


GRID = Quantizer(np.asarray(0.5), np.asarray(0), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 15)


def wide(copies: list[int], low: list[int] | None = None, groups: int = 1, axis: int = 1, grid: Any = GRID) -> Wide:
    up = np.asarray(copies)
    origin, level = arrange(up, np.zeros_like(up) if low is None else np.asarray(low), groups)
    return Wide(axis, origin, level, up.size, grid)


def test_spread_repeats_blocks() -> None:
    origin, level = wide([0, 1]).spread(3)
    assert origin.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5] and level.tolist() == [0] * 6 + [1] * 3


@pytest.mark.parametrize(
    ("layout", "groups", "expected"),
    [
        (wide([1, 1, 1, 1], groups=2), 2, True),
        (wide([1, 1, 1, 1], groups=4), 2, True),
        (wide([1, 1, 1, 1], groups=2), 4, False),
        (wide([1, 1, 1, 1]), 2, False),
        (wide([2, 0, 0, 2], groups=2), 2, True),
        (wide([2, 0, 0, 1], groups=2), 2, False),
        (wide([1, 1, 1]), 2, False),
    ],
)
def test_grouped(layout: Wide, groups: int, expected: bool) -> None:
    assert layout.grouped(groups) is expected


def test_join() -> None:
    a, b = wide([1, 0]), wide([0, 2], grid=replace(GRID))
    j = join([a, None, b], 1, [2, 3, 2])
    assert j.origin.tolist() == [0, 1, 0, 2, 3, 4, 5, 6, 6, 6]
    assert j.level.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 2]
    assert j.narrow == 7 and j.axis == 1 and j.grid is GRID
    other = replace(GRID, scale=np.asarray(0.25))
    assert join([a, wide([1, 0], grid=other)], 1, [2, 2]).grid is None
    assert join([a, wide([1, 0], grid=None)], 1, [2, 2]).grid is None
