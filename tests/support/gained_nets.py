"""Small networks in which a few channels of a quantized tensor are far larger than the rest, so that gains pay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import zoo

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding.absorb import Absorbing, absorbing, inserting
from onnx_ocs.regridding.gains import gained
from onnx_ocs.regridding.octaves import Chosen

__all__ = ["NETS", "absorbers", "build", "given", "samples", "twice_halved"]

INT32 = zoo.Style(bias="int32", opset=21, dtype="int8")
FLOAT = zoo.Style(bias="float", opset=21, dtype="int8")


def _uneven(net: zoo.Net, count: int, base: float = 1.0) -> np.ndarray:
    """One number a channel, over a range of two to the seventh, in no order."""
    return base * 2.0 ** net.rng.permutation(np.linspace(-6, 1, count))


def _vector(net: zoo.Net, x: str, shape: tuple[int, ...] = (-1,)) -> str:
    """x times one constant a channel, as RMSNorm and its like end."""
    name = f"gamma{net.count['Mul']}"
    axis = -1 if shape == (-1,) else 1
    return net.op("Mul", net.const(name, _uneven(net, net.channels(x, axis)).reshape(shape)), x)


def _norm(style: zoo.Style) -> onnx.ModelProto:
    """LayerNormalization before two products."""
    net = zoo.Net(style, x=(5, 24))
    c = net.channels("x", -1)
    gamma, beta = net.const("gamma", _uneven(net, c)), net.const("beta", 0.1 * _uneven(net, c))
    x = net.qdq(net.op("LayerNormalization", "x", gamma, beta, axis=-1), "mid", 1.0)
    return net.model(net.op("Add", net.matmul(x, 16), net.matmul(x, 16, bias=False, transpose=True)))


def _vectors(style: zoo.Style) -> onnx.ModelProto:
    """A product and a sum with vectors."""
    net = zoo.Net(style, x=(5, 24))
    y = _vector(net, "x")
    y = net.op("Add", y, net.const("beta", 0.1 * _uneven(net, 24)))
    return net.model(net.matmul(net.qdq(y, "mid", 1.0), 16))


def _gated(style: zoo.Style) -> onnx.ModelProto:
    """The gated unit of a decoder: one factor is a layer."""
    net = zoo.Net(style, x=(5, 16))
    x = net.qdq("x", "mid", 1.0)
    gate, up = net.matmul(x, 24, bias=False), net.matmul(x, 24, bias=False)
    net.initializers["matmul2_w_scale"] *= _uneven(zoo.Net(seed=3), 24).astype(np.float32)
    gate = net.op("Mul", gate, net.op("Sigmoid", gate))
    return net.model(net.matmul(net.qdq(net.op("Mul", gate, up), "mid", 1.0), 16))


def _convs(style: zoo.Style, groups: int = 1, relu: bool = True) -> onnx.ModelProto:
    """Conv, ReLU, Conv."""
    net = zoo.Net(style, x=(4, 8, 8))
    x = net.qdq("x", "mid", 1.0)
    y = net.conv(x, 16)
    for t, v in net.initializers.items():  # rows that differ in size
        if t in ("conv1_w_scale", "conv1_b_scale", "conv1_b") and v.dtype == np.float32 and v.size > 1:
            net.initializers[t] = (v * _uneven(zoo.Net(seed=3), 16)).astype(v.dtype)
    y = net.op("MaxPool", net.op("Relu", y) if relu else y, kernel_shape=[2, 2], strides=[1, 1])
    y = net.qdq(y, "low" if relu and style.dtype == "uint8" else "mid", 1.0)
    return net.model(net.conv(y, 16, groups=groups))


def _gemms(style: zoo.Style) -> onnx.ModelProto:
    """A BatchNormalization's values through a pool, and a Gemm whose weight is turned."""
    net = zoo.Net(style, x=(12,))
    y = net.gemm(net.qdq("x", "mid", 1.0), 16)
    for t, v in net.initializers.items():
        if t in ("gemm1_w_scale", "gemm1_b_scale", "gemm1_b"):
            net.initializers[t] = (v * _uneven(zoo.Net(seed=3), 16)).astype(v.dtype)
    return net.model(net.gemm(net.qdq(net.op("Relu", y), "mid", 1.0), 8, trans=0))


