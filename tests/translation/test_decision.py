"""Where copies stand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.decision import arrange


@pytest.mark.parametrize(
    ("copies", "low", "groups", "origin", "level"),
    [
        ([0, 0, 0], [0, 0, 0], 1, [0, 1, 2], [0, 0, 0]),
        ([1, 0, 2], [0, 0, 0], 1, [0, 1, 2, 0, 2, 2], [0, 0, 0, 1, 1, 2]),
        ([1, 0, 0], [0, 1, 2], 1, [0, 1, 2, 0, 1, 2, 2], [0, 0, 0, 1, -1, -1, -2]),
        ([1, 0, 1, 0], [0] * 4, 2, [0, 1, 0, 2, 3, 2], [0, 0, 1, 0, 0, 1]),
        ([1, 1], [1, 1], 2, [0, 0, 0, 1, 1, 1], [0, 1, -1, 0, 1, -1]),
    ],
    ids=["none", "two levels", "both sides", "two groups", "depthwise"],
)
def test_arrange(copies: list[int], low: list[int], groups: int, origin: list[int], level: list[int]) -> None:
    o, lv = arrange(np.asarray(copies), np.asarray(low), groups)
    assert o.tolist() == origin and lv.tolist() == level
    w = Wide(1, o, lv, len(copies), None)
    assert [v.tolist() for v in w.copies()] == [copies, low]
    assert w.grouped(groups) or not any(copies + low)
