"""Drawn rows: which positions, what stands there, and what a layer sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.patches import Window, draw, inputs, outputs, window

RNG = np.random.default_rng(0)


def layer_of(model: Any) -> LinearMap:
    (found,) = find_maps(Graph(model))
    assert isinstance(found, LinearMap)
    return found


def test_positions_are_drawn_once_and_do_not_depend_on_batches() -> None:
    dice = RNG.random(64)
    for count, most in ((10, 20), (1000, 30), (31, 30)):
        found = draw(count, most, dice, 5)
        assert len(found) == min(count, most) == len(set(found.tolist())) and found.max() < count
        assert np.array_equal(found, draw(count, most, dice, 5))
    allowed = np.arange(100) % 3 == 0
    assert allowed[draw(100, 12, dice, 9, allowed)].all()


def test_draws_are_spread_evenly() -> None:
    """One of each of as many equal stretches, whatever the dice."""
    found = draw(1000, 10, RNG.random(7), 3)
    assert (found // 100).tolist() == list(range(10))
    other = draw(1000, 10, RNG.random(7), 4)
    assert found.tolist() != other.tolist()


@pytest.mark.parametrize("axis", [1, -1, -2])
def test_values_at_positions(axis: int) -> None:
    y = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    rows = np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])
    where = np.asarray([0, 3, 11])
    assert np.array_equal(outputs(y, axis, where), rows[where])


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "wanted"),
    [
        ("Conv", (5, 4, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [2, 3]},
         Window((3, 2), (2, 1), (2, 3), (1, 1), (1, 0))),
        ("Conv", (5, 4, 3, 2), {"auto_pad": "VALID", "strides": [2, 2]},
         Window((3, 2), (2, 2), (1, 1), (1, 1), (0, 0))),
        ("Conv", (5, 4, 2, 2), {"auto_pad": "SAME_UPPER"}, Window((2, 2), (1, 1), (1, 1), (1, 1), (0, 0))),
        ("Conv", (5, 4, 2, 2), {"auto_pad": "SAME_LOWER"}, Window((2, 2), (1, 1), (1, 1), (1, 1), (1, 1))),
        ("ConvTranspose", (4, 5, 3, 2), {"pads": [1, 0, 0, 1], "strides": [2, 3]},
         Window((3, 2), (1, 1), (1, 1), (2, 3), (1, 1))),
    ],
)  # fmt: skip
def test_windows(op: str, shape: tuple[int, ...], attributes: dict[str, Any], wanted: Window, one_layer: Any) -> None:
    model, _ = one_layer(op, (1, 4, 8, 8), shape, 5, **attributes)
    assert window(layer_of(model), (1, 4, 8, 8), (1, 5, 8, 8)) == wanted


def test_matrix_products_have_no_window(one_layer: Any) -> None:
    model, _ = one_layer("Gemm", (5, 7), (7, 4), 4)
    assert window(layer_of(model), (5, 7), (5, 4)) is None


def test_a_patch_by_hand(one_layer: Any) -> None:
    """A 2x2 kernel with padding above: kernel position by kernel position, channels of one after the other."""
    model, _ = one_layer("Conv", (1, 2, 2, 2), (3, 2, 2, 2), 3, pads=[1, 0, 0, 0])
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)  # of a channel: [0 1 / 2 3] and [4 5 / 6 7]
    seen = inputs(layer_of(model), x, (1, 3, 2, 1), np.asarray([0, 1]))
    assert seen.tolist() == [[[0, 0, 0, 0, 0, 4, 1, 5], [0, 4, 1, 5, 2, 6, 3, 7]]]
