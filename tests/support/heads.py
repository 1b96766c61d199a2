"""A small detector: boxes and scores of other scales that read one tensor, with its float twin and samples.

The boxes read small channels, which need a fine step, the scores large ones, which need a wide range: a step that is
better for the one is worse for the other.
"""

from __future__ import annotations

from typing import Any

import feeds
import numpy as np
import onnx
import zoo

__all__ = ["detector", "hits", "two_heads"]

NEAR = 0.1  # how far off a box may be that is a hit


def two_heads(apart: bool = True) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """Model, float twin and samples; the heads are two outputs, or seven channels of one."""

    def built(float_twin: bool) -> onnx.ModelProto:
        net = zoo.Net(zoo.Style(weight="float", bias="none"), x=(4, 6, 6))
        rng = np.random.default_rng(1)
        w = rng.normal(0, 0.3, (16, 4, 3, 3))
        w[:12] *= 0.06
        y = net.op("Relu", net.op("Conv", "x", net.const("w0", w), kernel_shape=[3, 3], pads=[1] * 4))
        y = y if float_twin else net.qdq(y, scale=6 / 255)
        boxes, scores = rng.normal(0, 3, (4, 16, 1, 1)), rng.normal(0, 0.3, (3, 16, 1, 1))
        boxes[:, 12:], scores[:, :12] = 0, 0
        scores *= 0.01
        heads = [net.op("Conv", y, net.const(n, v)) for n, v in (("boxes_w", boxes), ("scores_w", scores))]
        return net.model(*(heads if apart else [net.op("Concat", *heads, axis=1)]))

    quantized = built(False)
    return quantized, built(True), feeds.inputs(quantized, 48)


def hits(outputs: dict[str, Any], _references: dict[str, Any], labels: dict[str, Any]) -> float:
    """A detector's hit rate: the share of places whose box is near the labelled one."""
    boxes = next(iter(outputs.values()))
    return float(np.mean(np.abs(boxes - labels["truth"]).max(1) <= NEAR))


def detector() -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """The two heads, with the float model's boxes as labels in the samples."""
    model, floats, calib = two_heads()
    return model, floats, {**calib, "truth": zoo.execute(floats, calib)[0]}
