"""Layouts of widened tensors: which channel and which copy stands where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper
from wide_layouts import GRID, wide

from onnx_ocs.regions.wide import Wide, concat_sizes, join

Array = np.ndarray[Any, Any]


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


def test_copies_are_counted_on_each_side() -> None:
    layout = Wide(1, np.asarray([0, 1, 2, 0, 0, 2]), np.asarray([0, 0, 0, 1, 2, -1]), 3, None)
    up, low = layout.copies()
    assert up.tolist() == [2, 0, 0] and low.tolist() == [0, 0, 1]
    assert layout.units().tolist() == [1, 1, 1]
    assert replace(layout, halved=True).units().tolist() == [3, 1, 1]


def test_sizes_of_a_concat() -> None:
    node = helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=-1)
    assert concat_sizes(node, {"a": ("N", 2), "b": ("N", 3), "c": ("N", 4)}) == [2, 3, 4]
    assert concat_sizes(node, {"a": ("N", 2), "b": ("N", "M"), "c": ("N", 4)}) is None
    assert concat_sizes(node, {"a": ("N", 2), "c": ("N", 4)}) is None


def test_join_loses_a_grid_that_not_all_share() -> None:
    other = replace(GRID, scale=GRID.scale * 2)
    same = join([wide([1]), None, wide([0])], 1, [1, 2, 1])
    assert same.grid is not None and same.origin.tolist() == [0, 0, 1, 2, 3] and same.narrow == 4
    assert join([wide([1]), wide([0], grid=other)], 1, [1, 1]).grid is None
    assert join([wide([1]), wide([0], grid=None)], 1, [1, 1]).grid is None
    assert join([replace(wide([1]), halved=True), None], 1, [1, 2]).halved
