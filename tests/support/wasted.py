"""Quantizers whose zero-points waste their range."""

from __future__ import annotations

import numpy as np
import onnx
from zoo import Net, Style

__all__ = ["silu", "wrong_side"]


def _layer(net: Net) -> str:
    return net.conv(net.qdq("x", "mid", 1.0), 8)


def silu(spelling: str = "pieces") -> onnx.ModelProto:
    """A symmetric grid in front of SiLU or HardSwish, whose values reach far below zero.

    Spelled as two nodes ("pieces"), with a quantizer between them ("quantized pieces"), or as "one node".
    """
    net = Net(Style(opset=17, bias="int32"), x=(3, 8, 8))
    low = net.op("Sub", net.op("Mul", _layer(net), net.const("four", 4.0)), net.const("six", 6.0))
    t = net.qdq(low, "mid", 1.0)
    if spelling == "one node":
        y = net.op("HardSwish", t)
    else:
        gate = net.op("Sigmoid", t)
        y = net.op("Mul", t, net.qdq(gate, "low", 1.0, scale=1 / 255) if spelling == "quantized pieces" else gate)
    hidden = net.qdq(y, "mid", 1.0, scale=float(np.abs(net.values(y)).max()) / 127)
    return net.model(net.op("Identity", net.conv(hidden, 4, 1), out="y"))


def wrong_side(zero: str = "mid") -> onnx.ModelProto:
    """Positive values on a symmetric grid ("mid"), read by a layer that pads and has an int32 bias."""
    net = Net(Style(bias="int32"), x=(3, 8, 8))
    hidden = net.qdq(net.op("Relu", _layer(net)), zero, 1.0)
    return net.model(net.op("Identity", net.conv(hidden, 4, 3), out="y"))
