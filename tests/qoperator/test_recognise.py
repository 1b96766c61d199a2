"""Which nodes are integer operators, and how they are counted."""

from __future__ import annotations

import zoo
from integer_nets import every_operator, integer_sums

from onnx_ocs.qoperator.recognise import counted_operators, dynamic_operators, integer_operators, is_integer_operator


def test_layers_come_first() -> None:
    told = counted_operators(integer_operators(every_operator()))
    assert told.startswith("2 QLinearConv, 1 MatMulIntegerToFloat, 1 QGemm, 1 QLinearMatMul, 1 QLinearAdd")


def test_static_and_dynamic() -> None:
    assert not dynamic_operators(integer_sums())
    assert [n.op_type for n in dynamic_operators(integer_sums(static=False))] == ["DynamicQuantizeLinear"]


def test_qdq_files_have_none() -> None:
    assert not any(map(is_integer_operator, zoo.build("residual")[0].graph.node))
