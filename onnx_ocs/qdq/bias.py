"""Biases in float or integers: read, and written with another value or more channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer

__all__ = ["Bias", "add_bias", "read_bias", "write_bias"]


@dataclass(frozen=True)
class Bias:
    """A layer's bias per output channel.

    Attributes:
        kind: "none", "float" or "integer" (behind a DequantizeLinear).
        value: float values or stored integers, shape (C,).
        scale: of integers, float64, shape () or (C,); else None.
        zero_point: of integers, int64, shape () or (C,); else None.
        dequantize: the DequantizeLinear of integers.
    """

    kind: str
    value: Array
    scale: Array | None = None
    zero_point: Array | None = None
    dequantize: NodeProto | None = None

    def shifted(self, positions: Array, shift: Array) -> Array | str:
        """The widened bias, minus `shift`; integers are shifted by a whole number of their steps.

        Args:
            positions: old channel of every new channel.
            shift: float64, what to subtract from each new channel, in the output's units.

        Returns:
            The new values, in the dtype of the old, or why that cannot be done (never clipped).
        """
        if self.kind != "integer":
            with np.errstate(over="ignore"):  # the caller refuses what is not finite
                return np.asarray(self.value[positions].astype(np.float64) - shift, self.value.dtype)
        assert self.scale is not None
        scale = np.broadcast_to(self.scale, self.value.shape)[positions]
        with np.errstate(over="ignore"):  # by a step next to nothing
            new = self.value[positions].astype(np.float64) - np.rint(shift / scale)  # exact where it fits
        lo, hi = integer_range(self.value.dtype)
        if not (new.min(initial=0) >= lo and new.max(initial=0) <= hi):
            worst = new[np.abs(new).argmax()]
            return f"the shifted bias {worst:.0f} does not fit {self.value.dtype.name}"
        return np.asarray(new, self.value.dtype)


def read_bias(graph: Graph, node: NodeProto, index: int, channels: int) -> Bias | None:
    """The bias at one input of a layer, as (channels,); None when it is not constant or not per output channel."""
    name = node.input[index] if len(node.input) > index else ""
    if not name:
        return Bias("none", np.zeros(channels, np.float32))
    n = graph.producer.get(name)
    if is_op(n, "DequantizeLinear") and n is not None:
        value, q = graph.constant(n.input[0]), read_quantizer(graph, n)
        if value is None or not isinstance(q, Quantizer) or value.size not in (1, channels):
            return None
        if (value.ndim > 1 and value.shape[-1] != value.size) or q.scale.size not in (1, value.size):
            return None
        value = np.broadcast_to(value.reshape(-1), (channels,))
        return Bias("integer", value, q.scale, q.zero_point, n)
    value = graph.constant(name)
    if value is None or value.size not in (1, channels) or (value.ndim > 1 and value.shape[-1] != value.size):
        return None
    return Bias("float", np.broadcast_to(value.reshape(-1), (channels,)))


def write_bias(graph: EditableGraph, node: NodeProto, index: int, bias: Bias, value: Array, positions: Array) -> None:
    """Give a layer the widened bias (`Bias.shifted`), with the integers' parameters taken at `positions`."""
    name = node.input[index] if len(node.input) > index and node.input[index] else label(node) + "_bias"
    if bias.kind != "integer":
        graph.set_input(node, index, graph.add_initializer(name + "_wide", value))
        return
    assert bias.dequantize is not None
    dq = graph.clone_node(bias.dequantize, graph.fresh(name + "_wide"))
    graph.set_input(dq, 0, graph.add_initializer(bias.dequantize.input[0] + "_wide", value))
    for p in range(1, len(dq.input)):
        parameter = graph.constant(dq.input[p]) if dq.input[p] else None
        if parameter is not None and parameter.size > 1:
            graph.set_input(dq, p, graph.add_initializer(dq.input[p] + "_wide", parameter.reshape(-1)[positions]))
            for a in dq.attribute:
                if a.name == "axis":
                    a.i = 0  # the widened bias is one-dimensional
    graph.set_input(node, index, dq.output[0])


def add_bias(graph: EditableGraph, node: NodeProto, bias: Bias, value: Array, positions: Array, domain: str) -> None:
    """Give a layer that has none an integer bias with a scale of its own, taken at `positions`."""
    assert bias.scale is not None
    name = label(node) + "_bias"
    scale = bias.scale.astype(np.float32)
    attributes: dict[str, int] = {}
    if scale.size > 1:
        scale, attributes = scale[positions], {"axis": 0}
    inputs = [graph.add_initializer(name + "_quantized", value), graph.add_initializer(name + "_scale", scale)]
    graph.set_input(node, 2, graph.add_node("DequantizeLinear", inputs, graph.fresh(name), domain=domain, **attributes))
