"""A zoo of small QDQ models, built with onnx.helper and a seeded generator.

A `Net` grows node by node and knows the values that its tensors take, so that every quantizer can be given a step at
which a share of its values is clipped.  `CASES` holds topologies in one dialect, and dialects of one topology.  Each
case says which tensors are translated, and how, in auto mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

DTYPES = {
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int16": np.int16,
    "uint4": ml_dtypes.uint4,
    "int4": ml_dtypes.int4,
    "uint2": ml_dtypes.uint2,
    "int2": ml_dtypes.int2,
}
ONE_SIDED = 0.8  # share of the positive values that a quantizer with zero_point == qmin expresses


@dataclass(frozen=True)
class Style:
    """How a tool writes things."""

    opset: int = 17
    dtype: str = "uint8"  # of activations
    bits: int | None = None  # QCDQ: an integer Clip behind Q
    weight: str = "int8"  # "float", "int8", "uint8", "int4", "fake" (float, Q, DQ), "clip" (int8, Clip, DQ)
    per_channel: bool = True  # of weights
    bias: str = "float"  # "none", "int32", "half" (int32 with half the scale), "int8" (own scale)
    zero: str = "initializer"  # "constant", "identity", "cast", "absent", "vector" (shape [1]), "output_dtype"
    domain: str = ""  # of Q and DQ
    half: bool = False  # float16
    pow2: bool = False  # steps are powers of two
    shared: bool = False  # one zero-point and one bias for all
    listed: bool = False  # initializers are listed as graph inputs
    named: bool = True
    shuffled: bool = False
    inferred: bool = False  # the file has shapes of all tensors
    weight_constant: bool = False  # weights are Constant nodes
    batch: int | str = "N"


def integer_range(dtype: str, bits: int | None = None) -> tuple[int, int]:
    """Smallest and largest integer, by the name of the dtype."""
    width = bits or int(dtype.lstrip("uint"))
    return (0, 2**width - 1) if dtype[0] == "u" else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)


def options(level: str = "disable_all", fusion: bool = False) -> ort.SessionOptions:
    o = ort.SessionOptions()
    o.graph_optimization_level = {
        "disable_all": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "enable_all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[level]
    o.log_severity_level, o.intra_op_num_threads = 4, 1
    if not fusion:
        o.add_session_config_entry("session.disable_quant_qdq", "1")
    return o


def execute(model: onnx.ModelProto, feed: dict[str, np.ndarray], level: str = "disable_all") -> list[np.ndarray]:
    """The outputs of a model in onnxruntime, without QDQ fusion."""
    return ort.InferenceSession(model.SerializeToString(), options(level), ["CPUExecutionProvider"]).run(None, feed)


class Net:
    """A model that grows; methods take and give tensor names."""

    def __init__(self, style: Style = Style(), seed: int = 0, **inputs: tuple[int, ...]) -> None:
        self.style, self.rng = style, np.random.default_rng(seed)
        self.float = np.dtype(np.float16 if style.half else np.float32)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.outputs: list[tuple[str, int]] = []
        self.count: Counter[str] = Counter()
        self.steps: dict[str, float] = {}  # of dequantized tensors
        self.shapes = inputs
        self.feed = {k: self.rng.standard_normal((3, *s)).astype(self.float) for k, s in inputs.items()}

    # ---- pieces -----------------------------------------------------------------------------------------------------

    def const(self, name: str, value: Any, dtype: Any = None) -> str:
        """Add an initializer."""
        self.initializers[name] = np.asarray(value, dtype if dtype is not None else self.float)
        return name

    def ints(self, name: str, *values: int) -> str:
        return self.const(name, values, np.int64)

    def op(self, op: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node; its output is called after the operator, with a number."""
        self.count[op] += 1
        out = out or f"{op.lower()}{self.count[op]}"
        name = f"{out}/{op}" if self.style.named else ""
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=name, domain=domain, **attributes))
        return out

    def values(self, tensor: str) -> np.ndarray:
        """What the tensor holds on the sample inputs."""
        if tensor in self.feed:
            return self.feed[tensor]
        model = self._model()
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        return execute(model, self.feed)[0]

    def _model(self) -> onnx.ModelProto:
        element = helper.np_dtype_to_tensor_dtype(self.float)
        inputs = [helper.make_tensor_value_info(k, element, [self.style.batch, *s]) for k, s in self.shapes.items()]
        constants = [numpy_helper.from_array(v, k) for k, v in self.initializers.items()]
        if self.style.batch != "N":
            self.feed = {k: v[: int(self.style.batch)] for k, v in self.feed.items()}
        graph = helper.make_graph(self.nodes, "zoo", inputs, [], constants)
        domains = sorted({n.domain for n in self.nodes} - {""})
        imports = [helper.make_opsetid("", self.style.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=max(8, min(10, self.style.opset - 11)))

    def model(self, *outputs: str | tuple[str, int]) -> onnx.ModelProto:
        """The finished model; outputs are float tensors, or (name, element type)."""
        float_type = helper.np_dtype_to_tensor_dtype(self.float)
        model = self._model()
        for o in outputs:
            name, element = (o, float_type) if isinstance(o, str) else o
            shape = [self.style.batch, *self.values(name).shape[1:]]
            model.graph.output.append(helper.make_tensor_value_info(name, element, shape))
        g = model.graph
        if self.style.listed:
            for t in g.initializer:
                g.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
        if self.style.weight_constant:
            for t in [t for t in g.initializer if t.name.endswith("_w")]:
                g.node.insert(0, helper.make_node("Constant", [], [t.name], name=t.name + "/Constant", value=t))
                g.initializer.remove(t)
        if self.style.inferred:
            model = onnx.shape_inference.infer_shapes(model)
        if self.style.shuffled:
            order = np.random.default_rng(1).permutation(len(g.node))
            nodes = [g.node[i] for i in order]
            del g.node[:]
            g.node.extend(nodes)
        return model

    # ---- quantizers -------------------------------------------------------------------------------------------------

    def step(self, x: float) -> np.ndarray:
        return np.asarray(2.0 ** np.rint(np.log2(x)) if self.style.pow2 else x, self.float)

    def zero_point(self, name: str, value: Any, dtype: str) -> str:
        """A zero-point, in the style's spelling."""
        how, array = self.style.zero, np.asarray(value, DTYPES[dtype])
        if self.style.shared:
            return self.const(f"zero_{dtype}_{value}", array, array.dtype)
        if np.all(array == 0) and ((how == "absent" and dtype == "uint8") or how == "output_dtype"):
            return ""
        if how == "constant":
            return self.op("Constant", out=name, value=numpy_helper.from_array(array, name))
        if how == "identity":
            return self.op("Identity", self.const(name + "_value", array, array.dtype), out=name)
        if how == "cast":
            wide = self.const(name + "_wide_value", array, np.int32)
            return self.op("Cast", wide, out=name, to=helper.np_dtype_to_tensor_dtype(array.dtype))
        return self.const(name, array.reshape(-1) if how == "vector" else array, array.dtype)

    def scale(self, tensor: str, zero: str, share: float, axis: int | None = None) -> tuple[np.ndarray, int]:
        """The step at which `share` of the values is expressed, and the zero-point."""
        qmin, qmax = integer_range(self.style.dtype, self.style.bits)
        z = qmin if zero == "low" else (qmin + qmax + 1) // 2
        a = self.values(tensor).astype(np.float64)
        rows = a.reshape(1, -1) if axis is None else np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)
        clips = [np.quantile(r[r > 0] if zero == "low" else np.abs(r), share) for r in rows]
        s = np.stack([self.step(c / (qmax - z)) for c in clips])
        return (s[0] if axis is None else s), z

    def q(self, tensor: str, zero: str = "low", share: float = ONE_SIDED, scale: Any = None, **more: Any) -> str:
        """QuantizeLinear (and integer Clip); `zero` is "low" or "mid", `scale` fixes the step; gives integers."""
        dtype, bits, axis = self.style.dtype, self.style.bits, more.get("axis")
        s, z = self.scale(tensor, zero, share, axis)
        s = s if scale is None else np.asarray(scale, self.float)
        tag = more.get("tag", tensor)
        per = {} if axis is None else {"axis": axis}
        scale_name = self.const(f"{tag}_scale", s)
        zero_name = self.zero_point(f"{tag}_zero", z if axis is None else np.full(s.shape, z), dtype)
        self.parameters = [scale_name] + ([zero_name] if zero_name else []), per
        typed = {"output_dtype": helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype]))}
        more = {**per, **(typed if self.style.zero == "output_dtype" else {})}
        t = self.op("QuantizeLinear", tensor, *self.parameters[0], out=f"{tag}_q", domain=self.style.domain, **more)
        if bits:
            lo, hi = integer_range(dtype, bits)
            low, high = (self.const(f"{tag}_{n}", v, DTYPES[dtype]) for n, v in (("qmin", lo), ("qmax", hi)))
            t = self.op("Clip", t, low, high, out=f"{tag}_clipped")
        self.steps[t] = float(np.max(s))
        return t

    def dq(self, integers: str, like: str | None = None, out: str | None = None) -> str:
        """DequantizeLinear with the parameters of the last `q` (or of the one called `like`)."""
        inputs, per = self.parameters
        if like is not None:
            inputs = [f"{like}_scale", f"{like}_zero"]
        out = out or integers.removesuffix("_q").removesuffix("_clipped") + "_dq"
        self.op("DequantizeLinear", integers, *inputs, out=out, domain=self.style.domain, **per)
        self.steps[out] = self.steps.get(integers, 0.0)
        return out

    def qdq(self, tensor: str, zero: str = "low", share: float = ONE_SIDED, **more: Any) -> str:
        return self.dq(self.q(tensor, zero, share, **more))

    def weight(self, name: str, w: np.ndarray, axis: int = 0) -> tuple[str, np.ndarray]:
        """A weight in the style's form; gives its tensor and its steps."""
        kind = self.style.weight
        if kind == "float":
            return self.const(name, w), np.ones(1)
        dtype = {"uint8": "uint8", "int4": "int4"}.get(kind, "int8")
        others = tuple(k for k in range(w.ndim) if k != axis) if self.style.per_channel else None
        top = {"int4": 7, "clip": 3}.get(kind, 127)
        s = np.abs(w).max(axis=others) / top
        s = np.asarray([self.step(v) for v in np.atleast_1d(s)]).astype(self.float)
        shape = [1] * w.ndim
        shape[axis] = -1 if self.style.per_channel else 1
        z = 128 if kind == "uint8" else 0
        integers = np.clip(np.rint(w / s.astype(np.float64).reshape(shape)) + z, *integer_range(dtype)).astype(
            DTYPES[dtype]
        )
        s = s if self.style.per_channel else s.reshape(())
        scale = self.const(name + "_scale", s)
        zero = self.const(name + "_zero", np.full(s.shape, z), DTYPES[dtype])
        if self.style.shared and not self.style.per_channel:
            zero = self.const("zero_weights", z, DTYPES[dtype])
        per = {"axis": axis} if self.style.per_channel else {}
        if kind == "fake":
            t = self.op("QuantizeLinear", self.const(name, w), scale, zero, out=name + "_q", **per)
        else:
            t = self.const(name, integers, DTYPES[dtype])
        if kind == "clip":
            low, high = (self.const(f"{name}_{n}", v, np.int8) for n, v in (("min", -3), ("max", 3)))
            t = self.op("Clip", t, low, high, out=name + "_clipped")
        domain = self.style.domain
        return self.op("DequantizeLinear", t, scale, zero, out=name + "_dq", domain=domain, **per), s

    def bias(self, name: str, b: np.ndarray, x: str, weight_step: np.ndarray) -> list[str]:
        """A bias in the style's form, as a list of no or one input."""
        kind = self.style.bias
        if kind == "none":
            return []
        if kind == "float":
            return [self.const(name if not self.style.shared else f"bias_{b.size}", b)]
        if kind == "int8":
            s = np.asarray(np.abs(b).max() / 127, self.float)
        else:
            s = np.asarray(self.steps.get(x, 1.0) * weight_step / (2 if kind == "half" else 1), self.float)
        dtype = np.int8 if kind == "int8" else np.int32
        value = np.rint(b / s.astype(np.float64)).astype(dtype)
        inputs = [self.const(name, value, dtype), self.const(name + "_scale", s)]
        if kind == "int8":
            inputs.append(self.const(name + "_zero", 0, dtype))
        per = {"axis": 0} if s.size > 1 else {}
        return [self.op("DequantizeLinear", *inputs, out=name + "_dq", domain=self.style.domain, **per)]

    # ---- layers -----------------------------------------------------------------------------------------------------

    def draw(self, *shape: int, fan: int) -> np.ndarray:
        """Weights whose rows differ in size, so that channels differ in their outliers."""
        w = self.rng.standard_normal(shape) / np.sqrt(fan)
        return w * self.rng.uniform(0.5, 1.5, (shape[0], *[1] * (len(shape) - 1)))

    def channels(self, x: str, axis: int = 1) -> int:
        return int(self.values(x).shape[axis])

    def conv(self, x: str, out: int = 8, kernel: int = 3, groups: int = 1, weight: str = "", axis: int = 0) -> str:
        """Conv with padding, of any rank; `weight` names one that exists already, `axis` is that of its steps."""
        inputs, name = self.channels(x), f"conv{self.count['Conv'] + 1}"
        size = [kernel] * (self.values(x).ndim - 2)
        if weight:
            w, s = weight, np.asarray(1.0)
        else:
            drawn = self.draw(out, inputs // groups, *size, fan=inputs // groups * kernel ** len(size))
            w, s = self.weight(name + "_w", drawn, axis)
        b = self.bias(name + "_b", 0.3 * self.rng.standard_normal(out), x, s)
        return self.op("Conv", x, w, *b, kernel_shape=size, pads=[kernel // 2] * 2 * len(size), group=groups)

    def conv_transpose(self, x: str, out: int = 8, groups: int = 1) -> str:
        name, inputs = f"convtranspose{self.count['ConvTranspose'] + 1}", self.channels(x)
        drawn = np.swapaxes(self.draw(out // groups, inputs, 2, 2, fan=inputs // groups * 2), 0, 1)
        w, s = self.weight(name + "_w", drawn, axis=1)
        b = self.bias(name + "_b", 0.3 * self.rng.standard_normal(out), x, s if groups == 1 else np.asarray(1.0))
        return self.op("ConvTranspose", x, w, *b, kernel_shape=[2, 2], strides=[2, 2], group=groups)

    def gemm(self, x: str, out: int = 8, trans: int = 1, **attributes: float) -> str:
        name, inputs = f"gemm{self.count['Gemm'] + 1}", self.channels(x)
        w, s = self.weight(name + "_w", np.ascontiguousarray(self._matrix(inputs, out, trans)), axis=1 - trans)
        b = self.bias(name + "_b", 0.3 * self.rng.standard_normal(out), x, s)
        return self.op("Gemm", x, w, *b, transB=trans, **attributes)

    def _matrix(self, inputs: int, out: int, transposed: int) -> np.ndarray:
        rows = self.draw(out, inputs, fan=inputs)
        return rows if transposed else rows.T

    def matmul(self, x: str, out: int = 8, bias: bool = True, transpose: bool = False) -> str:
        """MatMul and Add on the last axis; `transpose` puts a Transpose behind the weight."""
        name, inputs = f"matmul{self.count['MatMul'] + 1}", self.channels(x, -1)
        w, _ = self.weight(name + "_w", self._matrix(inputs, out, int(transpose)), axis=0 if transpose else 1)
        if transpose:
            w = self.op("Transpose", w, out=name + "_w_t", perm=[1, 0])
        y = self.op("MatMul", x, w)
        return self.op("Add", y, self.const(name + "_b", 0.3 * self.rng.standard_normal(out))) if bias else y

    def batch_norm(self, x: str) -> str:
        c, name = self.channels(x), f"bn{self.count['BatchNormalization'] + 1}"
        gamma, mean = self.rng.uniform(0.5, 1.5, c), 0.2 * self.rng.standard_normal(c)
        parts = {"gamma": gamma, "beta": 0.2 * self.rng.standard_normal(c), "mean": mean, "var": np.ones(c) * 0.7}
        return self.op("BatchNormalization", x, *(self.const(f"{name}_{k}", v) for k, v in parts.items()))

    def gelu(self, x: str) -> str:
        """The erf spelling, as exporters write it."""
        d = self.op("Div", x, self.const(f"{x}_sqrt2", np.sqrt(2)))
        e = self.op("Add", self.op("Erf", d), self.const(f"{x}_one", 1))
        return self.op("Mul", self.op("Mul", x, e), self.const(f"{x}_half", 0.5))

    def layer_norm(self, x: str) -> str:
        c, name = self.channels(x, -1), f"ln{self.count['LayerNormalization'] + 1}"
        gamma = self.const(f"{name}_gamma", self.rng.uniform(0.3, 2, c))
        beta = self.const(f"{name}_beta", self.rng.standard_normal(c))
        return self.op("LayerNormalization", x, gamma, beta, axis=-1)

    def clip(self, x: str, low: float, high: float) -> str:
        if self.style.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        return self.op("Clip", x, self.const(f"{x}_low", low), self.const(f"{x}_high", high))


# ---- topologies -----------------------------------------------------------------------------------------------------

Built = tuple[onnx.ModelProto, dict[str, np.ndarray]]
Topology = Callable[[Style], tuple[Net, tuple[Any, ...]]]
IMAGE = (4, 6, 6)


def image(style: Style, shape: tuple[int, ...] = IMAGE, zero: str = "mid") -> tuple[Net, str]:
    """A net whose image input is quantized."""
    n = Net(style, x=shape)
    return n, n.qdq("x", zero)


def conv_relu_conv(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    return n, (n.conv(n.qdq(n.op("Relu", n.conv(x)))),)


def three_layers(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """Explicit ReLU, implicit ReLU, none; the output is quantized."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    b = n.qdq(n.conv(a))
    return n, (n.qdq(n.conv(b), "mid"),)


def activation(make: Callable[[Net, str], str], zero: str = "low", shape: tuple[int, ...] = IMAGE) -> Topology:
    """Conv, some function, quantizer, Conv."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style, shape)
        return n, (n.conv(n.qdq(make(n, n.conv(x)), zero)),)

    return build


def between(make: Callable[[Net, str], str]) -> Topology:
    """Something between the DequantizeLinear and the Conv that reads it."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        return n, (n.conv(make(n, n.qdq(n.op("Relu", n.conv(x))))),)

    return build


def readers(*make: Callable[[Net, str], str]) -> Topology:
    """Several readers of one dequantized tensor, and the sum of what they give (or several outputs)."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        a = n.qdq(n.op("Relu", n.conv(x)))
        return n, tuple(dict.fromkeys(m(n, a) for m in make))

    return build


def inside(make: Callable[[Net, str], str]) -> Topology:
    """Something between the QuantizeLinear and the DequantizeLinear."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        return n, (n.conv(n.dq(make(n, n.q(n.op("Relu", n.conv(x)))))),)

    return build


def grouped(groups: int, out: int = 8) -> Topology:
    """A grouped or depthwise reader, behind it a quantizer and a 1x1 Conv."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        a = n.qdq(n.op("Relu", n.conv(x)))
        b = n.qdq(n.op("Relu", n.conv(a, out, groups=groups)))
        return n, (n.conv(b, kernel=1),)

    return build


def grouped_transpose(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(replace(style, per_channel=False))
    return n, (n.conv_transpose(n.qdq(n.op("Relu", n.conv(x))), groups=2),)


def depthwise_per_channel(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)), axis=1)
    return n, (n.conv(a, groups=8),)


def residual(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    b = n.qdq(n.conv(a), "mid")
    c = n.qdq(n.op("Relu", n.op("Add", b, a)))
    return n, (n.op("Add", n.conv(c), c),)


def transposed(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    return n, (n.conv_transpose(n.qdq(n.op("Relu", n.conv_transpose(x)))),)


def gemm(trans: int, **attributes: float) -> Topology:
    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n = Net(style, x=(12,))
        x = n.qdq("x", "mid")
        a = n.qdq(n.op("Relu", n.gemm(x, 16, trans, **attributes)))
        return n, (n.gemm(a, 8, trans, **attributes),)

    return build


def tokens(make: Callable[[Net, str], str], transpose: bool = False, zero: str = "low") -> Topology:
    """MatMul, Add, some function, MatMul on a sequence."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n = Net(style, x=(5, 12))
        x = n.qdq("x", "mid")
        a = n.qdq(make(n, n.matmul(x, 16, transpose=transpose)), zero)
        return n, (n.matmul(a, 8, bias=False, transpose=transpose),)

    return build


def classifier(pool: Callable[[Net, str], str]) -> Topology:
    """Conv, ReLU, something that makes it a matrix, Gemm."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        return n, (n.gemm(pool(n, n.qdq(n.op("Relu", n.conv(x))))),)

    return build


def requantized(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    pooled = n.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2])
    b = n.qdq(pooled, scale=n.initializers["relu1_scale"])
    return n, (n.conv(b),)


def concat_wide(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    parts = [n.qdq(n.op("Relu", n.conv(x))) for _ in range(2)]
    return n, (n.conv(n.op("Concat", *parts, axis=1)),)


def concat_narrow(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """The first of three inputs is a Sigmoid, which no quantizer clips."""
    n, x = image(style)
    parts = [n.op("Sigmoid", n.conv(x)), n.qdq(n.op("Relu", n.conv(x))), n.op("Sigmoid", n.conv(x))]
    return n, (n.conv(n.op("Concat", *parts, axis=1)),)


def concat_requantized(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """Two tensors on one grid, joined and quantized on the same grid again."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    s = n.initializers["relu1_scale"]
    b = n.qdq(n.op("Relu", n.conv(x)), scale=s)
    return n, (n.conv(n.qdq(n.op("Concat", a, b, axis=1), scale=s)),)


def two_quantizers(same: bool) -> Topology:
    """One tensor with two Q nodes, of one grid or of two."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        r = n.op("Relu", n.conv(x))
        a = n.qdq(r)
        b = n.qdq(r, tag="again", scale=n.initializers["relu1_scale"] * (1 if same else 1.25))
        return n, (n.op("Add", n.conv(a), n.conv(b)),)

    return build


def shared_weight(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    b = n.qdq(n.op("Relu", n.conv(a)))
    return n, (n.conv(b, weight=n.nodes[-4].input[1]),)


def output_float(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    return n, (n.conv(a), a)


def output_integer(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.q(n.op("Relu", n.conv(x)))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[style.dtype]))
    return n, (n.conv(n.dq(a)), (a, element))


def branch(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """An If whose branches read the dequantized tensor from outside."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    parts = {}
    for key, op in (("then_branch", "Neg"), ("else_branch", "Abs")):
        out = helper.make_tensor_value_info(key + "_out", TensorProto.FLOAT, ["N", 8, 6, 6])
        parts[key] = helper.make_graph([helper.make_node(op, [a], [key + "_out"])], key, [], [out])
    y = n.op("If", n.const("condition", True, np.bool_), **parts)
    return n, (n.op("Add", n.conv(a), y),)


def float_read(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """The float tensor in front of Q is read by something else as well."""
    n, x = image(style)
    r = n.op("Relu", n.conv(x))
    return n, (n.op("Add", n.conv(n.qdq(r)), n.op("Sigmoid", r)),)


def channels_last(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """Quantized in NHWC, as TensorFlow does."""
    n, x = image(style, (6, 6, 4))
    c = n.conv(n.op("Transpose", x, perm=[0, 3, 1, 2]))
    a = n.qdq(n.op("Relu", n.op("Transpose", c, perm=[0, 2, 3, 1])))
    return n, (n.conv(n.op("Transpose", a, perm=[0, 3, 1, 2])),)


def many_dequantizers(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """Every reader has a DequantizeLinear of its own."""
    n, x = image(style)
    q = n.q(n.op("Relu", n.conv(x)))
    a, b, c = (n.dq(q, out=f"reader{k}") for k in range(3))
    return n, (n.op("Add", n.op("Add", n.conv(a), n.conv(b)), c),)


def concat_twice(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """One tensor joined with itself, along a negative axis."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    return n, (n.conv(n.op("Concat", a, a, axis=-3)),)


def concat_grouped(groups: int) -> Topology:
    """Two wide tensors joined in front of a grouped or depthwise reader and a dense one."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(style)
        parts = [n.qdq(n.op("Relu", n.conv(x))) for _ in range(2)]
        c = n.op("Concat", *parts, axis=1)
        return n, (n.conv(n.conv(c, 16, groups=groups), kernel=1), n.conv(c, kernel=1))

    return build


def batched(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """MatMul with a constant weight for every batch entry."""
    n = Net(style, x=(4, 5, 12))
    x = n.qdq("x", "mid")
    parts = []
    for k, (i, o) in enumerate(((12, 16), (16, 8))):
        w = np.stack([n.draw(i, o, fan=i) for _ in range(4)])
        parts.append(n.weight(f"w{k}", w, axis=2)[0])
    y = n.op("Add", n.op("MatMul", x, parts[0]), n.const("b", 0.3 * n.rng.standard_normal(16)))
    return n, (n.op("MatMul", n.qdq(n.op("Relu", y)), parts[1]),)


def attention(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """MatMuls of two activations, which cannot read copies."""
    n = Net(style, x=(5, 12))
    x = n.qdq("x", "mid")
    a, b = (n.qdq(n.matmul(x), "mid") for _ in range(2))
    scores = n.op("Softmax", n.op("MatMul", a, n.op("Transpose", b, perm=[0, 2, 1])))
    c = n.qdq(n.op("MatMul", scores, n.matmul(b)), "mid")
    return n, (n.op("Add", n.matmul(c), n.matmul(a)),)


def constant(shape: tuple[int, ...], first: bool = False) -> Callable[[Net, str], str]:
    """Add of a constant and ReLU; `first` puts the constant on the left."""

    def make(n: Net, x: str) -> str:
        k = n.const("constant", 0.3 * n.rng.standard_normal(shape))
        return n.op("Relu", n.op("Add", *((k, x) if first else (x, k))))

    return make


def tokens_constant(shape: tuple[int, ...], slope: bool = False) -> Topology:
    """MatMul and a constant on a square (16 tokens, 16 features)."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n = Net(style, x=(16, 12))
        y = n.matmul(n.qdq("x", "mid"), 16, bias=slope)
        k = n.const("constant", 0.3 * np.abs(n.rng.standard_normal(shape)))
        y = n.op("PRelu", y, k) if slope else n.op("Relu", n.op("Add", y, k))
        return n, (n.matmul(n.qdq(y), bias=False),)

    return build


def depthwise_zero_point(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """The bias of a depthwise reader is an integer whose zero-point is not 0."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    inputs = n.const("bias", np.arange(3, 11), np.int8), n.const("bias_step", 0.05), n.const("bias_zero", 5, np.int8)
    b = n.op("DequantizeLinear", *inputs, out="bias_dq")
    y = n.conv(a, groups=8)
    n.nodes[-1].input[2] = b
    return n, (n.conv(y, kernel=1),)


def inner_names(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """The names that a rewrite would like are taken, outside and inside of a subgraph."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    y = n.op("Neg", a, out="relu1_wide")
    chain = [a, "relu1_dq_wide", "conv1_w_wide", "conv2_w_wide", "relu1_up_copies", "inner"]
    nodes = [helper.make_node("Neg", [i], [o]) for i, o in pairwise(chain)]
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["N", 8, 6, 6])
    body = helper.make_graph(nodes, "body", [], [out])
    z = n.op("If", n.const("condition", True, np.bool_), then_branch=body, else_branch=body)
    return n, (n.op("Add", n.conv(a), n.op("Add", y, z)),)


def integer_clip(low: int | None, high: int, dtype: str, relu: bool = True) -> Topology:
    """An integer Clip that is no power of two, or has no lower bound, or acts as the ReLU."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n, x = image(replace(style, dtype=dtype))
        c = n.conv(x)
        q = n.q(n.op("Relu", c) if relu else c, "mid" if dtype[0] == "i" else "low")
        low_name = "" if low is None else n.const("low", low, DTYPES[dtype])
        t = n.op("Clip", q, low_name, n.const("high", high, DTYPES[dtype]))
        return n, (n.conv(n.dq(t, out="dequantized")),)

    return build


def prelu(slope: Callable[[Net], np.ndarray]) -> Callable[[Net, str], str]:
    return lambda n, x: n.op("PRelu", x, n.const("slope", slope(n)))


def hard_swish(n: Net, x: str) -> str:
    return n.op("Mul", x, n.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def resize(n: Net, x: str) -> str:
    scales = n.const("scales", [1, 1, 2, 2], np.float32)
    return n.op("Resize", x, "", scales, mode="nearest")


def resize_sizes(n: Net, x: str) -> str:
    return n.op("Resize", x, "", "", n.ints("sizes", 1, 8, 9, 9), mode="linear")


def reshape(n: Net, x: str) -> str:
    """Merge the two spatial axes into one and split them again."""
    flat = n.op("Reshape", x, n.ints("flat", 0, 8, -1))
    return n.op("Reshape", flat, n.ints("back", 0, 8, 4, 9))


def transpose(n: Net, x: str) -> str:
    """There (channels last), through a Relu-free step, and back."""
    last = n.op("Transpose", x, perm=[0, 2, 3, 1])
    return n.op("Transpose", last, perm=[0, 3, 1, 2])


def pool(op: str, **attributes: Any) -> Callable[[Net, str], str]:
    return lambda n, x: n.op(op, x, **attributes)


pooled = pool("MaxPool", kernel_shape=[2, 2])
average = pool("AveragePool", kernel_shape=[2, 2])


def shuffle(n: Net, x: str) -> str:
    """Channels of two groups change places."""
    five = n.op("Reshape", x, n.ints("five", 0, 2, 4, 6, 6))
    return n.op("Reshape", n.op("Transpose", five, perm=[0, 2, 1, 3, 4]), n.ints("four", 0, 8, 6, 6))


def image_tokens(n: Net, x: str) -> str:
    return n.op("Transpose", n.op("Reshape", x, n.ints("rows", 0, 8, 36)), perm=[0, 2, 1])


def split_heads(n: Net, x: str) -> str:
    heads = n.op("Transpose", n.op("Reshape", x, n.ints("heads", 0, 5, 4, 4)), perm=[0, 2, 1, 3])
    return n.op("Reshape", n.op("Transpose", heads, perm=[0, 2, 1, 3]), n.ints("merged", 0, 5, 16))


def one_channel(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    return n, (n.conv(n.qdq(n.op("Relu", n.conv(x, 1)))),)


def tokens_readers(*make: Callable[[Net, str], str]) -> Topology:
    """Several readers of a sequence of 5 tokens with 16 features."""

    def build(style: Style) -> tuple[Net, tuple[Any, ...]]:
        n = Net(style, x=(5, 12))
        a = n.qdq(n.op("Relu", n.matmul(n.qdq("x", "mid"), 16)))
        return n, tuple(m(n, a) for m in make)

    return build


def resize_requantized(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    return n, (n.conv(n.qdq(resize(n, a), scale=n.initializers["relu1_scale"])),)


def requantized_twice(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    return n, (n.conv(n.qdq(a, tag="again", scale=n.initializers["relu1_scale"])),)


def multiplied(style: Style, op: str = "Mul", by: float = 0.3) -> tuple[Net, tuple[Any, ...]]:
    """A multiplication by a constant between two quantizers, whose steps it relates."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    c = n.const("by", by)
    step = n.initializers["relu1_scale"] * (np.float32(by) if op == "Mul" else 1 / np.float32(by))
    b = n.op("Mul", c, a) if op == "Mul" else n.op("Div", a, c)
    return n, (n.conv(n.qdq(b, tag="again", scale=step)),)


def multiplied_only(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    return n, (n.conv(n.op("Mul", a, n.const("by", [0.3]))),)


def small_gelu(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """A GELU whose last factor stands between two quantizers, as onnxruntime quantizes one of small operators."""
    n, x = image(style)
    a = n.conv(x)
    inner = n.op("Add", n.op("Erf", n.op("Div", a, n.const("root", np.sqrt(2)))), n.const("one", 1))
    b = n.qdq(n.op("Mul", a, inner), "mid", tag="twice")
    c = n.op("Mul", b, n.const("half", 0.5))
    return n, (n.conv(n.qdq(c, "mid", tag="once", scale=n.initializers["twice_scale"] / 2)),)


def requantized_coarser(style: Style) -> tuple[Net, tuple[Any, ...]]:
    """A second quantizer of a smaller range behind the first."""
    n, x = image(style)
    a = n.qdq(n.op("Relu", n.conv(x)))
    b = n.qdq(a, tag="again", scale=0.7 * n.initializers["relu1_scale"])
    return n, (n.op("Add", n.conv(b), n.conv(a)),)


def layer_output(style: Style) -> tuple[Net, tuple[Any, ...]]:
    n, x = image(style)
    c = n.conv(x)
    return n, (n.conv(n.qdq(n.op("Relu", c))), c)


def squeeze_gemm(n: Net, x: str) -> str:
    y = n.op("GlobalAveragePool", x)
    return n.op("Squeeze", y, n.ints("axes", 2, 3)) if n.style.opset >= 13 else n.op("Squeeze", y, axes=[2, 3])


def reduce_mean(n: Net, x: str) -> str:
    if n.style.opset >= 18:
        return n.op("ReduceMean", x, n.ints("axes", 2, 3), keepdims=0)
    return n.op("ReduceMean", x, axes=[2, 3], keepdims=0)


# ---- cases ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One model of the zoo.

    Attributes:
        name: the test's id.
        topology: what builds it.
        style: in which dialect.
        wide: tensors that auto mode translates: "early", "late" or "carried".
        exact: whether the rewritten model equals the wide quantizer up to float rounding: no integer bias whose step
            does not divide X_clip, no float16, no steps that make exact rounding ties.
        loads: whether onnx.checker accepts the original.
    """

    name: str
    topology: Topology
    style: Style = field(default_factory=Style)
    wide: dict[str, str] = field(default_factory=lambda: {"relu1": "early"})
    exact: bool = True
    loads: bool = True


def relu(n: Net, x: str) -> str:
    return n.op("Relu", x)


def _wide(name: str, mode: str, **more: str) -> dict[str, str]:
    return {name: mode, **more}


TOPOLOGIES = [
    Case("conv_relu_conv", conv_relu_conv),
    Case("three_layers", three_layers, wide=_wide("relu1", "early", conv2="early")),
    Case("implicit_relu", activation(lambda n, x: x), wide=_wide("conv1", "early")),
    Case("none_mid", activation(lambda n, x: x, "mid"), wide=_wide("conv1", "late")),
    Case("relu_mid", activation(relu, "mid")),
    Case("residual", residual, wide=_wide("relu1", "early", relu2="late")),
    Case("depthwise", grouped(8), wide=_wide("relu1", "early", relu2="late")),
    Case("depthwise_multiplier", grouped(8, 16), wide=_wide("relu1", "early", relu2="late")),
    Case("grouped", grouped(2), wide=_wide("relu1", "early", relu2="late")),
    Case("grouped_transpose", grouped_transpose),
    Case("depthwise_per_channel", depthwise_per_channel),
    Case("conv_transpose", transposed),
    Case("gemm", gemm(0)),
    Case("gemm_transposed", gemm(1)),
    Case("gemm_alpha_beta", gemm(1, alpha=0.5, beta=2.0)),
    Case("matmul_relu", tokens(relu)),
    Case("matmul_gelu", tokens(Net.gelu, zero="mid"), wide=_wide("mul2", "late")),
    Case("matmul_transpose", tokens(relu, transpose=True)),
    Case("batch_norm", activation(lambda n, x: n.op("Relu", n.batch_norm(x)))),
    Case("batch_norm_implicit", activation(Net.batch_norm), wide=_wide("batchnormalization1", "early")),
    Case("prelu", activation(prelu(lambda n: np.full((1,), 0.25))), wide=_wide("prelu1", "early")),
    Case(
        "prelu_channels", activation(prelu(lambda n: n.rng.uniform(0, 0.5, (8, 1, 1)))), wide=_wide("prelu1", "early")
    ),
    Case("prelu_mid", activation(prelu(lambda n: np.full((1,), 0.25)), "mid"), wide=_wide("prelu1", "late")),
    Case("leaky_relu", activation(pool("LeakyRelu", alpha=0.1)), wide=_wide("leakyrelu1", "early")),
    Case("hard_swish", activation(pool("HardSwish"), "mid"), wide=_wide("hardswish1", "late")),
    Case("hard_swish_spelled", activation(hard_swish, "mid"), wide=_wide("mul1", "late")),
    Case("silu", activation(lambda n, x: n.op("Mul", x, n.op("Sigmoid", x))), wide=_wide("mul1", "late")),
    Case("clip_free", activation(lambda n, x: n.clip(x, 0, 6)), wide=_wide("clip1", "early")),
    Case("clip_cuts", activation(lambda n, x: n.clip(x, 0, 1.2)), wide=_wide("clip1", "late")),
    Case("max_pool", between(pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2]))),
    Case("average_pool", between(pool("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))),
    Case("global_pool_gemm", classifier(lambda n, x: n.op("Flatten", n.op("GlobalAveragePool", x)))),
    Case("flatten_gemm", classifier(pool("Flatten"))),
    Case("squeeze_gemm", classifier(squeeze_gemm)),
    Case("reduce_mean_gemm", classifier(reduce_mean)),
    Case("resize", between(resize)),
    Case("resize_sizes", between(resize_sizes), Style(batch=1)),
    Case("pad", between(lambda n, x: n.op("Pad", x, n.ints("pads", 0, 0, 1, 1, 0, 0, 1, 1)))),
    Case("transpose", between(transpose)),
    Case("reshape", between(reshape)),
    Case("concat_wide", concat_wide, wide=_wide("relu1", "early", relu2="early")),
    Case("concat_narrow", concat_narrow),
    Case("requantized", requantized, wide=_wide("relu1", "early", maxpool1="carried")),
    Case("concat_requantized", concat_requantized, wide=_wide("relu1", "early", relu2="early", concat1="carried")),
    Case("two_equal_quantizers", two_quantizers(True)),
    Case("two_different_quantizers", two_quantizers(False), wide=_wide("relu1", "late")),
    Case("output_float", output_float),
    Case("output_integer", output_integer),
    Case("branch", branch),
    Case("float_read", float_read, wide=_wide("relu1", "late")),
    Case("integer_max_pool", inside(pool("MaxPool", kernel_shape=[2, 2]))),
    Case("integer_transpose", inside(transpose)),
    Case("integer_reshape", inside(reshape)),
]

VARIANTS = [
    Case("conv1d", activation(relu, shape=(4, 16))),
    Case("conv3d", activation(relu, shape=(4, 4, 4, 4))),
    Case("one_channel", one_channel),
    Case("channels_last", channels_last, wide=_wide("relu1", "late")),
    Case("many_dequantizers", many_dequantizers),
    Case("concat_twice", concat_twice),
    Case("concat_depthwise", concat_grouped(16), wide=_wide("relu1", "early", relu2="early")),
    Case("concat_grouped", concat_grouped(2), wide=_wide("relu1", "early", relu2="early")),
    Case("batched_matmul", batched),
    Case("attention", attention, wide={"add1": "late", "add2": "late", "matmul5": "late"}),
    Case("pooled_output", readers(pooled, lambda n, a: n.conv("maxpool1"))),
    Case("depthwise_chain", readers(lambda n, a: n.conv(n.conv(n.conv(a, groups=8), groups=8), kernel=1))),
    Case("depthwise_pool", readers(lambda n, a: n.conv(average(n, n.conv(a, 16, groups=8)), kernel=1))),
    Case("depthwise_flatten", readers(lambda n, a: n.gemm(n.op("Flatten", n.conv(a, groups=8))))),
    Case("depthwise_zero_point", depthwise_zero_point),
    Case("groups_mixed", readers(Net.conv, *[lambda n, a, g=g: n.conv(a, groups=g) for g in (2, 4)])),
    Case("groups_and_depthwise", readers(Net.conv, *[lambda n, a, g=g: n.conv(a, groups=g) for g in (2, 8)])),
    Case("channel_shuffle", readers(Net.conv, lambda n, a: n.conv(shuffle(n, a), groups=2))),
    Case("weight_per_input", readers(lambda n, a: n.conv(a, axis=1))),
    Case("weight_per_input_grouped", readers(Net.conv, lambda n, a: n.conv(a, groups=2, axis=1))),
    Case("tokens_from_image", readers(lambda n, a: n.matmul(image_tokens(n, a)))),
    Case("split_heads", tokens_readers(Net.matmul, lambda n, a: n.matmul(split_heads(n, a)))),
    Case("tokens_flattened", tokens_readers(lambda n, a: n.gemm(n.op("Reshape", a, n.ints("rows", -1, 16))))),
    Case("pad_reflect", between(lambda n, x: n.op("Pad", x, n.ints("p", 0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"))),
    Case("pad_channels", readers(Net.conv, lambda n, a: n.conv(n.op("Pad", a, n.ints("p", 0, 1, 0, 0, 0, 1, 0, 0))))),
    Case("shape_read", readers(lambda n, a: n.op("Reshape", n.conv(a), n.op("Shape", a)))),
    Case(
        "gated", readers(lambda n, a: n.op("Mul", a, n.op("Sigmoid", n.conv(n.op("GlobalAveragePool", a), kernel=1))))
    ),
    Case("added_to_itself", readers(Net.conv, lambda n, a: n.op("Add", a, a))),
    Case("resize_requantized", resize_requantized, wide=_wide("relu1", "early", resize1="carried")),
    Case("requantized_twice", requantized_twice, wide=_wide("relu1", "early", relu1_dq="carried")),
    Case("multiplied", multiplied, wide=_wide("relu1", "early", mul1="carried")),
    Case("divided", partial(multiplied, op="Div", by=3.0), wide=_wide("relu1", "early", div1="carried")),
    Case(
        "multiplied_int32", multiplied, Style(bias="int32"), wide=_wide("relu1", "early", mul1="carried"), exact=False
    ),
    Case("multiplied_only", multiplied_only, wide=_wide("relu1", "early")),
    Case("small_gelu", small_gelu, wide=_wide("mul1", "late", mul2="carried")),
    Case("requantized_coarser", requantized_coarser, wide=_wide("relu1", "early", relu1_dq="late")),
    Case("layer_output", layer_output, wide=_wide("relu1", "late")),
    Case("add_per_channel", activation(constant((8, 1, 1), first=True))),
    Case("add_per_channel_4d", activation(constant((1, 8, 1, 1)))),
    Case("add_number", activation(constant(()))),
    Case("add_map", activation(constant((8, 6, 6))), wide=_wide("relu1", "late")),
    Case("add_width", activation(constant((8,)), shape=(4, 6, 8)), wide=_wide("relu1", "late")),
    Case("add_height", activation(constant((1, 1, 8, 1)), shape=(4, 8, 6)), wide=_wide("relu1", "late")),
    Case(
        "prelu_width",
        activation(prelu(lambda n: n.rng.uniform(0, 0.5, 8)), shape=(4, 6, 8)),
        wide=_wide("prelu1", "late"),
    ),
    Case("tokens_add_rows", tokens_constant((16, 1)), wide=_wide("relu1", "late")),
    Case("tokens_add_channels", tokens_constant((1, 1, 16))),
    Case("tokens_add_matrix", tokens_constant((16, 16)), wide=_wide("relu1", "late")),
    Case("tokens_prelu_rows", tokens_constant((16, 1), slope=True), wide=_wide("prelu1", "late")),
    Case("layer_norm", tokens(Net.layer_norm, zero="mid"), wide=_wide("layernormalization1", "late")),
    Case("gelu_contrib", tokens(pool("Gelu", domain="com.microsoft"), zero="mid"), wide=_wide("gelu1", "late")),
    Case("gelu_node", tokens(pool("Gelu"), zero="mid"), Style(opset=20), _wide("gelu1", "late")),
    Case("inner_names", inner_names),
    Case("clip_200", integer_clip(0, 200, "uint8")),
    Case("clip_open", integer_clip(None, 100, "int8")),
    Case("clip_is_relu", integer_clip(0, 100, "int8", relu=False), wide=_wide("conv1", "early")),
]

THREE = _wide("relu1", "early", conv2="early")
LATE = _wide("relu1", "late")
DEPTHWISE = RESIDUAL = _wide("relu1", "early", relu2="late")


def _dialect(name: str, topology: Topology = conv_relu_conv, wide: dict[str, str] | None = None, **style: Any) -> Case:
    checks = {k: style.pop(k) for k in ("exact", "loads") if k in style}
    default = THREE if topology is three_layers else _wide("relu1", "early")
    return Case(name, topology, Style(**style), wide or default, **checks)


DIALECTS = [
    _dialect("int8", three_layers, dtype="int8"),
    _dialect("uint16", three_layers, dtype="uint16", opset=21, exact=False),
    _dialect("int16", three_layers, dtype="int16", opset=21, exact=False),
    _dialect("uint16_contrib", three_layers, dtype="uint16", domain="com.microsoft", exact=False),
    _dialect("uint4", three_layers, dtype="uint4", opset=21),
    _dialect("int4", three_layers, dtype="int4", opset=21),
    *[_dialect(f"qcdq{b}", three_layers, bits=b) for b in (2, 3, 4)],
    _dialect("qcdq3_int8", three_layers, bits=3, dtype="int8"),
    _dialect("opset10", three_layers, opset=10, per_channel=False),
    *[_dialect(f"opset{v}", three_layers, opset=v) for v in (13, 19, 21, 24)],
    _dialect("opset24_tokens", tokens(relu), opset=24),
    _dialect("contrib", three_layers, domain="com.microsoft"),
    _dialect("per_tensor", three_layers, per_channel=False),
    _dialect("weight_float", weight="float"),
    _dialect("weight_uint8", weight="uint8"),
    _dialect("weight_int4", weight="int4", opset=21),
    _dialect("weight_fake", weight="fake"),
    _dialect("weight_clip", weight="clip"),
    _dialect("weight_fake_gemm", gemm(0), weight="fake"),
    _dialect("weight_clip_transposed", tokens(relu, transpose=True), weight="clip"),
    _dialect("bias_none", bias="none", exact=False),
    _dialect("bias_int32", three_layers, bias="int32", exact=False),
    _dialect("bias_int32_pow2", three_layers, bias="int32", pow2=True, exact=False),
    _dialect("bias_half_pow2", three_layers, bias="half", pow2=True, exact=False),
    _dialect("bias_int32_gemm", gemm(1), bias="int32", pow2=True, exact=False),
    _dialect(
        "bias_int32_batch_norm", activation(lambda n, x: n.op("Relu", n.batch_norm(x))), bias="int32", exact=False
    ),
    _dialect("bias_none_gemm", gemm(1, alpha=0.5, beta=2.0), bias="none", exact=False),
    _dialect("bias_none_transposed", transposed, bias="none", exact=False),
    _dialect("bias_none_depthwise", grouped(8), bias="none", exact=False, wide=DEPTHWISE),
    _dialect("bias_int32_gemm_alpha", gemm(0, alpha=0.5, beta=2.0), bias="int32", exact=False),
    _dialect("bias_int32_transposed", transposed, bias="int32", exact=False),
    _dialect("bias_int32_depthwise", grouped(8), bias="int32", exact=False, wide=DEPTHWISE),
    _dialect("bias_int32_residual", residual, bias="int32", exact=False, wide=RESIDUAL),
    _dialect("bias_int8", bias="int8", wide=LATE),
    *[_dialect(f"zero_{z}", three_layers, zero=z) for z in ("constant", "identity", "cast", "absent")],
    _dialect("zero_vector", zero="vector"),
    _dialect("zero_output_dtype", zero="output_dtype", dtype="int8", opset=21),
    _dialect("float16", half=True, opset=19, exact=False, wide=LATE),
    _dialect("float16_pow2", half=True, opset=19, pow2=True, exact=False, wide=LATE),
    _dialect("float16_weight", half=True, opset=19, pow2=True, weight="float", exact=False, wide=LATE),
    _dialect(
        "float16_gelu", tokens(Net.gelu, zero="mid"), half=True, opset=19, exact=False, wide=_wide("mul2", "late")
    ),
    _dialect("int8_residual", residual, dtype="int8", wide=RESIDUAL),
    _dialect("int4_residual", residual, dtype="int4", opset=21, wide=RESIDUAL),
    _dialect("qcdq2_residual", residual, bits=2, wide=RESIDUAL),
    _dialect("qcdq2_depthwise", grouped(8), bits=2, wide=DEPTHWISE),
    _dialect("uint4_grouped", grouped(2), dtype="uint4", opset=21, wide=DEPTHWISE),
    _dialect("contrib_residual", residual, domain="com.microsoft", bias="int32", exact=False, wide=RESIDUAL),
    _dialect("weight_constant", weight_constant=True),
    _dialect("value_info", residual, inferred=True, wide=RESIDUAL),
    _dialect("value_info_flatten", classifier(pool("Flatten")), inferred=True),
    _dialect("shared_parameters", three_layers, shared=True, per_channel=False),
    _dialect("shared_weight", shared_weight, wide=_wide("relu1", "early", relu2="early")),
    _dialect("listed_inputs", three_layers, listed=True),
    _dialect("unnamed", three_layers, named=False),
    _dialect("unsorted", three_layers, shuffled=True, loads=False),
    _dialect("fixed_batch", three_layers, batch=2),
]

CASES = {c.name: c for c in (*TOPOLOGIES, *VARIANTS, *DIALECTS)}


def build(name: str) -> Built:
    """The model of a case and inputs for it: copies, which a test may damage."""
    model, feed = _built(name)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy, {k: v.copy() for k, v in feed.items()}


@cache
def _built(name: str) -> Built:
    case = CASES[name]
    net, outputs = case.topology(case.style)
    return net.model(*outputs), net.feed
