"""Streamed moments against those of all rows at once."""

from __future__ import annotations

import numpy as np

from onnx_ocs.reconstruction.moments import Moments, Sums, added

RNG = np.random.default_rng(0)


def correlated(groups: int, rows: int, inputs: int) -> np.ndarray:
    mixed = RNG.standard_normal((groups, inputs, inputs)) / np.sqrt(inputs)
    return (RNG.standard_normal((groups, rows, inputs)) @ mixed + 3).astype(np.float32)


def moments(x: np.ndarray, t: np.ndarray, parts: int) -> Moments:
    sums = Sums(x[:, :7], t[:, :7])
    for a, b in zip(np.array_split(x, parts, axis=1), np.array_split(t, parts, axis=1), strict=True):
        sums.add(sums.products(a, b))
    return sums.moments()


def test_streamed_moments_are_those_of_all_rows() -> None:
    x, t = correlated(2, 500, 6), correlated(2, 500, 3)
    m = moments(x, t, 5)
    cx, ct = x - x.mean(1, keepdims=True, dtype=np.float64), t - t.mean(1, keepdims=True, dtype=np.float64)
    assert m.count == 500
    assert np.allclose(m.h, cx.transpose(0, 2, 1) @ cx, rtol=1e-5, atol=1e-2)
    assert np.allclose(m.c, ct.transpose(0, 2, 1) @ cx, rtol=1e-5, atol=1e-2)
    w, bias = RNG.standard_normal((2, 3, 6)), RNG.standard_normal((2, 3))
    left = t - (x @ w.transpose(0, 2, 1) + bias[:, None])
    assert np.allclose(m.error(w, bias), (left**2).sum(1), rtol=1e-4)
    assert np.allclose(m.energy(), (t.astype(np.float64) ** 2).sum(1), rtol=1e-5)


def test_moments_of_parts_add_up() -> None:
    x, t = correlated(1, 300, 5), correlated(1, 300, 2)
    both = moments(x[:, :120], t[:, :120], 2) + moments(x[:, 120:], t[:, 120:], 3)
    whole = moments(x, t, 4)
    for name in ("count", "x", "t", "h", "c", "tt"):
        assert np.allclose(getattr(both, name), getattr(whole, name), rtol=1e-4, atol=1e-2)


def test_moments_about_zero() -> None:
    x, t = correlated(2, 200, 4), correlated(2, 200, 3)
    m = moments(x, t, 3).uncentred()
    wide, aim = x.astype(np.float64), t.astype(np.float64)
    assert not m.x.any() and not m.t.any()
    assert np.allclose(m.h, wide.transpose(0, 2, 1) @ wide, rtol=1e-5)
    assert np.allclose(m.c, aim.transpose(0, 2, 1) @ wide, rtol=1e-5)
    assert np.allclose(m.tt, (aim**2).sum(1), rtol=1e-5)


def test_nothing_cancels_far_from_zero() -> None:
    """A spread of 1e-2 about 1e3, in float32: squares alone would lose it."""
    x = (1000 + 0.01 * RNG.standard_normal((1, 4000, 1))).astype(np.float32)
    wanted = np.square(x - x.mean(dtype=np.float64)).sum()
    assert np.isclose(moments(x, x, 8).h.item(), wanted, rtol=1e-4)


def test_layers_with_one_weight_and_biases_of_their_own() -> None:
    """Their moments are those of the rows about the mean of each."""
    parts = [(correlated(1, n, 4), correlated(1, n, 2)) for n in (60, 90)]
    both = added([moments(x, t, 3) for x, t in parts])
    x, t = (np.concatenate([p[k] - p[k].mean(1, keepdims=True) for p in parts], axis=1) for k in (0, 1))
    assert both.count == 150
    assert np.allclose(both.h, x.transpose(0, 2, 1) @ x, rtol=1e-4, atol=1e-2)
    assert np.allclose(both.c, t.transpose(0, 2, 1) @ x, rtol=1e-4, atol=1e-2)
    assert np.allclose(both.tt, np.square(t).sum(1), rtol=1e-4, atol=1e-2)


def test_weights_count_rows_more_than_once() -> None:
    """A row of weight 2 is the same as two rows, one of weight 0 is none."""
    x, t = correlated(1, 40, 4), correlated(1, 40, 2)
    weights = RNG.integers(0, 4, 40).astype(np.float32)
    sums = Sums(x[:, :7], t[:, :7])
    sums.add(sums.products(x, t, weights))
    once, often = sums.moments(), moments(*(np.repeat(v, weights.astype(int), axis=1) for v in (x, t)), 1)
    assert once.count == often.count == weights.sum()
    for name in ("x", "t", "h", "c", "tt"):
        assert np.allclose(getattr(once, name), getattr(often, name), rtol=1e-4, atol=1e-2), name
