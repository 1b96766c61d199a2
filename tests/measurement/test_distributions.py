"""Probabilities are told from other values, and compared in logarithms or in front of their softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.measurement.distributions import Logits, in_logarithms, logits_of, sums_to_one
from onnx_ocs.measurement.gate import Judge, choose
from onnx_ocs.model.graph import Graph

RNG = np.random.default_rng(0)


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def test_what_sums_to_one() -> None:
    p = softmax(RNG.standard_normal((3, 5, 4)), 1).astype(np.float32)
    assert sums_to_one(p, 1) and not sums_to_one(p, 2)
    for other in (p - 0.5, 2 * p, p[:, :1], np.ones((3, 2), np.int64), p[0, :, 0], p[:0]):
        assert not sums_to_one(other, min(1, other.ndim - 1))


def test_each_sample_tells_in_logarithms() -> None:
    """One that is sure and one that is not, each off by a third of a logit: 60 dB apart, and 20 in logarithms."""
    exact = np.asarray([[7.0, 0.0], [0.3, 0.0]])
    p, q = softmax(exact), softmax(exact * [[0.95, 1.0], [0.0, 1.0]])
    plain = np.square(p - q).sum(1)
    told = np.square(in_logarithms(p) - in_logarithms(q)).sum(1)
    assert 10 * np.log10(plain[1] / plain[0]) > 40 > 12 > abs(10 * np.log10(told[1] / told[0]))
    assert np.isfinite(in_logarithms(np.asarray([[0.0, 1.0], [-1e-9, 1.0]]))).all()


def scorer(weight: np.ndarray, ends: tuple[str, ...] = (), axis: int | None = 1, opset: int = 17) -> onnx.ModelProto:
    """x @ weight, a Softmax, and what stands behind it."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"])]
    nodes.append(helper.make_node("Softmax", ["z"], ["p0"], **({} if axis is None else {"axis": axis})))
    for k, op in enumerate(ends):
        more = ["s", "o"] if "Linear" in op else []
        nodes.append(helper.make_node(op, [f"p{k}", *more], [f"p{k + 1}"]))
    constants: dict[str, Any] = {"w": weight.astype(np.float32), "s": np.float32(1 / 255), "o": np.uint8(0)}
    info = [helper.make_tensor_value_info(t, TensorProto.FLOAT, ["N", None]) for t in ("x", f"p{len(ends)}")]
    made = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def found(model: onnx.ModelProto, output: str) -> tuple[str, int] | None:
    """The tensor and the axis."""
    logits = logits_of(Graph(model), output)
    return None if logits is None else (logits.tensor, logits.axis)


@pytest.mark.parametrize("ends", [(), ("QuantizeLinear", "DequantizeLinear"), ("Identity",)])
def test_logits_are_found_behind_quantizers(ends: tuple[str, ...]) -> None:
    model = scorer(np.eye(3), ends)
    assert found(model, model.graph.output[0].name) == ("z", 1)


def test_where_there_are_none() -> None:
    assert found(scorer(np.eye(3), ("Sqrt",)), "p1") is None
    assert found(scorer(np.eye(3)), "z") is None and found(scorer(np.eye(3)), "nobody") is None
    assert found(scorer(np.eye(3), axis=None), "p0") == ("z", -1)
    assert found(scorer(np.eye(3), axis=None, opset=11), "p0") == ("z", 1)


def test_logits_count_about_their_mean_and_as_far_as_a_softmax_sees() -> None:
    z = np.asarray([[1.0, -3.0, 5.0]])
    logits = Logits(Graph(scorer(np.eye(3))), "z", 1)
    np.testing.assert_allclose(logits.counted(z), logits.counted(z + 7))
    far = logits.counted(np.asarray([[0.0, -10_000.0]]))
    np.testing.assert_allclose(far, [[10.0, -10.0]])


def test_a_fit_is_judged_in_front_of_a_quantized_softmax() -> None:
    """All outputs are 0 and 1, whatever the layer does; what it gains shows in front of the softmax."""
    exact = 6 * RNG.standard_normal((6, 4))
    ends = ("QuantizeLinear", "DequantizeLinear")
    off = 0.3 * RNG.standard_normal(exact.shape)
    feeds = [{"x": np.sign(RNG.standard_normal((1, 6))).astype(np.float32)} for _ in range(16)]
    judge = Judge(scorer(exact), scorer(exact, ends), lambda: feeds, lambda _: None)
    better, worse = scorer(exact + off, ends), scorer(exact + 3 * off, ends)
    outputs = [judge._run([m], {"p2": "p2"}, 1) for m in (better, worse)]
    differ = [not np.array_equal(a["p2"], b["p2"]) for a, b in zip(*outputs, strict=True)]
    assert sum(differ) <= 4, "little is seen there"
    assert choose(1, lambda chosen: judge.losses(better if chosen else worse)).kept == frozenset([0])
    assert choose(1, lambda chosen: judge.losses(worse if chosen else better)).kept == frozenset()
