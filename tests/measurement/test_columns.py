"""The same positions, whether samples come together or in parts, with copies of channels or without."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.measurement import columns as module
from onnx_ocs.measurement.columns import SAMPLED, columns

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(6, 3, 90, 70), (6, 40, 333), (6, 3)])
def test_parts_are_the_whole(shape: tuple[int, ...]) -> None:
    a = RNG.standard_normal(shape).astype(np.float32)
    whole = columns(a, 1, shape[1], 6)
    parts = [columns(a[k : k + 2], 1, shape[1], 2, k) for k in (0, 2, 4)]
    assert np.array_equal(whole, np.concatenate(parts, 1))
    assert whole.shape[0] == shape[1] and whole.size <= 6 * SAMPLED + whole.shape[0]


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
