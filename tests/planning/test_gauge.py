"""What a plan makes of one feed: squared errors, and the divergence of class scores."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from onnx_ocs.measurement.yardstick import Output, Yardstick
from onnx_ocs.planning.gauge import Gauge, scored


def test_sums_over_one_feed() -> None:
    rng = np.random.default_rng(0)
    truth = {"scores": rng.standard_normal((3, 5)), "map": rng.standard_normal((3, 2, 4, 4))}
    other = {n: (v + 0.1 * rng.standard_normal(v.shape)).astype(np.float32) for n, v in truth.items()}
    yardstick = Yardstick([Output("scores", "scores"), Output("map", "map")], [truth])
    scores = [scored(truth, p) for p in yardstick.parts]
    assert scores == [p.output == "scores" for p in yardstick.parts]
    gauge = Gauge(yardstick.parts, tuple(scores), {}, floats=True)
    found = gauge.error(truth, other)
    assert np.array_equal(found.noise, yardstick.noise(0, other))
    assert found.noise[0] == pytest.approx(((truth["scores"] - other["scores"]) ** 2).sum())
    p, q = (np.exp(x["scores"]) / np.exp(x["scores"]).sum(1, keepdims=True) for x in (truth, other))
    assert found.divergence[0] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-3) and found.scored[0] == 3
    assert not found.divergence[1:].any() and not found.scored[1:].any()
    again = pickle.loads(pickle.dumps(gauge)).error(truth, other)
    assert all(np.array_equal(getattr(again, n), getattr(found, n)) for n in ("noise", "divergence", "scored"))
