"""The QDQ form of each integer operator: what it computes, in floats between DequantizeLinear and QuantizeLinear.

    QLinearConv(x, w, b)        Q(Conv(DQ(x), DQ(w), DQ(b; s_x * s_w)))             QLinearMatMul, QGemm alike
    QLinearAdd(a, b)            Q(Add(DQ(a), DQ(b)))                                Mul, Concat alike
    QLinearSigmoid(x)           Q(Sigmoid(DQ(x)))                                   LeakyRelu, pools alike
    c * ConvInteger(Q(x), w)    Conv(DQ(Q(x)), DQ(w; c / s_x))                      MatMulInteger alike

Over the real numbers both sides are equal.  onnxruntime's integer kernels multiply the sum of integers with one float,
so values on a rounding tie may fall to the other side.  Operators: ONNX's, and ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qoperator.build import Builder, NoForm

__all__ = ["FORMS", "INTEGER_SUMS", "integer_sum"]

Form = Callable[[Builder, NodeProto], None]


def _attributes(node: NodeProto, *without: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in without}


def _input(node: NodeProto, k: int) -> str:
    return str(node.input[k]) if len(node.input) > k else ""


def _one_step(b: Builder, scale: str, zero: str, what: str) -> None:
    if b.value(scale, f"{what}'s scale").size != 1:
        raise NoForm(f"its {what} has more than one scale")
    if zero:
        b.value(zero, f"{what}'s zero-point")


def _operand(b: Builder, node: NodeProto, k: int) -> str:
    """The floats of an activation at inputs k, k + 1, k + 2."""
    _one_step(b, _input(node, k + 1), _input(node, k + 2), "input")
    return b.dequantize(_input(node, k), _input(node, k + 1), _input(node, k + 2))


def _bias(b: Builder, bias: str, x_scale: str, w_scale: str, factor: float = 1.0) -> str:
    """An int32 bias, whose scale is the product of the others'."""
    product = np.float32(b.value(x_scale, "scale").reshape(())) * b.value(w_scale, "weight's scale")
    product = np.asarray(product * np.float32(factor), np.float32)
    scale = b.constant(f"{bias}_scale", product.reshape(()) if product.size == 1 else product.reshape(-1))
    return b.dequantize(bias, scale, "")


def _conv(b: Builder, node: NodeProto) -> None:
    x, w = _operand(b, node, 0), b.dequantize(_input(node, 3), _input(node, 4), _input(node, 5), 0)
    inputs = [x, w]
    if _input(node, 8):
        inputs.append(_bias(b, _input(node, 8), _input(node, 1), _input(node, 4)))
    y = b.node("Conv", inputs, b.names.fresh(f"{node.output[0]}_float"), node.name, _attributes(node))
    b.quantize(y, _input(node, 6), _input(node, 7), node.output[0])


def _columns(b: Builder, tensor: str, scale: str) -> int:
    """The axis of the columns of a matrix, where it has a step for each."""
    if b.value(scale, "weight's scale").size == 1:
        return 0
    shape = b.graph.constant_shape(tensor)
    if shape is None:
        raise NoForm("its weight has a scale for each column, and is no constant")
    return len(shape) - 1


def _matmul(b: Builder, node: NodeProto) -> None:
    axis = _columns(b, _input(node, 3), _input(node, 4))
    inputs = [_operand(b, node, 0), b.dequantize(_input(node, 3), _input(node, 4), _input(node, 5), axis)]
    y = b.node("MatMul", inputs, b.names.fresh(f"{node.output[0]}_float"), node.name, {})
    b.quantize(y, _input(node, 6), _input(node, 7), node.output[0])


def _gemm(b: Builder, node: NodeProto) -> None:
    if not _input(node, 8):
        raise NoForm("its output is float32")
    axis = 0 if attribute(node, "transB", 0) else 1
    inputs = [_operand(b, node, 0), b.dequantize(_input(node, 3), _input(node, 4), _input(node, 5), axis)]
    if _input(node, 6):
        inputs.append(_bias(b, _input(node, 6), _input(node, 1), _input(node, 4), float(attribute(node, "alpha", 1.0))))
    y = b.node("Gemm", inputs, b.names.fresh(f"{node.output[0]}_float"), node.name, _attributes(node))
    b.quantize(y, _input(node, 7), _input(node, 8), node.output[0])


def _two(op: str) -> Form:
    def form(b: Builder, node: NodeProto) -> None:
        y = b.names.fresh(f"{node.output[0]}_float")
        b.node(op, [_operand(b, node, 0), _operand(b, node, 3)], y, node.name, {})
        b.quantize(y, _input(node, 6), _input(node, 7), node.output[0])

    return form


def _one(op: str) -> Form:
    def form(b: Builder, node: NodeProto) -> None:
        if attribute(node, "channels_last", 0):
            raise NoForm("its channels come last")
        y, kept = b.names.fresh(f"{node.output[0]}_float"), _attributes(node, "channels_last")
        b.node(op, [_operand(b, node, 0)], y, node.name, kept)
        b.quantize(y, _input(node, 3), _input(node, 4), node.output[0])

    return form


