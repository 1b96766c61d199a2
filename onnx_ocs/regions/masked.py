"""What a Softmax makes nothing of: values far below the largest of their row.

    Softmax(scores + mask), mask 0 or -10,000          e^-20 is 2e-9: whether -20 or -10,000, the weight is 0

One quantizer behind that sum has a step of 40, and all scores become 0.  So values count as no smaller than what is
still nothing, and the range is chosen over these.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["axis_of", "floor_of", "floored", "rows_along", "softmax_axes"]

NOTHING = 20.0  # below the largest of a row: its weight is 2e-9 of that one's
FLAT = 13  # the first opset in which a Softmax is one of an axis; before, of all axes from that one on


def softmax_axes(graph: Graph, regions: Iterable[Quantized]) -> dict[str, int]:
    """Tensors with one step that Softmaxes alone read behind their quantizers, and the axis of their rows."""
    found = {}
    for r in regions:
        if not isinstance(r, Region) or r.quantizer.scale.size != 1 or not r.walk.dequantizers or r.walk.integers_leave:
            continue
        tensors = [str(d.output[0]) for d in r.walk.dequantizers]
        readers = [n for t in tensors for n in graph.readers(t)]
        alone = not any(t in graph.outputs or graph.captured(t) for t in tensors)
        axes = {axis_of(graph, n) for n in readers}
        if alone and len(axes) == 1 and all(is_op(n, "Softmax") for n in readers):
            found[r.tensor] = axes.pop()
    return found


def axis_of(graph: Graph, softmax: NodeProto) -> int:
    """A Softmax's axis, which has another default since opset 13."""
    return int(attribute(softmax, "axis", -1 if graph.opset >= FLAT else 1))


def rows_along(graph: Graph, rank: int, axis: int) -> tuple[int, ...]:
    """The axes along which a Softmax sums to one, of a tensor of so many."""
    axis %= rank
    return (axis,) if graph.opset >= FLAT else tuple(range(axis, rank))


def floor_of(graph: Graph, value: Array, axis: int) -> Array:
    """Below what a Softmax makes nothing of values, in a shape that broadcasts to theirs."""
    axes = rows_along(graph, value.ndim, axis)
    return np.asarray(value.max(axes, keepdims=True) - np.asarray(NOTHING, value.dtype))


def floored(graph: Graph, value: Array, axis: int) -> Array:
    """Values, those that a Softmax makes nothing of raised to where it still makes nothing of them."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.maximum(value, floor_of(graph, value, axis)))
