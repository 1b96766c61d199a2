"""Tensors that no layer with a weight reads, and whose outliers are clipped: a residual stream, a HardSwish."""

from __future__ import annotations

import numpy as np
import onnx
from zoo import Net, Style

__all__ = ["DIM", "hard_swish", "residual_stream", "samples"]

DIM = 24
PLAIN = Style()
MASSIVE = 5  # the stream's channel with values far beyond its quantizer's range


def residual_stream(style: Style = PLAIN) -> onnx.ModelProto:
    """A pre-LN block: a LayerNormalization and an Add read the stream, whose one massive channel is clipped."""
    n = Net(style, x=(6, DIM))
    w = n.rng.normal(0, 0.15, (DIM, DIM))
    w[:, MASSIVE] *= 40
    stream = n.op("Add", "x", n.op("MatMul", n.qdq("x", "mid", scale=8 / 255), n.weight("w", w, 1)[0]))
    t = n.qdq(stream, "mid", scale=20 / 255)
    gamma = np.ones(DIM)
    gamma[MASSIVE] = 0.05
    normal = n.op("LayerNormalization", t, n.const("gamma", gamma), n.const("beta", np.zeros(DIM)), axis=-1)
    hidden = n.op("Relu", n.matmul(n.qdq(normal, "mid", scale=8 / 255), 2 * DIM, bias=False))
    more = n.matmul(n.qdq(hidden, scale=6 / 255), DIM, bias=False)
    total = n.op("LayerNormalization", n.op("Add", t, more), "gamma", "beta", axis=-1)
    head = n.weight("head", n.rng.normal(0, 0.2, (DIM, 10)), 1)[0]
    return n.model(n.op("MatMul", total, head))


def hard_swish(style: Style = PLAIN) -> onnx.ModelProto:
    """Conv, Q DQ, HardSwish, Q DQ, Conv: the quantizer in front of the activation clips two channels."""
    n = Net(style, x=(4, 6, 6))
    w = n.rng.normal(0, 0.3, (8, 4, 3, 3))
    w[2:4] *= 8
    before = n.op("Conv", n.qdq("x", "mid", scale=8 / 255), n.weight("w", w)[0], pads=[1] * 4)
    behind = n.op("HardSwish", n.qdq(before, "mid", scale=8 / 255))
    return n.model(n.conv(n.qdq(behind, "mid", scale=160 / 255), 4))


def samples(model: onnx.ModelProto, count: int = 16) -> dict[str, np.ndarray]:
    """Samples of a standard normal distribution."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"x": np.random.default_rng(9).standard_normal((count, *shape)).astype(np.float32)}
