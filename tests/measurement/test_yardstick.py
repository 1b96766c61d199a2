"""Errors of outputs and of groups of their channels, and the one number that they make."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.yardstick import Output, Yardstick, outputs_of

RNG = np.random.default_rng(0)
A, B = Output("a", "a"), Output("b", "b")


def test_each_output_relative_to_its_own_energy() -> None:
    references = [{"a": RNG.standard_normal((2, 3)) * 1e3, "b": RNG.standard_normal((2, 5))} for _ in range(3)]
    y = Yardstick([A, B], references)
    noise = sum(y.noise(k, {"a": r["a"] * 1.1, "b": r["b"] * 0.9}) for k, r in enumerate(references))
    assert [p.output for p in y.parts] == ["a", "b"]
    np.testing.assert_allclose(y.errors(noise), [0.01, 0.01])
    np.testing.assert_allclose(y.decibels(noise), 20.0)
    shares = y.shares(np.asarray([y.noise(k, {"a": r["a"] * 1.1, "b": r["b"]}) for k, r in enumerate(references)]))
    np.testing.assert_allclose(shares.sum(1), [0.01, 0.0], atol=1e-12)


def test_outputs_that_do_not_count_are_not_looked_at() -> None:
    y = Yardstick([A, Output("b", "b", weight=0.0)], [{"a": np.ones((1, 2)), "b": np.asarray(["text"], object)}])
    assert [p.output for p in y.parts] == ["a"]


def test_weak_channels_are_a_part_of_their_own() -> None:
    """Boxes in pixels and scores in 0..1; neither a dead channel nor a rare one is a part."""
    scale = np.asarray([300.0] * 4 + [0.5] * 60 + [1e-6] * 2 + [0.0])[:, None]
    truth = RNG.uniform(0.5, 1, (4, 67, 50)) * scale
    y = Yardstick([A], [{"a": truth}])
    assert [None if p.channels is None else p.channels.tolist() for p in y.parts] == [None, list(range(4, 64))]
    assert [p.weight for p in y.parts] == [0.5, 0.5]
    wrong = truth.copy()
    wrong[:, 4:64] *= 0.9
    whole, scores = y.errors(y.noise(0, {"a": wrong}))
    assert whole < 1e-6 and scores == pytest.approx(0.01)
    wrong = truth.copy()
    wrong[:, 64:] += 1e-3  # a thousand times what they hold
    assert y.errors(y.noise(0, {"a": wrong})).max() < 1e-4
    last = Yardstick([A], [{"a": truth.transpose(0, 2, 1)}])
    assert last.parts[1].axis == 2 and len(last.parts) == 2
    assert len(Yardstick([A], [{"a": truth[:, :, 0]}]).parts) == 1, "a vector of class scores has one scale"


def test_labels_by_agreement() -> None:
    y = Yardstick([A], [{"a": np.arange(9)}, {"a": np.arange(10)}])
    assert y.errors(y.noise(0, {"a": np.arange(9)}))[0] == 1 / 20
    assert y.noise(1, {"a": np.arange(10)[::-1]})[0] == 10 and y.noise(1, {"a": np.arange(3)})[0] == 10
    text = Yardstick([A], [{"a": np.asarray(["x", "y"], object)}])
    assert text.noise(0, {"a": np.asarray(["x", "z"], object)})[0] == 1
    quantized = Yardstick([Output("a", "a", True)], [{"a": np.asarray([200, 100], np.uint8)}])
    assert quantized.noise(0, {"a": np.asarray([198, 101], np.uint8)})[0] == 5, "integers of a quantizer are values"


def test_what_is_not_finite() -> None:
    truth = np.asarray([[1.0, -np.inf, 2.0]])
    y = Yardstick([A], [{"a": truth}])
    assert y.noise(0, {"a": truth})[0] == 0 and y.signal[0, 0] == 5
    assert y.noise(0, {"a": np.asarray([[1.0, 0.0, 2.0]])})[0] == np.inf
    assert y.loss(y.errors(np.asarray([np.nan])), y.errors(np.asarray([1.0]))) != 1.0


def test_no_output_pays_for_another() -> None:
    """Twenty decibels at one output do not make up for one at the other; a tenth is no loss."""
    y = Yardstick([A, B], [{"a": np.ones((1, 3)), "b": np.ones((1, 3))}])
    start = np.asarray([0.01, 0.01])
    assert y.loss(start, start) == pytest.approx(0.01)
    assert y.loss(np.asarray([0.0001, 0.01]), start) == pytest.approx(0.001), "the geometric mean"
    assert y.loss(np.asarray([0.0001, 0.0102]), start) < 0.0011
    assert y.loss(np.asarray([0.0001, 0.0126]), start) > 0.01
    assert y.better(np.asarray([0.009, 0.01]), start) and not y.better(np.asarray([1e-9, 0.02]), start)
    one = Yardstick([A], [{"a": np.ones((1, 3))}])
    assert one.loss(np.asarray([0.02]), start[:1]) == 0.02


def test_an_output_that_is_infinite_either_way_is_no_obstacle() -> None:
    """As a spelled log(softmax) is, whose quantizer makes zeros."""
    y = Yardstick([A, B], [{"a": np.ones((1, 3)), "b": np.ones((1, 3))}])
    start = np.asarray([0.01, np.inf])
    assert y.better(np.asarray([0.005, np.inf]), start) and not y.better(np.asarray([0.02, np.inf]), start)
    assert not y.better(np.asarray([0.005, np.inf]), np.asarray([0.01, 0.01])), "it was not before"
    assert y.decibels(np.asarray([3.0, np.inf])) == -np.inf
    noise = np.asarray([[300.0, np.inf], [100.0, np.inf], [0.0, 1.0]])
    np.testing.assert_allclose(y.together(noise), [1.75, 1.25, 0.0])


def test_float_arithmetic_is_no_error() -> None:
    y = Yardstick([A, B], [{"a": np.ones((1, 3)), "b": np.ones((1, 3))}])
    start = np.asarray([0.01, 1e-15])
    assert y.better(np.asarray([0.005, 4e-14]), start) and not y.better(np.asarray([0.005, 1e-9]), start)
    assert not y.better(np.asarray([0.01, 0.0]), start), "nothing was gained"


def test_labels_may_lose_an_answer() -> None:
    y = Yardstick([A, B], [{"a": np.ones((1, 3)), "b": np.arange(400)}])
    start, one, many = (y.errors(np.asarray([0.03, wrong])) for wrong in (0, 2, 9))
    better = np.asarray([0.001, 0.0])
    assert y.loss(np.where([True, False], better, one), start) < y.loss(start, start)
    assert y.loss(np.where([True, False], better, many), start) > y.loss(start, start)


def test_weights() -> None:
    y = Yardstick([Output("a", "a", weight=3.0), B], [{"a": np.ones((1, 3)), "b": np.ones((1, 3))}])
    start = np.asarray([0.01, 0.01])
    assert y.loss(np.asarray([0.0001, 0.01]), start) == pytest.approx(0.01 ** (1 + 3 / 4))


def test_trials_count_relative_to_all_of_them() -> None:
    y = Yardstick([A, B], [{"a": np.ones((1, 3)) * 100, "b": np.ones((1, 3))}])
    noise = np.asarray([[300.0, 0.0], [100.0, 0.0], [0.0, 1e-6]])
    np.testing.assert_allclose(y.together(noise), [0.75, 0.25, 1.0])
    one = Yardstick([A], [{"a": np.ones((1, 3))}])
    assert one.together(noise[:, :1]).tolist() == [300.0, 100.0, 0.0]


def test_outputs_of() -> None:
    nodes = [tiny.node("Relu", "x", "a"), tiny.node("Abs", "x", "b")]
    model = tiny.model(nodes, outputs=["a", "b"])
    turned = tiny.model(nodes, outputs=["b", "a"])
    assert outputs_of(turned, model, EVERYTHING) == [A, B]
    assert [o.weight for o in outputs_of(model, model, Judging({"a": 2.0}, ("b",)))] == [2.0, 0.0]
    with pytest.raises(UserError, match="no output that counts"):
        outputs_of(tiny.model(nodes[:1]), model, Judging({}, ("a",)))
