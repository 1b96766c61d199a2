"""Models that the verification compares with, built from the *original* model, without any code of the rewriter.

The oracle has wide fake-quantizers in place of the translated Q/DQ: in float,

    k = clip(round(a / s), -(n_low + 1) * (z - qmin), (n + 1) * (qmax - z)),      a_hat = k * s

with n and n_low per channel; where a copy holds a whole range (full), n and n_low times (qmax - qmin) are added to the
narrow limits instead; for halved channels (OCS) the same with 2 s for s and n = n_low = 0.  The reference has no
activation quantizer at all (only the saturation that acts as a ReLU is kept): what the float model was, as far as the
QDQ file tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx_ocs.model.nodes import Array
from onnx_ocs.probes.editor import MAGIC, Editor
from onnx_ocs.qdq.quantizer import Quantizer

__all__ = ["WideQuantizer", "oracle"]


@dataclass(frozen=True, eq=False)
class WideQuantizer:
    """A quantizer with more levels on some channels.

    Attributes:
        quantizer: the original grid.
        axis: channel axis.
        copies: upper copies of every channel, (C,).
        copies_low: lower copies of every channel, (C,).
        rank: rank of the tensor, None if unknown.
        halved: whether a copy doubles its channel's step instead of its levels.
        full: whether a copy adds as many levels as the quantizer has, less one, instead of those of its side.
    """

    quantizer: Quantizer
    axis: int
    copies: Array
    copies_low: Array
    rank: int | None
    halved: bool = False
    full: bool = False

    def column(self, values: Array) -> Array:
        """Per-channel values in a shape that broadcasts along the channel axis."""
        if values.size == 1 or np.all(values == values.flat[0]):
            return np.asarray(values.flat[0])
        if self.axis < 0:
            return values.reshape(-1, *[1] * (-1 - self.axis))
        if self.rank is None:
            raise ValueError("a per-channel bound needs the tensor's rank")
        return values.reshape(-1, *[1] * (self.rank - 1 - self.axis))

    def step(self) -> Array:
        """The step of every channel, float32, in a shape that broadcasts."""
        scale = self.quantizer.scale.astype(np.float32)
        if scale.size > 1:
            scale = scale.reshape(self.column(np.arange(scale.size)).shape)
        return scale * self.column(self.copies + 1).astype(np.float32) if self.halved else scale

    def limits(self) -> tuple[Array, Array]:
        """Smallest and largest k = q - zero_point of every channel, int64."""
        q = self.quantizer
        if self.halved:
            low, top = q.qmin - q.zero_point, q.qmax - q.zero_point
            return np.broadcast_to(low, self.copies.shape), np.broadcast_to(top, self.copies.shape)
        if self.full:
            levels = q.qmax - q.qmin
            return q.qmin - q.zero_point - self.copies_low * levels, q.qmax - q.zero_point + self.copies * levels
        top = (self.copies + 1) * (q.qmax - q.zero_point)
        low = (self.copies_low + 1) * (q.zero_point - q.qmin)
        return -np.broadcast_to(low, self.copies.shape), np.broadcast_to(top, self.copies.shape)


def oracle(model: onnx.ModelProto, wide: Mapping[str, WideQuantizer]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The original model with wide fake-quantizers.

    Args:
        model: the original model; not changed.
        wide: by the name that the QuantizeLinear writes.

    Returns:
        The oracle, and for each Q the name of its float tensor k (integers minus zero_point).
    """
    e = Editor(model)
    names: dict[str, str] = {}
    for quantized, w in wide.items():
        q = w.quantizer
        x = e.floats(e.by_output[quantized].inputs[0], q, quantized + "_x")
        column = w.step()
        t = e.node("Div", [x, e.constant(column)], quantized + "_over_scale")
        if e.opset >= 11:
            t = e.node("Round", [t], quantized + "_rounded")
        else:
            magic = e.constant(np.asarray(MAGIC, np.float32))
            t = e.node("Sub", [e.node("Add", [t, magic], quantized + "_magic"), magic], quantized + "_rounded")
        lo, hi = (e.constant(w.column(v).astype(np.float32)) for v in w.limits())
        t = e.node("Max", [e.node("Min", [t, hi], quantized + "_below"), lo], quantized + "_k")
        names[quantized] = t.name
        t = e.node("Mul", [t, e.constant(column)], quantized + "_wide")
        if q.float_dtype != np.float32:
            t = e.node("Cast", [t], quantized + "_cast", to=int(helper.np_dtype_to_tensor_dtype(q.float_dtype)))
        e.replace(quantized, q, t)
    return e.export(), names
