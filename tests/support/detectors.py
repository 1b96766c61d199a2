"""Small detectors as the public int8 files have them: boxes in pixels and scores between 0 and 1 share a step.

Each has 4 channels of boxes (up to 320) and 3 of scores (most below 0.3); a step of 320 / 255 makes every score 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from zoo import Net, Style

__all__ = ["DETECTORS", "PIXELS", "SCORES", "STEP", "build", "samples"]

PIXELS = 320.0
STEP = PIXELS / 255
SCORES = {4, 5, 6}  # where boxes and scores are one tensor


def _heads(net: Net) -> tuple[str, str]:
    """A shared feature map, boxes and scores, in float behind the last layers."""
    features = net.qdq(net.op("Relu", net.conv(net.qdq("x", "mid", 1.0), 8)), "low", 1.0)
    boxes = net.op("Sigmoid", net.qdq(net.conv(features, 4, 1), "mid", 1.0))
    logits = net.op("Sub", net.conv(features, 3, 1), net.const("prior", 2.5))
    scores = net.op("Sigmoid", net.qdq(logits, "mid", 1.0))
    return net.op("Mul", boxes, net.const("pixels", PIXELS)), scores


def _coarse(net: Net, tensor: str, out: str | None = None) -> str:
    return net.dq(net.q(tensor, "low", scale=STEP), out=out)


def one_output(net: Net) -> tuple[str, ...]:
    """Every part and the whole on the step of the boxes."""
    boxes, scores = _heads(net)
    return (_coarse(net, net.op("Concat", _coarse(net, boxes), _coarse(net, scores), axis=1), "y"),)


def float_parts(net: Net) -> tuple[str, ...]:
    """The whole alone is quantized."""
    return (_coarse(net, net.op("Concat", *_heads(net), axis=1), "y"),)


def moved(net: Net) -> tuple[str, ...]:
    """Transpose, Mul and Reshape stand between the quantizers and the output."""
    joined = _coarse(net, net.op("Concat", *_heads(net), axis=1))
    turned = _coarse(net, net.op("Transpose", joined, perm=[0, 2, 3, 1]))
    scaled = net.op("Mul", turned, net.const("half", 0.5))
    return (net.op("Reshape", scaled, net.ints("rows", 0, -1, 7), out="y"),)


def several(net: Net) -> tuple[str, ...]:
    """Boxes and scores leave apart; the scores have the step of the boxes all the same."""
    boxes, scores = _heads(net)
    return _coarse(net, boxes, "boxes"), _coarse(net, scores, "scores")


def read_by_a_layer(net: Net) -> tuple[str, ...]:
    """A Conv reads the joined tensor too, with an integer kernel."""
    joined = _coarse(net, net.op("Concat", *_heads(net), axis=1))
    more = net.qdq(net.op("Relu", net.conv(joined, 2, 1)), "low", 1.0)
    return net.op("Identity", joined, out="y"), net.op("Identity", more, out="z")


DETECTORS: Mapping[str, Callable[[Net], tuple[str, ...]]] = {
    f.__name__: f for f in (one_output, float_parts, moved, several, read_by_a_layer)
}


def build(name: str, style: Style = Style()) -> onnx.ModelProto:
    """One of `DETECTORS`."""
    net = Net(style, 0, x=(3, 8, 8))
    outputs = DETECTORS[name](net)
    return net.model(*outputs)


def samples(count: int = 24, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs, some flat and some wild."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 8, 8)) * rng.uniform(0.3, 1.5, (count, 1, 1, 1))
    return {"x": x.astype(np.float32)}
