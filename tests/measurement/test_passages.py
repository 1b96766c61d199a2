"""Passages of text: which outputs are parted, where, and that nothing is lost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from onnx_ocs.measurement.passages import LENGTH, apart, passages

IDS = np.zeros((2, 100), np.int64)
LOGITS = np.zeros((2, 100, 7), np.float32)


@pytest.mark.parametrize(
    ("feed", "outputs", "count"),
    [
        ({"ids": IDS}, [LOGITS], 100 // LENGTH),
        ({"ids": IDS, "mask": IDS}, [LOGITS, LOGITS[..., None]], 100 // LENGTH),
        ({"ids": IDS.astype(np.int32), "position": np.zeros(3, np.int64)}, [LOGITS], 100 // LENGTH),
        ({"ids": IDS}, [LOGITS, np.zeros((2, 7), np.float32)], 1),  # one value for the whole text, too
        ({"ids": IDS}, [np.zeros((2, 50, 7), np.float32)], 1),  # not one for each token
        ({"ids": IDS[:, :40]}, [LOGITS[:, :40]], 1),  # a short one
        ({"pixels": IDS.astype(np.float32)}, [LOGITS], 1),  # no text
        ({"ids": IDS}, [], 1),
    ],
)
def test_where(feed: Any, outputs: Any, count: int) -> None:
    found = passages(feed, outputs)
    assert len(found) == count
    if count > 1:
        lengths = [s.stop - s.start for s in found]
        assert min(lengths) >= LENGTH and sum(lengths) == 100
        assert found[0].start == 0 and all(a.stop == b.start for a, b in pairwise(found))


def test_nothing_is_lost() -> None:
    values = {"y": np.arange(200.0).reshape(1, 100, 2)}
    parts = apart(values, passages({"ids": IDS[:1]}, [values["y"]]))
    assert len(parts) == 3 and np.array_equal(np.concatenate([p["y"] for p in parts], axis=1), values["y"])
    assert apart(values, [slice(None)]) == [values]


def test_padding_is_no_passage() -> None:
    mask = np.arange(100)[None] < np.asarray([[20], [40]])
    found = passages({"ids": IDS}, [LOGITS], mask)
    assert [s.start for s in found] == [0, 33] and passages({"ids": IDS}, [LOGITS], mask & False)[0].start == 0
    assert len(passages({"ids": IDS}, [LOGITS], mask[:, :7])) == 3, "a mask of something else"
