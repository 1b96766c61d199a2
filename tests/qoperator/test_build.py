"""The graph that a conversion writes: fresh names, constants that are known at once, shared DequantizeLinear nodes."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from tiny import node

from onnx_ocs.qoperator.build import Builder, NoForm


def builder(opset: int = 17) -> Builder:
    many = np.full(3, 0.5, np.float32)
    constants = {"s": np.float32(0.5), "z": np.uint8(3), "many": many, "none": np.zeros(3, np.uint8)}
    return Builder(tiny.graph([node("Relu", "x", "y")], constants, opset=opset))


def test_names_that_nobody_has() -> None:
    b = builder()
    assert [b.names.fresh("y"), b.names.fresh("y"), b.names.fresh("new")] == ["y_1", "y_2", "new"]


def test_constants_are_known_at_once() -> None:
    b = builder()
    name = b.constant("s", np.float32(2))
    assert name == "s_1" and b.value(name, "scale") == 2 and b.value("s", "scale") == 0.5
    with pytest.raises(NoForm, match="its scale is computed at run time"):
        b.value("x", "scale")


def test_one_dequantizer_for_all_who_read_alike() -> None:
    b = builder()
    assert b.dequantize("q", "s", "z") == b.dequantize("q", "s", "z") != b.dequantize("q", "many", "none", 1)
    assert [n.op_type for n in b.nodes] == ["DequantizeLinear"] * 2
    assert [a.i for a in b.nodes[1].attribute] == [1] and not b.nodes[0].attribute


@pytest.mark.parametrize(("opset", "domain"), [(13, ""), (12, "com.microsoft")])
def test_an_axis_before_the_operator_had_one(opset: int, domain: str) -> None:
    b = builder(opset)
    b.dequantize("q", "many", "none", 1)
    assert b.nodes[0].domain == domain and b.contrib is (domain != "")


def test_an_output_that_cannot_be_quantized() -> None:
    b = builder()
    b.quantize("f", "s", "z", "q")
    assert (b.nodes[0].op_type, [*b.nodes[0].output]) == ("QuantizeLinear", ["q"])
    no = (("s", "", "no zero-point"), ("many", "none", "more than one scale"), ("x", "z", "run time"))
    for scale, zero, why in no:
        with pytest.raises(NoForm, match=why):
            b.quantize("f", scale, zero, "q")
