"""What the node behind a layer lets through: values beyond it need not be matched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.intervals import clip_bounds
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.records.layouts import read_layouts

__all__ = ["Reach", "reach"]


@dataclass(frozen=True, eq=False)
class Reach:
    """What follows a layer can express.

    Attributes:
        low: smallest value of every channel, float64 (channels,).
        high: largest.
        levels: how many levels the quantizer has there, without copies; a great number where there is none.
    """

    low: Array
    high: Array
    levels: int


def reach(graph: Graph, layer: LinearMap) -> Reach | None:
    """What the Relu or Clip, and the quantizer, behind a layer can express; None where it is something else."""
    channels = int(layer.outputs.max()) + 1
    low, high = np.full(channels, -np.inf), np.full(channels, np.inf)
    wide = dict(read_layouts(graph.model).values())
    tensor, levels = layer.y, 1 << 30
    for _ in range(4):
        readers = graph.value_readers(tensor)
        if not readers or tensor in graph.outputs or graph.captured(tensor):
            return None
        if all(is_op(n, "QuantizeLinear") for n in readers):
            for n in readers:
                q = read_quantizer(graph, n)
                if not isinstance(q, Quantizer) or q.scale.size not in (1, channels):
                    return None
                layout = wide.get(str(n.output[0]))
                bottom, top = -q.x_low, q.x_clip
                if layout is not None and not layout.halved:
                    if layout.narrow != channels:
                        return None
                    bottom, top = (steps * q.scale for steps in layout.reach(q))
                low, high = np.maximum(low, bottom), np.minimum(high, top)
                levels = min(levels, q.qmax - q.qmin + 1)
            break
        if len(readers) != 1:
            return None
        n = readers[0]
        if is_op(n, "Relu"):
            low = np.maximum(low, 0.0)
        elif is_op(n, "Clip"):
            least, most = clip_bounds(graph, n)
            low, high = np.maximum(low, least), np.minimum(high, most)
        else:
            break
        tensor = str(n.output[0])
    return Reach(low, high, levels) if np.any(np.isfinite(low) | np.isfinite(high)) else None
