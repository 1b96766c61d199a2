"""What chains of constant nodes evaluate to, beside what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from zoo import Net, Style, image

from onnx_ocs.model.folding import Taken, fold, integer_range
from onnx_ocs.model.graph import Graph


@pytest.mark.parametrize(("zeros", "known"), [(0, True), (1, True), (3, True), (2, False)])
def test_a_zero_point_goes_with_all_scales_or_each(zeros: int, known: bool) -> None:
    """Files have one zero_point for many scales; what fits neither way has no value."""
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=0)
    x, scales = np.arange(6, dtype=np.int8).reshape(3, 2), np.asarray([1.0, 2.0, 4.0], np.float32)
    zero = np.full(zeros, 2, np.int8) if zeros else None
    got = fold(node, [x, scales, zero])
    if not known:
        assert got is None
    else:
        np.testing.assert_array_equal(got, (x - np.float32(2 if zeros else 0)) * scales[:, None])


@pytest.mark.parametrize("form", ["int8", "uint8", "int4", "fake", "clip"])
def test_constants_behind_quantizers_are_what_onnxruntime_computes(form: str) -> None:
    """`Graph.constant` of a weight, against the tensor's values in onnxruntime."""
    n, x = image(Style(weight=form, opset=21))
    y = n.conv(x)
    weight = n.nodes[-1].input[1]
    got = Graph(n.model(y)).constant(weight)
    assert got is not None and got.dtype == np.float32
    np.testing.assert_allclose(got, n.values(weight), rtol=1e-6, atol=1e-7)


FOLDED: dict[str, Callable[[Net, str], str]] = {
    "Transpose": lambda n, t: n.op("Transpose", t, perm=[2, 0, 1]),
    "Reshape": lambda n, t: n.op("Reshape", t, n.ints("shape", 0, -1)),
    "Squeeze": lambda n, t: n.op("Squeeze", n.op("Unsqueeze", t, n.ints("axes", 1)), n.ints("axes", 1)),
    "Cast": lambda n, t: n.op("Cast", t, to=TensorProto.INT32),
    "Clip": lambda n, t: n.op("Clip", t, n.const("low", -0.5), n.const("high", 0.5)),
    "Constant": lambda n, t: n.op("Constant", value_floats=[1.0, 2.0]),
    "Q": lambda n, t: n.op("QuantizeLinear", t, n.const("s", 0.01), n.const("z", 3, np.int8)),
    "QDQ": lambda n, t: n.op(
        "DequantizeLinear", FOLDED["Q"](n, t), n.const("s3", [0.1, 0.2, 0.3]), n.const("z3", [1, 2, 3], np.int8), axis=1
    ),
    "typed Q": lambda n, t: n.op("QuantizeLinear", t, n.const("s", 0.01), output_dtype=TensorProto.INT8),
}


@pytest.mark.parametrize("op", FOLDED)
def test_folding(op: str) -> None:
    n = Net(Style(opset=21), x=(3,))
    t = FOLDED[op](n, n.const("value", n.rng.standard_normal((2, 3, 4))))
    n.op("Identity", "x", out="y")
    got = Graph(n.model("y")).constant(t)
    assert got is not None and np.array_equal(got, n.values(t)) and got.dtype == n.values(t).dtype


@pytest.mark.parametrize("op", ["Relu", "Neg"])
def test_what_is_not_folded(op: str) -> None:
    n = Net(Style(), x=(3,))
    t = n.op(op, n.const("value", [1.0, 2.0]))
    n.op("Identity", "x", out="y")
    graph = Graph(n.model("y"))
    assert graph.constant(t) is None and graph.constant("x") is None and graph.constant("nothing") is None


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.uint8, (0, 255)),
        (np.int16, (-32768, 32767)),
        (ml_dtypes.uint4, (0, 15)),
        (ml_dtypes.int4, (-8, 7)),
        (ml_dtypes.uint2, (0, 3)),
        (ml_dtypes.int2, (-2, 1)),
    ],
)
def test_integer_range(dtype: type, expected: tuple[int, int]) -> None:
    assert integer_range(np.dtype(dtype)) == expected


def test_parameters_out_of_the_ordinary_have_no_value() -> None:
    x, scale = np.zeros((2, 4), np.int8), np.ones(4, np.float32)
    blocked = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=1, block_size=2)
    assert fold(blocked, [x, np.ones((2, 2), np.float32)]) is None
    assert fold(helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=0), [x, scale]) is None  # 4 for 2 rows
    assert fold(helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=2), [x, scale]) is None
    float8 = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=TensorProto.FLOAT8E4M3FN)
    assert fold(float8, [x.astype(np.float32), scale[:1]]) is None
    assert fold(helper.make_node("Identity", ["x"], ["y"]), [None]) is None


def test_what_is_taken_is_taken_of_the_constant() -> None:
    whole = np.arange(12).reshape(3, 4)
    taken = Taken(whole, {}).take(1, np.asarray([3, 3, 0])).take(0, np.asarray([2, 0])).take(1, np.asarray([2, 0]))
    assert taken.shape == (2, 2) and taken.dtype == whole.dtype
    np.testing.assert_array_equal(taken.array(), [[8, 11], [0, 3]])
    assert {a: p.tolist() for a, p in taken.positions.items()} == {1: [0, 3], 0: [2, 0]}


def test_all_and_copies_of_some_are_put_together_as_any_other() -> None:
    whole = np.arange(12).reshape(3, 4)
    positions = np.asarray([0, 1, 2, 3, 1, 1, 3])
    np.testing.assert_array_equal(Taken(whole, {1: positions}).array(), whole[:, positions])


def test_a_reshape_copies_the_dimension_at_the_same_place() -> None:
    x = np.arange(24).reshape(2, 3, 4)
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    got = fold(node, [x, np.asarray([-1, 0, 2])])
    assert got is not None and got.shape == (4, 3, 2)
    kept = helper.make_node("Reshape", ["x", "to"], ["y"], allowzero=1)
    empty = fold(kept, [np.zeros((0, 3)), np.asarray([3, 0])])
    assert empty is not None and empty.shape == (3, 0)