def _residual(style: zoo.Style, gelu: bool = False) -> onnx.ModelProto:
    """A block of BERT: a normalization that a layer and the residual sum read; or the GELU of a feed-forward layer."""
    net = zoo.Net(style, x=(5, 24))
    if gelu:
        y = net.op("Mul", net.matmul(net.qdq("x", "mid", 1.0), 24), net.const("gamma", _uneven(net, 24)))
        y = net.op("Gelu", y)
        return net.model(net.matmul(net.qdq(y, "mid", 1.0), 16))
    gamma, beta = net.const("gamma", _uneven(net, 24)), net.const("beta", 0.1 * _uneven(net, 24))
    y = net.qdq(net.op("LayerNormalization", "x", gamma, beta, axis=-1), "mid", 1.0)
    return net.model(net.op("Add", net.matmul(net.op("Relu", net.matmul(y, 24)), 24), y))


def _three_pairs(style: zoo.Style) -> onnx.ModelProto:
    """Each layer has a quantizer of its own, of one tensor and on one grid."""
    net = zoo.Net(style, x=(5, 24))
    t = _vector(net, "x")
    first, *rest = [net.matmul(net.qdq(t, "mid", 1.0, tag=f"pair{k}"), 16, bias=False) for k in range(3)]
    for other in rest:
        first = net.op("Add", first, other)
    return net.model(first)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "norm": lambda: _norm(FLOAT),
    "vectors": lambda: _vectors(FLOAT),
    "gated": lambda: _gated(FLOAT),
    "convs": lambda: _convs(INT32),
    "convs, uint8": lambda: _convs(zoo.Style(bias="int32", dtype="uint8")),
    "convs, weights of uint8": lambda: _convs(zoo.Style(bias="int32", dtype="uint8", weight="uint8"), relu=False),
    "convs, float weights": lambda: _convs(zoo.Style(bias="float", weight="fake", dtype="int8")),
    "grouped": lambda: _convs(INT32, groups=4),
    "depthwise": lambda: _convs(INT32, groups=16),
    "gemms": lambda: _gemms(INT32),
    "residual": lambda: _residual(FLOAT),
    "gelu": lambda: _residual(zoo.Style(bias="float", opset=20, dtype="int8"), gelu=True),
    "three pairs": lambda: _three_pairs(FLOAT),
    "norm, QCDQ": lambda: _norm(zoo.Style(bias="float", opset=21, dtype="int8", bits=6)),
}


def build(name: str) -> onnx.ModelProto:
    """One of the networks."""
    return NETS[name]()


def samples(model: onnx.ModelProto, count: int = 32) -> dict[str, np.ndarray]:
    """Random inputs."""
    (x,) = model.graph.input
    shape = [d.dim_value for d in x.type.tensor_type.shape.dim][1:]
    return {x.name: np.random.default_rng(5).standard_normal((count, *shape)).astype(np.float32)}


def absorbers(model: onnx.ModelProto, paid: bool = True) -> list[Absorbing]:
    """The tensors that may have gains: for nothing, or by a product of their own, too."""
    graph = Graph(model)
    regions = find_regions(graph, infer_shapes(model))
    found = (absorbing(graph, r) or (inserting(graph, r) if paid else None) for r in regions)
    return [a for a in found if a is not None]


def given(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model with gains drawn at random for all tensors that may have some."""
    rng = np.random.default_rng(seed)
    chosen = [Chosen(a, rng.integers(-1, 4, a.channels), 2.0) for a in absorbers(model)]
    new, done = gained(model, chosen, Regrid(), {})
    assert len(done) == len(chosen)
    return new


def twice_halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with multiples of four for the integers of weights and biases: an octave each way rounds nothing."""
    new = onnx.ModelProto.FromString(model.SerializeToString())
    graph = Graph(new)
    stored = {t.name: t for t in new.graph.initializer}
    written = [n for n in new.graph.node if n.op_type == "Constant"]
    stored |= {n.output[0]: a.t for n in written for a in n.attribute if a.HasField("t")}
    for n in graph.nodes:
        q = read_quantizer(graph, n) if n.op_type in ("DequantizeLinear", "QuantizeLinear") else None
        root = stored.get(n.input[0]) if isinstance(q, Quantizer) else None
        if root is None or not isinstance(q, Quantizer):
            continue
        value = onnx.numpy_helper.to_array(root)
        along = [-1 if q.axis is not None and k == q.axis % value.ndim else 1 for k in range(value.ndim)]
        zero, step = (v.reshape(along) if v.size > 1 else v for v in (q.zero_point, q.scale))
        floats = value.dtype.kind == "f"
        whole = np.rint(value / step) if floats else value.astype(np.int64) - zero
        whole = np.trunc(whole / 4) * 4
        new_value = whole * step if floats else whole + zero
        root.CopyFrom(onnx.numpy_helper.from_array(new_value.astype(value.dtype), root.name))
    return new
