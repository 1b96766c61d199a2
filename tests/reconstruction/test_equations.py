"""Few rows and many: the same equations."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.reconstruction import equations
from onnx_ocs.reconstruction.equations import Inputs, Rows
from onnx_ocs.reconstruction.moments import Sums
from onnx_ocs.reconstruction.solve import best, gained, mean_bias

COUNT, INPUTS, OUTPUTS = 20, 12, 5


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets, and weights to start from."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((COUNT, INPUTS)) + 0.5).astype(np.float32)
    prior = rng.standard_normal((1, OUTPUTS, INPUTS))
    t = x @ (1.2 * prior[0] + 0.1 * rng.standard_normal((OUTPUTS, INPUTS))).T + 0.3
    return x, t.astype(np.float32), prior


def rows(few: int, weights: np.ndarray, centred: bool, monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setattr(equations, "FEW", few)
    x, t, _ = data()
    inputs = Inputs(x, weights, centred)
    assert inputs.few == (few == 0)
    return inputs.aiming(t)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("weigh", [True, False])
def test_both_are_what_the_moments_say(weigh: bool, centred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, t, prior = data()
    weights = np.linspace(0.5, 2, COUNT).astype(np.float32) if weigh else np.empty(0)
    sums = Sums(x[None], t[None])
    sums.add(sums.products(x[None], t[None], weights if weigh else None))
    m = sums.moments() if centred else sums.moments().uncentred()
    for few in (2, 0):
        r = rows(few, weights, centred, monkeypatch)
        np.testing.assert_allclose(r.inputs.h, m.h[0], rtol=1e-4, atol=1e-4)
        assert r.energy() == pytest.approx(m.energy().sum(), rel=1e-4)
        start = r.start(prior)
        np.testing.assert_allclose(start, gained(m, prior), rtol=1e-4)
        for ridge in (1e-2, 1.0, 100.0):
            want, h = best(m, prior, ridge)
            w = r.best(start, ridge)
            np.testing.assert_allclose(w, want, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(r.inputs.regular(ridge), h, rtol=1e-4, atol=1e-4)
            bias = r.bias(w) if centred else np.zeros((1, OUTPUTS))
            if centred:
                np.testing.assert_allclose(bias, mean_bias(m, w), rtol=1e-3, atol=1e-4)
            assert r.error(w, bias) == pytest.approx(m.error(w, bias).sum(), rel=1e-2, abs=1e-3)


def test_inputs_that_are_nothing() -> None:
    assert Inputs(np.zeros((3, 4), np.float32), np.empty(0), True).level == 1.0
