"""Rounding by error feedback and descent, against the nearest integers and against all of them."""

from __future__ import annotations

from itertools import product

import numpy as np

from onnx_ocs.reconstruction.rounding import Weights, descend, feed_back

RNG = np.random.default_rng(0)


def correlated(groups: int, rows: int, inputs: int) -> np.ndarray:
    mixed = RNG.standard_normal((groups, inputs, inputs)) / np.sqrt(inputs)
    return (RNG.standard_normal((groups, rows, inputs)) @ mixed + 3).astype(np.float32)


def distance(q: np.ndarray, u: np.ndarray, h: np.ndarray) -> np.ndarray:
    d = q - u
    return np.einsum("gmk,gkl,gml->gm", d, h, d)


def test_error_feedback_beats_the_nearest_integers() -> None:
    x = correlated(3, 400, 90)
    h = x.astype(np.float64).transpose(0, 2, 1) @ x + np.eye(90)
    u = RNG.uniform(-3, 3, (3, 8, 90))
    nearest = np.clip(np.rint(u), -3, 3)
    q, lost = feed_back(u, Weights(h), -3, 3)
    np.testing.assert_allclose(lost, distance(q, u, h), rtol=1e-9)
    better = descend(q, u, h, -3, 3, 3)
    assert np.array_equal(q, np.clip(np.rint(q), -3, 3)) and np.array_equal(better, np.clip(np.rint(better), -3, 3))
    errors = [distance(v, u, h) for v in (nearest, q, better)]
    assert np.all(errors[2] <= errors[1] + 1e-9)
    assert errors[1].sum() < 0.5 * errors[0].sum()


def test_descent_ends_where_no_single_integer_helps() -> None:
    x = correlated(1, 60, 4)
    h = x.astype(np.float64).transpose(0, 2, 1) @ x + np.eye(4)
    u = RNG.uniform(-2, 2, (1, 3, 4))
    q = descend(feed_back(u, Weights(h), -2, 2)[0], u, h, -2, 2, 50)
    here = distance(q, u, h)
    for k, value in product(range(4), range(-2, 3)):
        other = q.copy()
        other[:, :, k] = value
        assert np.all(distance(other, u, h) >= here - 1e-9)


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    u = RNG.uniform(-9, 9, (2, 5, 70))
    h = np.broadcast_to(np.diag(RNG.uniform(1, 2, 70)), (2, 70, 70))
    assert np.array_equal(feed_back(u, Weights(h), -7, 7)[0], np.clip(np.rint(u), -7, 7))
