"""A network whose quantizer clips two channels at a sixth, and samples that reach far."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from zoo import Net, Style

__all__ = ["network", "patches"]


def network(quantized: bool) -> onnx.ModelProto:
    """A layer whose quantizer is its ReLU and clips two channels at a sixth, between two others; or its float twin."""
    n, r = Net(Style(), x=(3, 16, 16)), np.random.default_rng(7)

    def layer(x: str, rows: int, columns: int, size: float, wild: tuple[int, int] = (1, 1)) -> str:
        w = r.normal(0, size, (rows, columns, 3, 3))
        w[2] *= wild[0]
        w[5] *= wild[1]
        name = f"w{rows}{columns}"
        return n.op("Conv", x, n.weight(name, w)[0] if quantized else n.const(name, w), pads=[1] * 4)

    def behind(x: str, step: float, zero: str = "low") -> str:
        return n.qdq(x, zero, scale=step / 255) if quantized else n.op("Relu", x) if zero == "low" else x

    first = behind(layer(behind("x", 6, "mid"), 8, 3, 0.4), 6.1)
    second = behind(layer(first, 8, 8, 0.3, (6, 4)), 5)
    return n.model(n.op("Flatten", n.op("GlobalAveragePool", layer(second, 6, 8, 0.3))))


def patches(count: int) -> np.ndarray[Any, Any]:
    """Samples with large areas of one value, whose sums reach far."""
    r = np.random.default_rng(3)
    large, small = r.standard_normal((count, 3, 4, 4)), r.standard_normal((count, 3, 16, 16))
    return np.asarray(large.repeat(4, 2).repeat(4, 3) + 0.3 * small, np.float32)
