"""Networks whose narrow tensors are signed outputs of linear layers, as the bottlenecks of MobileNets are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from zoo import Net, Style

Reader = Callable[[Net, str], str]


def point(n: Net, x: str) -> str:
    return n.conv(n.qdq(n.op("Relu", n.conv(x, 12, kernel=1))), 6, kernel=1)


def shortcut(n: Net, x: str) -> str:
    """An inverted residual block: 1x1, depthwise, 1x1, and what it reads."""
    a = n.qdq(n.op("Relu", n.conv(x, 12, kernel=1)))
    b = n.qdq(n.op("Relu", n.conv(a, 12, groups=12)))
    return n.qdq(n.op("Add", n.qdq(n.conv(b, 6, kernel=1), "mid"), x), "mid")


def depthwise(n: Net, x: str) -> str:
    return n.conv(x, 6, groups=6)


def valid(n: Net, x: str) -> str:
    y = n.conv(x)
    next(a for a in n.nodes[-1].attribute if a.name == "pads").ints[:] = [0] * 4
    return y


def padded(n: Net, x: str) -> str:
    return n.conv(x)


def pooled(n: Net, x: str) -> str:
    return n.conv(n.op("MaxPool", x, kernel_shape=[2, 2]), kernel=1)


def net(reader: Reader, style: Style, share: float = 0.8) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """Conv, ReLU, 1x1 Conv, signed quantizer, and what reads it: the tensor is called conv2."""
    n = Net(style, x=(4, 6, 6))
    a = n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid"))))
    p = n.qdq(n.conv(a, 6, kernel=1), "mid", share)
    return n.model(reader(n, p)), n.feed


def dense(style: Style) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """Two Gemms with a signed quantizer in between: the tensor is called gemm1."""
    n = Net(style, x=(12,))
    return n.model(n.gemm(n.qdq(n.gemm(n.qdq("x", "mid"), 16), "mid"), 8)), n.feed
