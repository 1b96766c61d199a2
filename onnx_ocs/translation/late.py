"""Late: the copies are made in float behind the activation, and quantized like what they are copies of.

    parts       a,   relu(a - i * X_clip),   min(a + i * X_low, 0)
    floats      Q(Concat(a, relu(a - X_clip), ...))
    integers    Concat(Q(a), Q(relu(a - X_clip)), ...)        every part has a quantizer of its own
    halves      Q(a / 2) twice

Both give the same values.  Of int8 behind a Concat of floats OpenVINO makes wrong ones: these are stored without a sign
(`onnx_ocs.translation.unsigned`), or where somebody else reads them, joined.  A quantizer with a step for each channel
behind a Concat it does not load: such integers are joined, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.foldback import along, pick

__all__ = ["Part", "floats", "halves", "integers", "joins", "parameters", "parts"]

ANY_CONCAT = 4  # opset from which Concat joins integers
WHOLE_BYTES = (np.int8, np.uint8, np.int16, np.uint16)


@dataclass(frozen=True, eq=False)
class Part:
    """Channels of one kind in front of a quantizer: the bases, or the copies of one side.

    Attributes:
        tensor: the float tensor.
        rows: which channels of the layout they are, int64.
    """

    tensor: str
    rows: Array


def parts(graph: EditableGraph, region: Region, wide: Wide, behind: int) -> list[Part]:
    """Make the copies: Gather, Sub, Relu (Min) where the quantizer is none.

    Args:
        graph: the graph.
        region: whose channels are copied.
        wide: the layout asked for.
        behind: number of axes behind that of the channels.

    Returns:
        The bases, and the copies of each side.
    """
    tensor, q = region.tensor, region.quantizer
    found = [Part(tensor, np.flatnonzero(wide.level == 0))]
    for sign, size in ((1, q.x_clip), (-1, q.x_low)):
        chosen = np.flatnonzero(wide.level * sign > 0)
        if not chosen.size:
            continue
        name = f"{tensor}_{'up' if sign > 0 else 'low'}"
        channels = wide.origin[chosen]
        part = tensor
        if not np.array_equal(channels, np.arange(wide.narrow)):
            part = pick(graph, tensor, channels, wide.axis, graph.fresh(name + "_outliers"))
        shift = wide.level[chosen] * np.broadcast_to(size, (wide.narrow,))[channels]
        constant = graph.add_initializer(name + "_shift", along(shift.astype(q.float_dtype), behind))
        part = graph.add_node("Sub", [part, constant], graph.fresh(name + "_shifted"))
        if sign > 0 and not q.rectifies:  # other quantizers are a ReLU themselves
            part = graph.add_node("Relu", [part], graph.fresh(name + "_copies"))
        elif sign < 0:
            zero = graph.add_initializer(name + "_zero", np.zeros((), q.float_dtype))
            part = graph.add_node("Min", [part, zero], graph.fresh(name + "_copies"))
        found.append(Part(part, chosen))
    return found


def joins(graph: Graph, region: Region, node: NodeProto) -> bool:
    """Whether the integers of bases and copies are to be joined, and can be: int8 or a step for each channel, no Clip.

    Of int8 it costs their readers onnxruntime's integer kernels on x86, which takes int8 from a quantizer alone; with a
    step for each channel there are none.  Concat takes no integers of 4 bits.
    """
    clipped = any(is_op(r, "Clip") for r in graph.readers(node.output[0]))
    q = region.quantizer
    wanted = q.dtype == np.int8 or (q.scale.size > 1 and q.dtype in WHOLE_BYTES)
    return wanted and not clipped and graph.opset >= ANY_CONCAT


def integers(graph: EditableGraph, node: NodeProto, found: Sequence[Part], wide: Wide) -> str:
    """Quantize every part by itself, as a QuantizeLinear that stays as it is does the bases, and join the integers.

    Args:
        graph: the graph.
        node: the QuantizeLinear.
        found: the parts.
        wide: the layout.

    Returns:
        The wide tensor.
    """
    names = [str(node.output[0])]
    for part in found[1:]:
        new = graph.clone_node(node, graph.fresh(part.tensor + "_quantized"))
        del new.metadata_props[:]
        graph.set_input(new, 0, part.tensor)
        parameters(graph, new, wide.origin[part.rows])
        names.append(new.output[0])
    return _join(graph, names, found, wide.axis, names[0])


def floats(graph: EditableGraph, region: Region, found: Sequence[Part], wide: Wide) -> str:
    """Join the parts in front of their quantizer; returns the wide tensor."""
    return _join(graph, [p.tensor for p in found], found, wide.axis, region.tensor)


def _join(graph: EditableGraph, names: Sequence[str], found: Sequence[Part], axis: int, name: str) -> str:
    """The parts' channels in the order of the layout."""
    out = graph.add_node("Concat", names, graph.fresh(name + "_wide"), axis=axis)
    rows = np.concatenate([p.rows for p in found])
    if not np.array_equal(rows, np.arange(rows.size)):
        out = pick(graph, out, np.argsort(rows), axis, graph.fresh(name + "_grouped"))
    return out


def halves(graph: EditableGraph, region: Region, wide: Wide, behind: int) -> str:
    """Halve channels: Gather, Mul; returns the wide tensor."""
    tensor, q = region.tensor, region.quantizer
    part = pick(graph, tensor, wide.origin, wide.axis, graph.fresh(tensor + "_twice"))
    factor = along((1 / wide.units()[wide.origin]).astype(q.float_dtype), behind)
    factors = graph.add_initializer(tensor + "_factor", factor)
    return graph.add_node("Mul", [part, factors], graph.fresh(tensor + "_halved"))


def parameters(graph: EditableGraph, node: NodeProto, origin: Array) -> None:
    """Repeat the per-channel parameters of a QuantizeLinear or DequantizeLinear."""
    for p in (1, 2):
        value = graph.constant(node.input[p]) if len(node.input) > p and node.input[p] else None
        if value is not None and value.size > 1:
            graph.set_input(node, p, graph.add_initializer(node.input[p] + "_wide", value[origin]))
