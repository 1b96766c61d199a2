"""The same positions, whether samples come together or in parts, with copies of channels or without."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.measurement import columns as module
from onnx_ocs.measurement.columns import columns

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("axis", [1, 3, -1, None])
def test_parts_are_looked_at_as_the_whole_is(axis: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same positions, whether samples come together or a few at a time."""
    monkeypatch.setattr(module, "SAMPLED", 40)
    a = np.random.default_rng(0).standard_normal((7, 6, 5, 8)).astype(np.float32)
    narrow = 1 if axis is None else a.shape[axis]
    parts = [columns(a[i:k], axis, narrow, k - i, i) for i, k in ((0, 2), (2, 4), (4, 7))]
    whole = columns(a, axis, narrow, 7)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert 0 < whole.size < a.size


def test_copies_are_seen_where_their_channels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 200)
    a = RNG.standard_normal((2, 4, 30, 30)).astype(np.float32)
    wide = np.concatenate([a, a[:, :2]], 1)
    narrow = columns(a, 1, 4, 2)
    assert np.array_equal(columns(wide, 1, 4, 2), np.concatenate([narrow, narrow[:2]]))
    assert narrow.shape[1] < 900


def test_no_channels() -> None:
    a = RNG.standard_normal((2, 5)).astype(np.float32)
    assert np.array_equal(columns(a, None, 1, 2), a.reshape(1, -1))
