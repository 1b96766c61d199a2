"""Random QDQ graphs: topology, dtypes, axes, zero-points, groups, sharing, opsets.

All steps are powers of two and all weights small multiples of one, so that every value is exact in float32 in whatever
order sums are taken: a rewritten graph must give the very numbers of the oracle.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from hypothesis import strategies as st
from interpreter import Interpreter, limits
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
SIDE, TOKENS = 4, 3
BYTES = {"uint8": np.uint8, "int8": np.int8}
WIDER = {"uint16": np.uint16, "int16": np.int16, "uint4": ml_dtypes.uint4, "int4": ml_dtypes.int4}


class Builder:
    """Grows a model; knows the values that its tensors take on the sample."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.opset = self.choose([10, 11, 13, 13, 15, 17, 17, 19, 21, 21])
        self.kind = self.choose(["image", "image", "image", "tokens", "dense"])
        self.rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}
        self.shared: dict[Any, str] = {}
        self.count = 0
        channels = self.choose([2, 3, 4, 8])
        rest = {"image": (SIDE, SIDE), "dense": (), "tokens": ()}[self.kind]
        shape = (2, TOKENS, channels) if self.kind == "tokens" else (2, channels, *rest)
        # odd multiples of a small step, so that few values lie on rounding ties
        self.feed = {"x": ((self.rng.integers(-2048, 2048, shape) * 2 + 1) / 1024).astype(np.float32)}
        self.tensors: list[str] = []  # float tensors that may be used again
        self.steps: dict[str, float] = {}  # of dequantized tensors

    def choose(self, options: list[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        return bool(self.draw(st.integers(0, 99)) < percent)

    def name(self, base: str) -> str:
        self.count += 1
        return f"{base}{self.count}"

    def const(self, base: str, value: Any, share: bool = False) -> str:
        value = np.asarray(value)
        key = (value.dtype.name, value.shape, value.tobytes())
        if share and key in self.shared and self.chance(60):
            return self.shared[key]
        name = self.name(base)
        self.initializers[name] = value
        self.shared[key] = name
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = self.name(op.lower())
        name = out if self.chance(70) else ""
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=name, **attributes))
        return out

    def model(self, *outputs: str) -> onnx.ModelProto:
        values = self.values()
        inputs = [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, ["N", *v.shape[1:]]) for k, v in self.feed.items()
        ]
        constants = [numpy_helper.from_array(v, k) for k, v in self.initializers.items()]
        out = [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["N", *values[o].shape[1:]]) for o in outputs]
        g = helper.make_graph(self.nodes, "random", inputs, out, constants)
        return helper.make_model(
            g, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10 if self.opset > 20 else 8
        )

    def values(self) -> dict[str, Array]:
        g = helper.make_graph(
            self.nodes, "part", [], [], [numpy_helper.from_array(v, k) for k, v in self.initializers.items()]
        )
        part = helper.make_model(g, opset_imports=[helper.make_opsetid("", self.opset)])
        return Interpreter(part).run(self.feed).values

    def shape(self, tensor: str) -> tuple[int, ...]:
        return tuple(self.values()[tensor].shape)

    # ---- pieces -----------------------------------------------------------------------------------------------------

    @property
    def axis(self) -> int:
        return 2 if self.kind == "tokens" else 1

    def quantizer(self, tensor: str) -> str:
        """Q, perhaps an integer Clip, DQ; the step is a power of two at which a part is clipped."""
        dtypes = {**BYTES, **WIDER} if self.opset >= 21 else BYTES
        dtype = np.dtype(dtypes[self.choose(list(dtypes))])
        lo, hi = limits(dtype)
        narrow = dtype.itemsize == 1 and dtype.name in BYTES and self.opset >= 12 and self.chance(25)
        if narrow:
            lo, hi = (0, 7) if dtype.name == "uint8" else (-8, 7)
        v = self.values()[tensor]
        zero = {"low": lo, "middle": (lo + hi + 1) // 2, "high": hi, "some": int(self.rng.integers(lo, hi + 1))}[
            self.choose(["low", "low", "low", "middle", "middle", "some", "high"])
        ]
        reach = max(hi - zero, 1)
        top = float(np.abs(v).max()) or 1.0
        share = self.choose([0.2, 0.4, 0.6, 1.0])
        step = np.float32(2.0 ** np.round(np.log2(top * share / reach)))
        step = np.float32(max(step, 2.0**-16))
        # a step at which no value lies on a rounding tie, if there is one near
        near = [np.float32(step * f) for f in (1, 2, 0.5, 4, 0.25, 8, 0.125)]
        step = next((s for s in near if not np.any(v / s - np.floor(v / s) == 0.5)), step)
        attributes: dict[str, Any] = {}
        scale: Array = np.asarray(step)
        zeros: Array = np.asarray(zero).astype(dtype)
        if self.opset >= 13 and self.chance(12):  # per channel
            channels = v.shape[self.axis]
            scale = (step * 2.0 ** self.rng.integers(-1, 2, channels)).astype(np.float32)
            zeros = np.full(channels, zero).astype(dtype)
            attributes["axis"] = self.axis
        elif self.chance(15):
            scale, zeros = scale.reshape(1), zeros.reshape(1)
        s, z = self.const("s", scale, True), self.const("z", zeros, True)
        q = self.op("QuantizeLinear", tensor, s, z, **attributes)
        if narrow:
            q = self.op("Clip", q, self.const("lo", np.asarray(lo, dtype)), self.const("hi", np.asarray(hi, dtype)))
        if self.kind == "image" and self.opset >= 12 and dtype.name in BYTES and self.chance(10):
            q = self.op("MaxPool", q, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        out = self.op("DequantizeLinear", q, s, z, **attributes)
        if scale.size == 1:
            self.steps[out] = float(step)
        self.tensors.append(out)
        return out

    def multiplied(self, x: str) -> str:
        """A constant factor behind a quantizer, and perhaps a second one whose steps it relates to the first's."""
        dq = next((n for n in self.nodes if x in n.output and n.op_type == "DequantizeLinear"), None)
        c = self.const("c", np.float32(self.choose([0.5, 0.25, 2.0])))
        op = self.choose(["Mul", "Mul", "Div"])
        y = self.op(op, *((c, x) if op == "Mul" and self.chance(50) else (x, c)))
        if dq is None or len(dq.attribute) or self.chance(30):
            return y
        factor = self.initializers[c] if op == "Mul" else 1 / self.initializers[c]
        s = self.const("s", (self.initializers[dq.input[1]] * factor).astype(np.float32))
        out = self.op("DequantizeLinear", self.op("QuantizeLinear", y, s, dq.input[2]), s, dq.input[2])
        if self.initializers[s].size == 1:
            self.steps[out] = float(self.initializers[s].reshape(()))
        return out

    def weight(self, shape: tuple[int, ...], axis: int) -> tuple[str, float | None]:
        """A weight, and its step where it has one for all."""
        whole = self.rng.integers(-3, 4, shape)
        step = np.float32(2.0 ** -self.choose([2, 3, 5]))
        form = self.choose(["float", "int8", "int8", "channels", "fake", "identity"])
        if form == "channels" and self.opset < 13:
            form = "int8"
        if form == "float":
            return self.const("w", (whole * step).astype(np.float32), True), None
        if form == "identity":
            return self.op("Identity", self.const("w", (whole * step).astype(np.float32))), None
        s: Array = np.asarray(step)
        z: Array = np.asarray(0, np.int8)
        attributes: dict[str, Any] = {}
        if form == "channels":
            s = (step * 2.0 ** self.rng.integers(-1, 2, shape[axis])).astype(np.float32)
            z = np.zeros(shape[axis], np.int8)
            attributes["axis"] = axis
        names = self.const("ws", s, True), self.const("wz", z, True)
        if form == "fake":
            w = self.op("QuantizeLinear", self.const("w", (whole * step).astype(np.float32)), *names)
        else:
            w = self.const("w", whole.astype(np.int8), True)
        return self.op("DequantizeLinear", w, *names, **attributes), None if form == "channels" else float(step)

    def bias(self, size: int, x: str, step: float | None) -> list[str]:
        form = self.choose(["none", "float", "float", "int32"])
        if form == "none":
            return []
        if form == "int32" and step is not None and x in self.steps:
            s = self.const("bs", np.float32(step * self.steps[x]))
            return [self.op("DequantizeLinear", self.const("b", self.rng.integers(-9, 10, size).astype(np.int32)), s)]
        return [self.const("b", ((self.rng.integers(-1024, 1024, size) * 2 + 1) / 2048).astype(np.float32))]

    def layer(self, x: str) -> str:
        """A weighted layer."""
        shape = self.shape(x)
        channels = shape[self.axis]
        if self.kind == "tokens" or (self.kind == "dense" and self.chance(30)):
            out = self.choose([2, 4, 6])
            w, _ = self.weight((channels, out), 1)
            y = self.op("MatMul", x, w)
            if self.chance(70):
                b = self.const("b", ((self.rng.integers(-1024, 1024, out) * 2 + 1) / 2048).astype(np.float32))
                y = self.op("Add", *((y, b) if self.chance(70) else (b, y)))
            return y
        if self.kind == "dense":
            out, transposed = self.choose([2, 4, 6]), self.chance(60)
            w, step = self.weight((out, channels) if transposed else (channels, out), 0 if transposed else 1)
            bias = self.bias(out, x, step)
            if not bias and self.opset < 11:
                bias = [self.const("b", np.zeros(out, np.float32))]
            return self.op("Gemm", x, w, *bias, **({"transB": 1} if transposed else {}))
        groups = self.choose([1, 1, 1, channels, *([2] if channels % 2 == 0 else [])])
        if self.chance(12):
            per = self.choose([1, 2])
            w, step = self.weight((channels, per, 2, 2), 1)
            bias = self.bias(per * groups, x, step) if groups == 1 else []
            return self.op("ConvTranspose", x, w, *bias, group=groups, strides=self.choose([[1, 1], [2, 2]]))
        per = self.choose([1, 2, 3]) if groups > 1 else self.choose([2, 4, 6])
        kernel = self.choose([1, 3])
        w, step = self.weight((per * groups, channels // groups, kernel, kernel), 0)
        attributes: dict[str, Any] = {"group": groups, "pads": [kernel // 2] * 4}
        if self.chance(10) and min(shape[2:]) > 2:
            attributes["strides"] = [2, 2]
        return self.op("Conv", x, w, *self.bias(per * groups, x, step), **attributes)

    def activation(self, x: str) -> str:
        kind = self.choose(["none", "none", "relu", "relu", "relu", "clip", "leaky", "scaled"])
        if kind == "relu":
            return self.op("Relu", x)
        if kind == "clip":
            bound = np.float32(self.choose([1.0, 4.0, 6.0]))
            if self.opset < 11:
                return self.op("Clip", x, min=0.0, max=float(bound))
            return self.op("Clip", x, self.const("lo", np.float32(0)), self.const("hi", bound))
        if kind == "leaky":
            return self.op("LeakyRelu", x, alpha=self.choose([0.25, 0.5]))
        if kind == "scaled":
            return self.op("Mul", x, self.const("m", np.float32(self.choose([0.5, 2.0, -1.0]))))
        return x

    def between(self, x: str) -> str:
        """Something between layers: pooling, joining, moving."""
        shape = self.shape(x)
        same = [t for t in self.tensors if t != x and self.shape(t) == shape]
        kinds = ["none", "none", "none"] + (["add", "add", "concat"] if same else [])
        if self.kind == "image":
            kinds += ["maxpool", "averagepool", "transpose"] if min(shape[2:]) >= 2 else []
        if self.kind == "tokens":
            kinds += ["transpose"]
        kind = self.choose(kinds)
        if kind == "add":
            other = self.choose(same)
            return self.op("Add", *((x, other) if self.chance(50) else (other, x)))
        if kind == "concat" and shape[self.axis] <= 8:
            other = self.choose(same)
            return self.op("Concat", *((x, other) if self.chance(50) else (other, x)), axis=self.axis)
        if kind == "maxpool":
            return self.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        if kind == "averagepool":
            return self.op("AveragePool", x, kernel_shape=[2, 2], strides=self.choose([[1, 1], [2, 2]]))
        if kind == "transpose":
            perm = [0, 2, 3, 1] if self.kind == "image" else [0, 2, 1]
            back = [0, 3, 1, 2] if self.kind == "image" else [0, 2, 1]
            return self.op("Transpose", self.op("Transpose", x, perm=perm), perm=back)
        return x

    def head(self, x: str) -> str:
        """From an image to a vector."""
        shape = self.shape(x)
        kind = self.choose(["flatten", "reshape", "pool"])
        if kind == "pool" and float(np.log2(shape[2] * shape[3])).is_integer():
            x = self.op("GlobalAveragePool", x)
        if kind == "reshape":
            x = self.op("Reshape", x, self.const("shape", np.asarray([0, -1], np.int64)))
        else:
            x = self.op("Flatten", x)
        self.kind = "dense"
        self.tensors = []
        return x


@st.composite
def graphs(draw: Any) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model and a feed for it."""
    b = Builder(draw)
    x = b.quantizer("x") if b.chance(80) else "x"
    for _ in range(draw(st.integers(1, 4))):
        if b.kind == "image" and b.chance(15):
            x = b.head(x)
        y = b.between(b.activation(b.layer(x)))
        x = b.quantizer(y) if b.chance(85) or not b.tensors else y
        x = b.multiplied(x) if b.chance(10) else x
        if b.chance(15) and len(b.tensors) > 1:
            x = b.choose(b.tensors)
    outputs = [b.layer(x)]
    others = [n.output[0] for n in b.nodes if n.op_type in ("Relu", "Add", "Conv", "DequantizeLinear", "Concat")]
    others = [o for o in others if o not in outputs and b.values()[o].ndim > 1 and b.values()[o].shape[0] == 2]
    if others and b.chance(25):
        outputs.append(b.choose(others))
    model = b.model(*outputs)
    if b.chance(15):  # as older exporters write it
        g = model.graph
        g.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in g.initializer)
    return model, b.feed
