"""The closed form, against what least squares and trying everything give."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.moments import Moments, Sums
from onnx_ocs.reconstruction.solve import RIDGES, Problem, best, choose_ridge, problem, solve

RNG = np.random.default_rng(0)


def moments(x: np.ndarray, t: np.ndarray) -> Moments:
    sums = Sums(x.astype(np.float32), t.astype(np.float32))
    sums.add(sums.products(x.astype(np.float32), t.astype(np.float32)))
    return sums.moments()


def grid(rows: int, inputs: int, high: int = 127, prior: np.ndarray | None = None, **more: Any) -> Problem:
    """One group of rows with a scale each."""
    given = {
        "prior": np.zeros((1, rows, inputs)) if prior is None else prior, "scale": np.full((1, rows, 1), 0.1),
        "stretch": np.ones((1, 1, inputs)), "zero": np.zeros((1, rows, inputs)), "low": -high, "high": high,
        "now": np.zeros((1, rows, inputs)), "owner": np.arange(rows)[None], "scales": rows, "dyadic": False,
        "precision": np.dtype(np.float32), "centred": True, "used": np.ones((1, 1, inputs), bool),
    }  # fmt: skip
    return Problem(**{**given, **more})


def test_a_layer_as_a_problem(one_layer: Any) -> None:
    """Scales per row and per input: the same weights again from the integers."""
    for axis, owned in ((None, True), (0, True), (1, False)):
        model, _ = one_layer("Conv", (2, 4, 5, 5), (6, 4, 3, 3), 6)
        if axis is not None:
            scale = RNG.uniform(0.1, 1, (6, 4)[axis]).astype(np.float32)
            next(t for t in model.graph.initializer if t.name == "s").CopyFrom(numpy_helper.from_array(scale, "s"))
            model.graph.node[0].attribute.add(name="axis", i=axis, type=2)
        (layer,) = find_maps(Graph(model))
        assert isinstance(layer, LinearMap)
        p = problem(layer, None, True)
        assert p is not None and (p.owner is not None) == owned
        assert p.few  # -8 to 7
        np.testing.assert_allclose(p.weight(p.now), layer.matrix(layer.weight.value), rtol=1e-6)
        np.testing.assert_allclose(p.prior, layer.matrix(layer.weight.value), rtol=1e-6)


def test_without_a_ridge_it_is_least_squares() -> None:
    x, t = RNG.standard_normal((1, 300, 5)), RNG.standard_normal((1, 300, 2))
    w, _ = best(moments(x, t), np.zeros((1, 2, 5)), 1e-9)
    cx, ct = x[0] - x[0].mean(0), t[0] - t[0].mean(0)
    np.testing.assert_allclose(w[0], np.linalg.lstsq(cx, ct, rcond=None)[0].T, atol=1e-5)


def test_a_large_ridge_keeps_the_weights_but_for_a_gain() -> None:
    x, true = RNG.standard_normal((1, 4000, 5)), RNG.standard_normal((1, 3, 5))
    w, _ = best(moments(x, 1.3 * x @ true.transpose(0, 2, 1)), true, 1e9)
    np.testing.assert_allclose(w, 1.3 * true, rtol=1e-3)
    w, _ = best(moments(x, 5.0 * x @ true.transpose(0, 2, 1)), true, 1e9)
    np.testing.assert_allclose(w, 2.0 * true, rtol=1e-3)  # no gain beyond 2


def test_exact_data_gives_the_exact_integers_and_bias() -> None:
    x = RNG.standard_normal((1, 2000, 6)) + 2
    q, bias = RNG.integers(-90, 91, (1, 4, 6)), RNG.standard_normal(4)
    s = solve(grid(4, 6), moments(x, x @ (0.1 * q).transpose(0, 2, 1) + bias), 1e-9)
    assert np.array_equal(s.q, q) and np.all(s.factor == 1)
    np.testing.assert_allclose(s.bias[0], bias, atol=1e-4)
    np.testing.assert_allclose(s.weight, 0.1 * q)


def test_two_bits_are_nearly_the_best_of_all() -> None:
    """Every ternary row with its best scale, by trying them all."""
    x = RNG.standard_normal((1, 500, 4)) @ RNG.standard_normal((4, 4))
    true = RNG.standard_normal((1, 3, 4))
    t = x @ true.transpose(0, 2, 1)
    m = moments(x, t)
    s = solve(grid(3, 4, high=1, scale=np.abs(true).mean(2, keepdims=True)), m, 1e-9)
    assert {*np.unique(s.q)} <= {-1, 0, 1}
    cx, ct = x[0] - x[0].mean(0), t[0] - t[0].mean(0)
    for row, got in enumerate(m.error(s.weight, s.bias)[0]):
        least = min(
            float(np.linalg.lstsq((cx @ q)[:, None], ct[:, row], rcond=None)[1][0])
            for q in map(np.asarray, product((-1, 0, 1), repeat=4))
            if np.any(q)
        )
        assert least * (1 - 1e-6) <= got <= 1.25 * least + 1e-9


def test_scales_that_must_be_powers_of_two_stay_such() -> None:
    x, true = RNG.standard_normal((1, 500, 4)), RNG.uniform(-1, 1, (1, 3, 4))
    p = grid(3, 4, high=1, prior=true, scale=np.full((1, 3, 1), 0.125), dyadic=True)
    s = solve(p, moments(x, x @ true.transpose(0, 2, 1)), 1e-3)
    assert np.all(np.frexp(s.factor)[0] == 0.5) and np.any(s.factor != 1)


def test_scales_that_must_stay_stay() -> None:
    x, true = RNG.standard_normal((1, 500, 4)), RNG.uniform(-1, 1, (1, 3, 4))
    s = solve(grid(3, 4, high=1, owner=None), moments(x, x @ true.transpose(0, 2, 1)), 1e-3)
    np.testing.assert_allclose(s.weight, 0.1 * s.q)


def test_a_bias_that_is_not_free_stays_out() -> None:
    x, true = RNG.standard_normal((1, 500, 4)) + 1, RNG.uniform(-1, 1, (1, 3, 4))
    s = solve(grid(3, 4, centred=False), moments(x, x @ true.transpose(0, 2, 1)).uncentred(), 1e-6)
    assert not s.bias.any() and np.abs(s.weight - true).max() < 0.1


@pytest.mark.parametrize(("noise", "rows", "wanted"), [(0.0, 400, (1e-3,)), (30.0, 12, (10.0, 100.0))])
def test_the_ridge_is_what_held_out_samples_say(noise: float, rows: int, wanted: tuple[float, ...]) -> None:
    """Plenty of exact data wants none; a few noisy rows want to stay where they are."""
    rng = np.random.default_rng(3)
    true = rng.standard_normal((1, 3, 8))

    def drawn(count: int) -> Moments:
        x = rng.standard_normal((1, count, 8))
        return moments(x, x @ true.transpose(0, 2, 1) + noise * rng.standard_normal((1, count, 3)))

    prior = true if noise else true + 0.5
    ridge, useful = choose_ridge(grid(3, 8, prior=prior), [drawn(rows)], [drawn(4000)])
    assert useful and ridge in wanted and ridge in RIDGES
