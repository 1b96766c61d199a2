"""The narrow factor of many channels against the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.planning import coherent
from onnx_ocs.planning.coherent import Coherent, Summing

CHANNELS, OUTPUTS = 60, 90


def summed(groups: int, parts: int = 1) -> Coherent:
    """The same weights every time, in several parts."""
    rng = np.random.default_rng(3)
    found = Summing(CHANNELS)
    for part in np.array_split(rng.standard_normal((CHANNELS, OUTPUTS)) + 0.3, parts, axis=1):
        found.add(part, groups)
    result = found.found()
    assert result is not None
    return result


@pytest.mark.parametrize("groups", [1, 4])
def test_a_narrow_factor_weighs_means_as_the_matrix_does(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = summed(groups)
    assert not whole.narrow and np.allclose(whole.matrix, whole.matrix.T)
    monkeypatch.setattr(coherent, "WIDE", 8)
    monkeypatch.setattr(coherent, "NARROW", 32)
    narrow = summed(groups, 3)
    assert narrow.narrow and narrow.matrix.shape == (CHANNELS, 32)
    np.testing.assert_allclose(narrow.diagonal, whole.diagonal)
    np.testing.assert_allclose((narrow.matrix**2).sum(1), whole.diagonal, rtol=1e-5)
    rng = np.random.default_rng(4)
    ratios = []
    for _ in range(50):
        m = rng.standard_normal(CHANNELS) + rng.standard_normal()
        ratios.append(m @ narrow.times(m) / (m @ whole.times(m)))
    assert np.mean(ratios) == pytest.approx(1, abs=0.25) and np.std(ratios) < 0.3
    one = np.eye(CHANNELS)[7]
    assert one @ narrow.times(one) == pytest.approx(one @ whole.times(one))


def test_parts_add_up_to_the_whole() -> None:
    one, other = summed(1), summed(1, 4)
    np.testing.assert_allclose(one.matrix, other.matrix)


def test_nothing_counted_is_nothing() -> None:
    assert Summing(CHANNELS).found() is None
