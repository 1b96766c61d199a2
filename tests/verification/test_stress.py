"""Random integers that fill every quantizer's range, wide or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from wide_layouts import GRID, wide

from onnx_ocs.probes.cuts import Cut
from onnx_ocs.verification.oracle import WideQuantizer
from onnx_ocs.verification.stress import stress

COPIES, LOW = np.asarray([1, 0, 2]), np.asarray([0, 1, 0])
LAYOUT = wide([1, 0, 2], low=[0, 1, 0])
NARROW = Cut("a", GRID, "a_q", "a_q", "a_q", None, "a_q")
WIDE = Cut("b", GRID, "b_q", "b_k", "b_now", LAYOUT, "b_q")
STATES: dict[str, Any] = {"a_q": np.zeros((4, 3, 50, 50), np.uint8), "b_k": np.zeros((4, 3, 50, 50), np.float32)}


def drawn(turn: int, seed: int = 0) -> dict[str, Any]:
    limits = {"b_q": WideQuantizer(GRID, 1, COPIES, LOW, 4)}
    return stress(STATES, [NARROW, WIDE], limits, np.random.default_rng(seed), turn)


@pytest.mark.parametrize("turn", range(3))
def test_the_range_is_kept_and_its_ends_are_met(turn: int) -> None:
    out = drawn(turn)
    assert out.keys() == {"a_q", "b_k"}
    assert out["a_q"].dtype == np.uint8 and out["b_k"].dtype == np.float32
    assert out["a_q"].shape == out["b_k"].shape == (4, 3, 50, 50)
    assert set(np.unique(out["a_q"])) == set(range(16))
    low, high = WideQuantizer(GRID, 1, COPIES, LOW, 4).limits()
    k = np.moveaxis(out["b_k"], 1, 0).reshape(3, -1)
    np.testing.assert_array_equal(k, np.rint(k))
    for values, least, most in zip(k, low, high, strict=True):
        assert least <= values.min() and values.max() <= most
        reach = (most - least) * 0.05
        if turn in (0, 1):
            assert values.max() >= most - reach
        if turn in (0, 2):
            assert values.min() <= least + reach


def test_turns_favour_the_ends() -> None:
    everywhere, top, bottom = (np.moveaxis(drawn(t)["b_k"], 1, 0).reshape(3, -1).mean(1) for t in range(3))
    assert np.all(bottom < everywhere) and np.all(everywhere < top)


def test_the_seed_decides() -> None:
    np.testing.assert_array_equal(drawn(0, 5)["b_k"], drawn(0, 5)["b_k"])
    assert not np.array_equal(drawn(0, 5)["b_k"], drawn(0, 6)["b_k"])


def test_without_limits_it_is_narrow() -> None:
    out = stress(STATES, [WIDE], {}, np.random.default_rng(0), 0)
    assert set(np.unique(out["b_k"])) == set(range(16))
