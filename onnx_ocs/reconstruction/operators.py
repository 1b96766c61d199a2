"""ONNX operators in torch, differentiable: what a QDQ graph is made of besides its quantizers.

Integers between a Q and a DQ are floats here, so that gradients pass; data movement does not see the difference.
Convolutions, pools and resizes are in `onnx_ocs.reconstruction.spatial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from onnx_ocs.model.nodes import attribute
from onnx_ocs.reconstruction import spatial

__all__ = ["Operator", "find_operator"]

Operator = Callable[..., Any]
INTEGERS = (TensorProto.INT32, TensorProto.INT64)
SOFTMAX_PER_AXIS = 13  # opset from which Softmax is taken along one axis


def numbers(x: Tensor | None) -> list[int]:
    """A shape, axes or the like, as they stand in a tensor."""
    return [] if x is None else [int(v) for v in x.reshape(-1).tolist()]


def _axes(n: NodeProto, given: Tensor | None) -> list[int]:
    """Axes from an input (newer opsets) or from the attribute."""
    return numbers(given) if given is not None else [int(a) for a in attribute(n, "axes", [])]


def _gemm(n: NodeProto, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attribute(n, "transA", 0) else a
    b = b.T if attribute(n, "transB", 0) else b
    alpha, beta = float(attribute(n, "alpha", 1.0)), float(attribute(n, "beta", 1.0))
    y = a @ b if alpha == 1 else alpha * (a @ b)
    return y if c is None else y + (c if beta == 1 else beta * c)


def _clip(n: NodeProto, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    lo = attribute(n, "min") if low is None else low.item()
    hi = attribute(n, "max") if high is None else high.item()
    return x if lo is None and hi is None else x.clamp(lo, hi)


def _hard_sigmoid(n: NodeProto, x: Tensor) -> Tensor:
    return (x * attribute(n, "alpha", 0.2) + attribute(n, "beta", 0.5)).clamp(0, 1)


def _gelu(n: NodeProto, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attribute(n, "approximate", b"none").decode())


def _prelu(_: NodeProto, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _div(_: NodeProto, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _softmax(n: NodeProto, x: Tensor, log: bool = False) -> Tensor:
    f = functional.log_softmax if log else functional.softmax
    return f(x, dim=attribute(n, "axis", -1))


def _softmax_flat(n: NodeProto, x: Tensor, log: bool = False) -> Tensor:
    """Before opset 13: over all axes from `axis` on, together."""
    f = functional.log_softmax if log else functional.softmax
    axis = int(attribute(n, "axis", 1)) % x.ndim
    return f(x.flatten(axis), dim=-1).reshape(x.shape)


def _layer_norm(n: NodeProto, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[int(attribute(n, "axis", -1)) % x.ndim :]
    y = functional.layer_norm(x, shape, None, None, attribute(n, "epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


def _batch_norm(n: NodeProto, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, attribute(n, "epsilon", 1e-5))


def _instance_norm(n: NodeProto, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=attribute(n, "epsilon", 1e-5))


def _reduce(f: Callable[..., Tensor], n: NodeProto, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _axes(n, given)
    if not axes and attribute(n, "noop_with_empty_axes", 0):
        return x
    return f(x, dim=axes or list(range(x.ndim)), keepdim=bool(attribute(n, "keepdims", 1)))


def _reshape(n: NodeProto, x: Tensor, shape: Tensor) -> Tensor:
    whole = bool(attribute(n, "allowzero", 0))
    return x.reshape([x.shape[k] if d == 0 and not whole else d for k, d in enumerate(numbers(shape))])


def _flatten(n: NodeProto, x: Tensor) -> Tensor:
    axis = int(attribute(n, "axis", 1))
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _transpose(n: NodeProto, x: Tensor) -> Tensor:
    return x.permute(*attribute(n, "perm", list(range(x.ndim))[::-1]))


def _squeeze(n: NodeProto, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _axes(n, given)
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def _unsqueeze(n: NodeProto, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = _axes(n, given)
    for a in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(a)
    return x


def _gather(n: NodeProto, x: Tensor, index: Tensor) -> Tensor:
    axis, flat = int(attribute(n, "axis", 0)) % x.ndim, index.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _slice(n: NodeProto, x: Tensor, *given: Tensor | None) -> Tensor:
    starts, ends, axes, steps = (
        numbers(given[k]) if len(given) > k and given[k] is not None else [int(v) for v in attribute(n, name, [])]
        for k, name in enumerate(("starts", "ends", "axes", "steps"))
    )
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[k] if axes else k) % x.ndim, steps[k] if steps else 1
        where = range(x.shape[axis])[slice(start, None if step < 0 and end < -x.shape[axis] else end, step)]
        if step > 0:
            x = x[(*[slice(None)] * axis, slice(where.start, where.stop, step))]
        else:
            x = x.index_select(axis, torch.tensor(list(where), dtype=torch.long))
    return x


def _split(n: NodeProto, x: Tensor, given: Tensor | None = None) -> Sequence[Tensor]:
    axis, count = int(attribute(n, "axis", 0)), len(n.output)
    sizes = numbers(given) if given is not None else [int(v) for v in attribute(n, "split", [])]
    parts: Sequence[Tensor] = x.split(sizes or -(-x.shape[axis] // count), axis)
    return parts


def _cast(n: NodeProto, x: Tensor, like: Tensor | None = None) -> Tensor:
    """Types that a quantizer may store are floats here; what is not whole is cut, as a cast does."""
    if like is not None:
        return x.to(like.dtype)
    to = attribute(n, "to")
    if to in INTEGERS:
        return x.long()
    if to == TensorProto.BOOL:
        return x.bool()
    if to in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
        return x.float()
    return x.float().trunc()


def _constant_of_shape(n: NodeProto, shape: Tensor) -> Tensor:
    value = attribute(n, "value")
    fill = 0.0 if value is None else numpy_helper.to_array(value).reshape(-1)[0].item()
    return torch.full(numbers(shape), fill)


def _expand(_: NodeProto, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(numbers(shape))))


def _range(_: NodeProto, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item())


def _fold(f: Callable[[Tensor, Tensor], Tensor], _: NodeProto, first: Tensor, *rest: Tensor) -> Tensor:
    for x in rest:
        first = f(first, x)
    return first


def _plain(f: Callable[..., Any]) -> Operator:
    """An operator without attributes."""
    return lambda _, *x: f(*x)


OPERATORS: dict[str, Operator] = {
    "Gemm": _gemm,
    "MatMul": _plain(torch.matmul),
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _div,
    "Pow": _plain(torch.pow),
    "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _plain(torch.reciprocal),
    "Exp": _plain(torch.exp),
    "Log": _plain(torch.log),
    "Abs": _plain(torch.abs),
    "Neg": _plain(torch.neg),
    "Sign": _plain(torch.sign),
    "Erf": _plain(torch.erf),
    "Sum": partial(_fold, torch.add),
    "Max": partial(_fold, torch.maximum),
    "Min": partial(_fold, torch.minimum),
    "Relu": _plain(torch.relu),
    "LeakyRelu": lambda n, x: functional.leaky_relu(x, attribute(n, "alpha", 0.01)),
    "PRelu": _prelu,
    "Elu": lambda n, x: functional.elu(x, attribute(n, "alpha", 1.0)),
    "Clip": _clip,
    "Sigmoid": _plain(torch.sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Swish": lambda n, x: x * torch.sigmoid(x * attribute(n, "alpha", 1.0)),
    "Mish": _plain(functional.mish),
    "Softplus": _plain(functional.softplus),
    "Tanh": _plain(torch.tanh),
    "Gelu": _gelu,
    "Softmax": _softmax,
    "LogSoftmax": partial(_softmax, log=True),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "ReduceMean": partial(_reduce, torch.mean),
    "ReduceSum": partial(_reduce, torch.sum),
    "ReduceMax": partial(_reduce, torch.amax),
    "ReduceMin": partial(_reduce, torch.amin),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _plain(lambda x: x),
    "Dropout": _plain(lambda x, *_: x),
    "Concat": lambda n, *x: torch.cat(x, attribute(n, "axis")),
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Cast": _cast,
    "CastLike": _cast,
    "Shape": lambda n, x: torch.tensor(x.shape[attribute(n, "start", 0) : attribute(n, "end")]),
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Range": _range,
    "Where": _plain(torch.where),
    "Equal": _plain(torch.eq),
    "Less": _plain(torch.lt),
    "Greater": _plain(torch.gt),
    "And": _plain(torch.logical_and),
    "Or": _plain(torch.logical_or),
    "Not": _plain(torch.logical_not),
    **spatial.OPERATORS,
}
CONTRIB: dict[str, Operator] = {
    "Gelu": _gelu,
    "QuickGelu": lambda n, x: x * torch.sigmoid(x * attribute(n, "alpha", 1.702)),
}
BEFORE_13: dict[str, Operator] = {"Softmax": _softmax_flat, "LogSoftmax": partial(_softmax_flat, log=True)}


def find_operator(node: NodeProto, opset: int) -> Operator | None:
    """The function that computes a node, to be called with the node and its inputs; None if there is none."""
    if node.domain == "com.microsoft":
        return CONTRIB.get(node.op_type)
    if node.domain not in ("", "ai.onnx"):
        return None
    if opset < SOFTMAX_PER_AXIS and node.op_type in BEFORE_13:
        return BEFORE_13[node.op_type]
    if any(node.output[1:]) and node.op_type != "Split":
        return None  # indices of a MaxPool, statistics of a normalization
    return OPERATORS.get(node.op_type)
