"""What a tensor is in terms of the original's channels: sums, shifted rows and layouts, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.verification.values import Differs, Layout, Shifted, Sums, Value, Wide, concat

Array = np.ndarray[Any, Any]


def ints(*values: int) -> Array:
    return np.asarray(values, np.int64)


# three channels; 0 has copies 1 and 2, channel 2 has one on the lower side
ORIGIN, LEVEL = ints(0, 1, 2, 0, 0, 2), ints(0, 0, 0, 1, 2, -1)
WIDE = Wide(1, ORIGIN, LEVEL, 3)
FULL = [(0, 3, 4), (1,), (2, 5)]  # the rows that add up to each channel


def sums(rows: list[tuple[int, ...]]) -> Sums:
    """Rows of channels, built with the product's own steps: one at a time, added up and joined."""
    each, found = Sums.each(WIDE.origin.size), None
    for row in rows:
        total = each.take(ints(row[0]))
        for k in row[1:]:
            total = total.add(each.take(ints(k)))
        found = total if found is None else found.join(total)
    assert found is not None
    return found


def listed(s: Sums) -> list[tuple[int, ...]]:
    return [tuple(s.channels[a:b].tolist()) for a, b in zip(s.starts[:-1], s.starts[1:], strict=True)]


def test_sums_are_taken_joined_and_added_row_by_row() -> None:
    assert listed(Sums.each(3)) == [(0,), (1,), (2,)]
    s = sums([(2, 0), (1,), (5, 3, 4)])
    assert listed(s) == [(0, 2), (1,), (3, 4, 5)]  # in ascending order, whatever the order they came in
    assert listed(s.take(ints(2, 0, 2))) == [(3, 4, 5), (0, 2), (3, 4, 5)]
    assert listed(s.join(Sums.each(2))) == [(0, 2), (1,), (3, 4, 5), (0,), (1,)]
    assert listed(s.add(sums([(1,), (1,), (0,)]))) == [(0, 1, 2), (1, 1), (0, 3, 4, 5)]
    assert s.same(sums([(0, 2), (1,), (4, 3, 5)])) and not s.same(sums([(0, 2), (1,), (3, 4, 4)]))
    nothing = np.zeros(2)
    assert not Sums(ints(0, 1, 2), ints(0, 1), nothing).same(Sums(ints(0, 0, 2), ints(0, 1), nothing))
    with pytest.raises(Differs, match="different numbers"):
        s.add(Sums.each(2))


@pytest.mark.parametrize(
    ("origin", "level", "halved", "fine"),
    [
        (ORIGIN, LEVEL, False, True),
        (ints(2, 0, 1), ints(0, 0, 0), False, True),
        (ints(0, 1, 0), ints(0, 0, 2), False, False),  # the first copy is missing
        (ints(0, 1, 0), ints(0, 0, 0), False, False),  # two bases
        (ints(0, 1, 0, 0), ints(0, 0, 1, 1), False, False),  # one copy twice
        (ints(0, 0, 0), ints(0, 1, 2), False, False),  # channel 1 is missing
        (ints(0, 1, 3), ints(0, 0, 0), False, False),
        (ints(0, 1, -1), ints(0, 0, 0), False, False),
        (ints(0, 1, 2), ints(0, 0), False, False),
        (ints(0, 1, 1), ints(0, 0, 1), True, True),
        (ints(0, 1, 1, 1), ints(0, 0, 1, 2), True, False),  # a half has one copy
        (ints(0, 1, 1), ints(0, 0, -1), True, False),
    ],
)
def test_a_layout_is_checked(origin: Array, level: Array, halved: bool, fine: bool) -> None:
    narrow = 3 if fine and not halved else int(max(2, origin.max()))
    layout = Layout(1, origin, level, 2 if halved else narrow, halved)
    if fine:
        layout.check()
    else:
        with pytest.raises(Differs, match="its layout"):
            layout.check()


def test_layouts_are_the_same_or_not() -> None:
    a = Layout(1, ORIGIN, LEVEL, 3)
    assert a.same(Layout(2, ORIGIN.copy(), LEVEL.copy(), 3))  # the axis is a matter of the reader's
    for other in (
        replace(a, origin=ORIGIN[::-1]),
        replace(a, level=LEVEL[::-1]),
        replace(a, narrow=4),
        replace(a, halved=True),
    ):
        assert not a.same(other)


