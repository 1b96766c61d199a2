"""Networks of integer operators, spelled out: one of each kind in a row, with steps that their values fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


class IntegerNet:
    """Grows node by node; `last` holds integers on the grid of the scale and zero-point that `grid` names."""

    def __init__(self, opset: int = 17) -> None:
        self.opset, self.nodes, self.constants = opset, list[NodeProto](), list[TensorProto]()
        self.rng = np.random.default_rng(5)

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def grid(self, step: float, zero: int = 128) -> list[str]:
        return [self.constant(np.float32(step)), self.constant(np.uint8(zero))]

    def op(self, op: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", domain=domain, **attributes))
        return name

    def contrib(self, op: str, inputs: list[str], **attributes: Any) -> str:
        return self.op(op, inputs, "com.microsoft", **attributes)

    def weight(self, *shape: int, columns: int = 0) -> list[str]:
        """Integers of 7 bits (kernels may saturate at 8), a step or one for each of so many columns, zero-points."""
        w = self.constant(self.rng.integers(-63, 64, shape).astype(np.int8))
        steps = self.rng.uniform(4e-3, 8e-3, columns or 1).astype(np.float32)
        steps = steps if columns else steps[0]
        return [w, self.constant(steps), self.constant(np.zeros(np.shape(steps), np.int8))]

    def bias(self, size: int) -> str:
        return self.constant(self.rng.integers(-2000, 2000, size).astype(np.int32))

    def model(self, output: str, shape: list[Any]) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 3, 8, 8]), (output, shape))]
        graph = helper.make_graph(self.nodes, "integers", ends[:1], ends[1:], self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def every_operator(opset: int = 17) -> onnx.ModelProto:
    """All operators that have a QDQ form, in one network with two outputs' worth of branches."""
    n = IntegerNet(opset)
    gx, g1, g2, g3, g4 = n.grid(0.0313), n.grid(0.0207, 0), n.grid(0.0431), n.grid(0.0179), n.grid(0.0037, 0)
    x = n.op("QuantizeLinear", ["x", *gx])
    a = n.op("QLinearConv", [x, *gx, *n.weight(8, 3, 3, 3, columns=8), *g1, n.bias(8)], pads=[1] * 4)
    b = n.op("QLinearConv", [a, *g1, *n.weight(8, 1, 3, 3), *g2], pads=[1] * 4, group=8)
    c = n.contrib("QLinearLeakyRelu", [b, *g2, *g3], alpha=0.1)
    d = n.contrib("QLinearAdd", [a, *g1, c, *g3, *g2])
    e = n.contrib("QLinearSigmoid", [d, *g2, *g4])
    f = n.contrib("QLinearMul", [d, *g2, e, *g4, *g2])
    h = n.contrib("QLinearConcat", [*g2, f, *g2, a, *g1], axis=1)
    i = n.contrib("QLinearAveragePool", [h, *g2, *g2], kernel_shape=[2, 2], strides=[2, 2], channels_last=0)
    k = n.contrib("QLinearGlobalAveragePool", [i, *g2, *g3], channels_last=0)
    m = n.op("Flatten", [k])
    gemm = [m, *g3, *n.weight(16, 6, columns=6), n.bias(6), *g2]
    o = n.contrib("QGemm", gemm, transB=0, alpha=1.0)
    p = n.op("QLinearMatMul", [o, *g2, *n.weight(6, 5, columns=5), *g2])
    q = n.contrib("MatMulIntegerToFloat", [p, *n.weight(5, 4)[:1], g2[0], n.constant(np.float32(0.01)), g2[1]])
    return n.model(q, ["N", 4])


def integer_sums(static: bool = True, factor: tuple[int, ...] = (8, 1, 1)) -> onnx.ModelProto:
    """ConvInteger and MatMulInteger, each with the Cast and the Mul behind it."""
    n = IntegerNet()
    gx, gh = n.grid(0.03), n.grid(0.05, 0)
    w, v = n.weight(8, 3, 3, 3)[0], n.weight(8, 5)[0]
    if static:
        x, zero, scale = n.op("QuantizeLinear", ["x", *gx]), gx[1], 0.03
    else:
        x, zero, scale = "dx", "dz", 1.0
        n.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["dx", "ds", "dz"], name="dynamic"))
    s = n.op("Cast", [n.op("ConvInteger", [x, w, zero], pads=[1] * 4)], to=1)
    s = n.op("Mul", [s, n.constant((scale * n.rng.uniform(2e-3, 4e-3, factor)).astype(np.float32))])
    s = s if static else n.op("Mul", [s, "ds"])
    h = n.op("Flatten", [n.op("GlobalAveragePool", [n.op("Relu", [s])])])
    h = n.op("QuantizeLinear", [h, *gh])
    y = n.op("Cast", [n.op("MatMulInteger", [h, v, gh[1]])], to=1)
    y = n.op("Mul", [n.constant(np.float32(0.05 * 3e-3)), y])
    return n.model(y, ["N", 5])
