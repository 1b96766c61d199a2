"""What an operator is the same as, and which have no exact form: refused in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from integer_nets import IntegerNet, every_operator, integer_sums

from onnx_ocs.errors import UserError
from onnx_ocs.qoperator.convert import convert
from onnx_ocs.qoperator.forms import FORMS, INTEGER_SUMS


def test_every_form_is_tried() -> None:
    """In the networks that `test_convert` runs."""
    tried = {n.op_type for m in (every_operator(), integer_sums()) for n in m.graph.node}
    assert FORMS.keys() | INTEGER_SUMS.keys() <= tried


def test_attributes_of_layers_stay() -> None:
    old, new = every_operator(), convert(every_operator())
    for op, now in (("QLinearConv", "Conv"), ("QGemm", "Gemm")):
        before = [[*n.attribute] for n in old.graph.node if n.op_type == op]
        assert before == [[*n.attribute] for n in new.graph.node if n.op_type == now]
    pool = next(n for n in new.graph.node if n.op_type == "AveragePool")
    assert {a.name for a in pool.attribute} == {"kernel_shape", "strides"}


def softmax(n: IntegerNet, x: str, g: list[str]) -> str:
    return n.contrib("QLinearSoftmax", [x, *g, *g], opset=13)


def channels_last(n: IntegerNet, x: str, g: list[str]) -> str:
    return n.contrib("QLinearGlobalAveragePool", [x, *g, *g], channels_last=1)


def no_zero_point(n: IntegerNet, x: str, g: list[str]) -> str:
    return n.contrib("QLinearAdd", [x, *g, x, *g, g[0]])


def computed_scale(n: IntegerNet, x: str, g: list[str]) -> str:
    return n.contrib("QLinearSigmoid", [x, n.op("Exp", [g[0]]), g[1], *g])


def steps_of_rows(n: IntegerNet, x: str, g: list[str]) -> str:
    rows = n.constant(np.full(8, 0.1, np.float32)), n.constant(np.zeros(8, np.uint8))
    return n.op("QLinearMatMul", [x, *rows, *n.weight(8, 4), *g])


def unscaled(n: IntegerNet, x: str, g: list[str]) -> str:
    return n.op("Cast", [n.op("ConvInteger", [x, n.weight(4, 3, 1, 1)[0], g[1]])], to=1)


def another_zero_point(n: IntegerNet, x: str, g: list[str]) -> str:
    s = n.op("ConvInteger", [x, n.weight(4, 3, 1, 1)[0], n.constant(np.uint8(7))])
    return n.op("Mul", [n.op("Cast", [s], to=1), n.constant(np.float32(0.1))])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (softmax, "it is none of the operators that have one"),
        (channels_last, "its channels come last"),
        (no_zero_point, "its output has no zero-point"),
        (computed_scale, "its input's scale is computed at run time"),
        (steps_of_rows, "its input has more than one scale"),
        (unscaled, "its sums are not multiplied with a constant right behind it"),
        (another_zero_point, "its input is quantized with another zero-point"),
    ],
)
def test_no_exact_form(make: Callable[[IntegerNet, str, list[str]], str], why: str) -> None:
    n = IntegerNet()
    g = n.grid(0.03)
    end = make(n, n.op("QuantizeLinear", ["x", *g]), g)
    with pytest.raises(UserError, match="has no exact QDQ form") as e:
        convert(n.model(end, ["N", None, None, None]))
    assert why in str(e.value) and "\n" not in str(e.value) and "QuantFormat.QDQ" in str(e.value)


def test_dynamic_sums_have_none() -> None:
    with pytest.raises(UserError, match="its input's range is computed at run time"):
        convert(integer_sums(static=False))


def test_factors_along_another_axis_have_none() -> None:
    with pytest.raises(UserError, match="does not lie along its channels"):
        convert(integer_sums(factor=(8,)))
