"""Moments, rounding, and what is kept of the layers: against what is computed in other ways."""

from __future__ import annotations

from itertools import product

import numpy as np

from onnx_ocs.reconstruction.gate import choose
from onnx_ocs.reconstruction.moments import Moments, Sums
from onnx_ocs.reconstruction.rounding import descend, distance, feed_back

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


def test_error_feedback_beats_the_nearest_integers() -> None:
    x = correlated(3, 400, 90)
    h = x.astype(np.float64).transpose(0, 2, 1) @ x + np.eye(90)
    u = RNG.uniform(-3, 3, (3, 8, 90))
    nearest = np.clip(np.rint(u), -3, 3)
    q = feed_back(u, h, -3, 3)
    better = descend(q, u, h, -3, 3, 3)
    assert np.array_equal(q, np.clip(np.rint(q), -3, 3)) and np.array_equal(better, np.clip(np.rint(better), -3, 3))
    errors = [distance(v, u, h) for v in (nearest, q, better)]
    assert np.all(errors[2] <= errors[1] + 1e-9)
    assert errors[1].sum() < 0.5 * errors[0].sum()


def test_descent_ends_where_no_single_integer_helps() -> None:
    x = correlated(1, 60, 4)
    h = x.astype(np.float64).transpose(0, 2, 1) @ x + np.eye(4)
    u = RNG.uniform(-2, 2, (1, 3, 4))
    q = descend(feed_back(u, h, -2, 2), u, h, -2, 2, 50)
    here = distance(q, u, h)
    for k, value in product(range(4), range(-2, 3)):
        other = q.copy()
        other[:, :, k] = value
        assert np.all(distance(other, u, h) >= here - 1e-9)


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    u = RNG.uniform(-9, 9, (2, 5, 70))
    h = np.broadcast_to(np.diag(RNG.uniform(1, 2, 70)), (2, 70, 70))
    assert np.array_equal(feed_back(u, h, -7, 7), np.clip(np.rint(u), -7, 7))


def errors_without(harmful: set[int], helpful: float = 1.0) -> object:
    """Two outputs over eight samples: each layer takes something away, harmful ones add."""
    noise = 1 + 0.01 * np.random.default_rng(1).standard_normal((2, 8))

    def losses(chosen: frozenset[int]) -> np.ndarray:
        gain = sum(-helpful if k not in harmful else 6.0 for k in chosen)
        return np.asarray(noise * 10 ** (gain / 10))

    return losses


def test_all_layers_are_kept_where_all_help() -> None:
    assert choose(8, errors_without(set())) == frozenset(range(8))  # type: ignore[arg-type]


def test_a_half_that_harms_is_taken_back() -> None:
    assert choose(8, errors_without({4, 5, 6, 7})) == frozenset(range(4))  # type: ignore[arg-type]


def test_nothing_is_kept_where_all_harm() -> None:
    assert choose(8, errors_without(set(range(8)))) == frozenset()  # type: ignore[arg-type]


def test_no_output_may_be_worse() -> None:
    """The first output gains from every layer, the second loses from the fifth on."""

    def losses(chosen: frozenset[int]) -> np.ndarray:
        return np.asarray([[10 / (1 + len(chosen))] * 4, [1.0 - 0.01 * len(chosen) + 3.0 * (5 in chosen)] * 4])

    kept = choose(8, losses)
    assert kept and 5 not in kept