def test_full_sums_are_the_original_again() -> None:
    assert not WIDE.whole() and Value("x", WIDE).settled().form is not None
    folded = replace(WIDE, sums=sums(FULL))
    assert folded.whole() and Value("x", folded).settled().form is None
    for rows in (FULL[::-1], FULL[:2], [FULL[0], FULL[1], (2,)], [FULL[0], FULL[1], (2, 2)], [*FULL, (1,)]):
        assert not replace(WIDE, sums=sums(rows)).whole()
    # of integers only the bases are the original's
    assert not replace(folded, integer=True).whole()
    assert Wide(1, ints(0, 1, 2), ints(0, 0, 0), 3, integer=True).whole()
    assert not Wide(1, ints(0, 2, 1), ints(0, 0, 0), 3, integer=True).whole()
    assert not Wide(1, ints(0, 1, 2), ints(0, 0, 0), 3, True, integer=True).whole()


def test_shifted_rows() -> None:
    s = Shifted.of(1, 2, ints(0, 1, 2))
    assert s.plain() and s.take(ints(2, 0)).origin.tolist() == [2, 0]
    moved = replace(s, shift=np.asarray([0.0, 1.5, 0]), side=ints(0, 1, 0), factor=np.asarray([1, 1, 0.5]))
    joined = s.join(moved.take(ints(1, 2)))
    assert joined.origin.tolist() == [0, 1, 2, 1, 2]
    assert joined.shift.tolist() == [0, 0, 0, 1.5, 0]
    assert joined.side.tolist() == [0, 0, 0, 1, 0]
    assert joined.factor.tolist() == [1, 1, 1, 1, 0.5]
    for k in range(3):
        assert moved.take(ints(k)).plain() == (k == 0)
    assert not replace(s, ceiling=6.0).plain()


def test_constants_along_the_rows() -> None:
    s = Shifted.of(1, 2, ints(0, 1, 2))
    assert s.per_row(np.float32(4)).tolist() == [4, 4, 4]
    column = np.asarray([1, 2, 3], np.float16).reshape(3, 1, 1)
    found = s.per_row(column)
    assert found.tolist() == [1, 2, 3] and found.dtype == np.float64
    assert s.per_row(column[None]).tolist() == [1, 2, 3]
    for wrong in (column.reshape(3), column.reshape(1, 3, 1), column[:2], np.ones((3, 2, 1)), np.ones((1, 1, 1, 1))):
        with pytest.raises(Differs, match="does not lie along the channels"):
            s.per_row(wrong)


def test_rows_of_one_tensor_are_put_behind_each_other() -> None:
    a, b = replace(WIDE, sums=sums(FULL[:1])), replace(WIDE, sums=sums(FULL[1:]))
    assert concat([a, b]).whole() and not concat([b, a]).whole()
    for other in (replace(b, level=LEVEL[::-1]), replace(b, integer=True)):
        with pytest.raises(Differs, match="different tensors"):
            concat([a, other])


def test_constants_belong_to_sums_of_whole_ranges() -> None:
    """Copies stand at an end of the range: their sum is the tensor once that is taken out, and no sooner."""
    grid = Quantizer(np.asarray(0.5), np.asarray(3), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 15)
    wide = Wide(1, ints(0, 1, 0, 1), ints(0, 0, 1, -1), 2, full=True, grid=grid)
    assert wide.rests().tolist() == [0, 0, -1.5, 6.0]
    whole = wide.rows().take(ints(0, 1)).add(wide.rows().take(ints(2, 3)))
    for less, right in (([-1.5, 6.0], True), ([0.0, 0.0], False), ([6.0, -1.5], False), ([-1.5, 6.01], False)):
        assert replace(wide, sums=replace(whole, less=np.asarray(less))).whole() is right
    plain = replace(wide, full=False)
    assert replace(plain, sums=whole).whole() and not replace(plain, sums=replace(whole, less=np.ones(2))).whole()
