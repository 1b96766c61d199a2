"""Where copies stand."""

from __future__ import annotations

import numpy as np
import pytest
import zoo
from regions_of import graph_and_regions

from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.decision import Decision, arrange


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


def decision(name: str, copies: list[int], low: list[int] | None = None, halved: bool = False) -> Decision:
    _, regions = graph_and_regions(zoo.build(name)[0])
    up = np.asarray(copies)
    return Decision(regions["relu1"], "late", up, 0 * up if low is None else np.asarray(low), halved)


def test_the_layout_is_that_of_the_regions_channels() -> None:
    wide = decision("conv_relu_conv", [0, 2, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0]).wide
    assert (wide.axis, wide.narrow, wide.integer, wide.halved) == (1, 8, True, False)
    assert wide.origin.tolist() == [*range(8), 1, 7, 1, 0] and wide.level.tolist() == [0] * 8 + [1, 1, 2, -1]
    assert wide.grid is not None and decision("conv_relu_conv", [1] * 8, halved=True).wide.halved


def test_grouped_readers_get_blocks() -> None:
    wide = decision("grouped", [0, 1, 0, 0, 0, 0, 1, 0]).wide
    assert wide.grouped(2) and wide.origin.tolist() == [0, 1, 2, 3, 1, 4, 5, 6, 7, 6]


def test_depthwise_readers_ask_for_no_order() -> None:
    assert decision("depthwise", [1] * 8).wide.origin.tolist() == [*range(8), *range(8)]
    assert decision("depthwise", [1, 0] * 4).wide.origin.tolist() == [*range(8), 0, 2, 4, 6]