def _concat(b: Builder, node: NodeProto) -> None:
    parts = [_operand(b, node, k) for k in range(2, len(node.input), 3)]
    y = b.node("Concat", parts, b.names.fresh(f"{node.output[0]}_float"), node.name, _attributes(node))
    b.quantize(y, _input(node, 0), _input(node, 1), node.output[0])


def _matmul_to_float(b: Builder, node: NodeProto) -> None:
    _one_step(b, _input(node, 2), _input(node, 4), "input")
    axis = _columns(b, _input(node, 1), _input(node, 3))
    x = b.dequantize(_input(node, 0), _input(node, 2), _input(node, 4))
    w = b.dequantize(_input(node, 1), _input(node, 3), _input(node, 5), axis)
    out, bias = node.output[0], _input(node, 6)
    y = b.node("MatMul", [x, w], b.names.fresh(f"{out}_product") if bias else out, node.name, {})
    if bias:
        b.node("Add", [y, bias], out, f"{node.name}_bias", {})


FORMS: dict[str, Form] = {
    "QLinearConv": _conv, "QLinearMatMul": _matmul, "QGemm": _gemm, "QLinearAdd": _two("Add"),
    "QLinearMul": _two("Mul"), "QLinearConcat": _concat, "MatMulIntegerToFloat": _matmul_to_float,
"QLinearSigmoid": _one("Sigmoid"), "QLinearLeakyRelu": _one("LeakyRelu"), "QLinearAveragePool": _one("AveragePool"),
    "QLinearGlobalAveragePool": _one("GlobalAveragePool"),
}  # fmt: skip

INTEGER_SUMS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def integer_sum(b: Builder, node: NodeProto) -> list[NodeProto]:
    """ConvInteger or MatMulInteger of statically quantized values, and the Cast and Mul behind it.

    Args:
        b: where the layer in its place is written.
        node: the operator.

    Returns:
        The nodes behind it that the layer has taken in.

    Raises:
        NoForm: its sums are not multiplied with a constant, or its input's range is computed at run time.
    """
    graph, x = b.graph, _input(node, 0)
    source = graph.producer.get(x)
    if source is None or not is_op(source, "QuantizeLinear"):
        dynamic = source is not None and source.op_type == "DynamicQuantizeLinear"
        raise NoForm("its input's range is computed at run time" if dynamic else "its input has no QuantizeLinear")
    step = b.value(source.input[1], "input's scale")
    if step.size != 1 or _zero(b, _input(node, 2), "input") != _zero(b, _input(source, 2), "input"):
        raise NoForm("its input is quantized with another zero-point, or several scales")
    cast, mul, factor = _behind(b, node)
    weight, out = _input(node, 1), mul.output[0]
    w = _scaled_weight(b, node, weight, factor.astype(np.float64) / float(step.reshape(())))
    op = INTEGER_SUMS[node.op_type]
    b.node(op, [b.dequantize(x, source.input[1], _input(source, 2)), w], out, node.name, _attributes(node))
    return [cast, mul]


def _scaled_weight(b: Builder, node: NodeProto, weight: str, scale: Array) -> str:
    """The weight with the scale that is left of a factor, one or one for each output channel."""
    stored = b.graph.constant(weight)
    if stored is None:
        raise NoForm("its weight is no constant")
    axis = 0 if node.op_type == "ConvInteger" else stored.ndim - 1
    behind = stored.ndim - 2 if node.op_type == "ConvInteger" else 0  # axes behind the output's channels
    if scale.size > 1 and not (scale.ndim > behind and scale.shape[-1 - behind] == scale.size == stored.shape[axis]):
        raise NoForm("what its sums are multiplied with does not lie along its channels")
    if not np.all((scale > 0) & np.isfinite(scale)):
        raise NoForm("what its sums are multiplied with is no positive number")
    zeros = b.value(_input(node, 3), "weight's zero-point") if _input(node, 3) else np.zeros((), stored.dtype)
    each = max(scale.size, zeros.size)
    steps, zero = (np.broadcast_to(v.reshape(-1), (each,)) if each > 1 else v.reshape(()) for v in (scale, zeros))
    scales = b.constant(f"{weight}_scale", steps.astype(np.float32))
    return b.dequantize(weight, scales, b.constant(f"{weight}_zero_point", zero), axis)


def _zero(b: Builder, tensor: str, what: str) -> int:
    """A zero-point; 0 where there is none."""
    if not tensor:
        return 0
    value = b.value(tensor, f"{what}'s zero-point")
    if value.size != 1:
        raise NoForm(f"its {what} has several zero-points")
    return int(value.reshape(()))


def _behind(b: Builder, node: NodeProto) -> tuple[NodeProto, NodeProto, Array]:
    """The Cast and the Mul behind sums of integers, and what they are multiplied with."""
    graph, found = b.graph, []
    tensor = node.output[0]
    for op in ("Cast", "Mul"):
        readers = graph.readers(tensor)
        if not graph.private(tensor) or not is_op(readers[0], op):
            raise NoForm("its sums are not multiplied with a constant right behind it")
        found.append(readers[0])
        tensor = readers[0].output[0]
    others = [t for t in found[1].input if t != found[0].output[0]]
    return found[0], found[1], b.value(others[0] if len(others) == 1 else "", "factor")
