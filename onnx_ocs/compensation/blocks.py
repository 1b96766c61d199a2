"""Blocks: where the error of a few layers is compensated at once.

A block ends where a residual Add, or a layer without activation (the bottleneck of an inverted residual, the head),
writes a tensor that is quantized or is the model's output.  What may stand between that point and the quantizer
are functions of this one tensor: activations, LayerNormalization, however they are spelled.  In a graph without
residual Adds every quantized layer output ends a block.  A block starts where the one before it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["Block", "find_blocks"]

# Ops that the walk back to a block's end may pass: element by element, or a normalization in pieces.
PIECES = frozenset({
    "Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Elu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish",
    "Mish", "Sigmoid", "HardSigmoid", "Tanh", "Selu", "Celu", "Softplus", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt",
    "Erf", "Reciprocal", "ReduceMean", "Cast", "Identity", "LayerNormalization", "SkipLayerNormalization",
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "Softmax", "LogSoftmax",
    "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
LIMIT = 32  # nodes that may stand between


@dataclass(frozen=True)
class Block:
    """One place for a compensation.

    Attributes:
        kind: "residual", "layer", or "head" (a graph output that nothing else reads).
        output: the float tensor that is compensated.
        axis: its channel axis.
        channels: its number of channels.
        input: the float tensor that the block before ends with; None for the first, or when its shape does not fit.
        strides: by how many positions of `input` one position of `output` advances, along the spatial axes.
        input_channels: of `input`.
        refusal: why nothing can be added here; None if it can.
    """

    kind: str
    output: str
    axis: int
    channels: int
    input: str | None = None
    strides: tuple[int, ...] = ()
    input_channels: int = 0
    refusal: Refusal | None = None


def _end(graph: Graph, place: Mapping[str, int], tensor: str) -> tuple[NodeProto | None, bool]:
    """The node in which the walk back from a tensor ends, and whether it passed an activation."""
    passed = False
    for _ in range(LIMIT):
        n = graph.producer.get(tensor)
        if n is None:
            return None, passed
        sources: list[str] = [t for t in dict.fromkeys(n.input) if t and graph.constant(t) is None]
        if is_layer(n) or n.op_type not in PIECES:
            return n, passed
        if len(sources) != 1:
            source = _source(graph, place, n)
            if source is None:
                return n, passed
            sources = [source]
        # a bias or a shape-preserving step is no activation
        passed = passed or n.op_type not in ("Add", "Cast", "Identity", "BatchNormalization")
        tensor = sources[0]
    return None, passed


def _source(graph: Graph, place: Mapping[str, int], node: NodeProto) -> str | None:
    """The one tensor from which all inputs of a node are computed in pieces; None when there are several."""
    frontier = {t for t in node.input if t and graph.constant(t) is None}
    for _ in range(LIMIT):
        if len(frontier) < 2:
            return next(iter(frontier), None)
        latest = max(frontier, key=lambda t: (place.get(t, -1), t))  # nothing that it is computed from is passed over
        n = graph.producer.get(latest)
        if n is None or n.op_type not in PIECES:
            return None
        frontier.remove(latest)
        frontier |= {t for t in n.input if t and graph.constant(t) is None}
    return None


def find_blocks(graph: Graph, regions: Sequence[Quantized], shapes: Mapping[str, Shape]) -> list[Block]:
    """The blocks of a graph, in topological order.

    Args:
        graph: the graph, before any pass.
        regions: its quantized activations.
        shapes: shapes of its tensors for one sample.
    """
    walks = {r.tensor: r.walk for r in regions if isinstance(r, Region)}
    heads = [o.name for o in graph.model.graph.output if not graph.readers(o.name)]
    tensors = dict.fromkeys([*(r.tensor for r in regions), *heads])
    place = {o: k for k, n in enumerate(graph.nodes) for o in n.output}
    found: dict[str, tuple[str, NodeProto]] = {}
    activated: dict[str, tuple[str, NodeProto]] = {}
    for t in tensors:
        end, passed = _end(graph, place, t)
        if end is None or t not in graph.producer:
            continue
        if t in heads:
            found[t] = "head", end
        elif is_op(end, "Add"):
            found[t] = "residual", end
        elif is_layer(end) and graph.constant(end.input[1]) is not None:
            (activated if passed else found)[t] = "layer", end
    if not any(is_op(end, "Add") for _, end in found.values()):
        found |= activated
    order = sorted(found, key=lambda t: place[t])
    before = _before(graph, order)
    blocks: list[Block] = []
    for t in order:
        kind, end = found[t]
        shape = shapes.get(t)
        at = label(graph.producer[t])
        axis = None if shape is None else _axis(graph, end)
        if shape is not None and axis is None:
            axis = walks[t].axis if t in walks else 1 if len(shape) == 4 else -1
        channels = shape[axis] if shape is not None and axis is not None and -len(shape) <= axis < len(shape) else None
        if shape is None or axis is None or not isinstance(channels, int) or len(shape) < 2:
            why = Refusal.of("unknown_channels", at)
            blocks.append(Block(kind, t, 1, 0, refusal=why))
            continue
        axis %= len(shape)
        if axis not in (1, len(shape) - 1):
            why = Refusal.of("channel_axis", at)
            blocks.append(Block(kind, t, axis, channels, refusal=why))
            continue
        known = next((b for b in blocks if b.output == before[t] and b.refusal is None), None)
        strides = None if known is None else _strides(shapes[known.output], shape, known.axis, axis)
        if known is None or strides is None:
            blocks.append(Block(kind, t, axis, channels))
        else:
            blocks.append(Block(kind, t, axis, channels, known.output, strides, known.channels))
    return blocks


def _axis(graph: Graph, end: NodeProto) -> int | None:
    """The channel axis of what a node computes: that of the nearest layer or norm; None when none is near."""
    nodes = [end]
    for _ in range(LIMIT):
        if not nodes:
            return None
        n = nodes.pop(0)
        if is_layer(n):
            return 1 if is_op(n, "Conv", "ConvTranspose") else -1
        if n.op_type in ("LayerNormalization", "SkipLayerNormalization", "RMSNormalization"):
            return -1
        if n.op_type in PIECES:
            nodes += [graph.producer[t] for t in n.input if t in graph.producer and graph.constant(t) is None]
    return None


def _before(graph: Graph, order: Sequence[str]) -> dict[str, str | None]:
    """For every block the latest one from which its output is computed."""
    number = {t: k for k, t in enumerate(order)}
    latest: dict[str, int] = {}
    before: dict[str, str | None] = {}
    for n in graph.nodes:
        above = max((latest.get(t, -1) for t in n.input if t), default=-1)
        for o in n.output:
            latest[o] = above
            if o in number:
                before[o] = order[above] if above >= 0 else None
                latest[o] = number[o]
    return before


def _strides(x: Shape, y: Shape, x_axis: int, y_axis: int) -> tuple[int, ...] | None:
    """Spatial strides that take an input's positions to an output's; None when there are none."""
    if len(x) != len(y) or x_axis != y_axis:
        return None
    strides = []
    for a, (p, q) in enumerate(zip(x, y, strict=True)):
        if a in (0, y_axis):
            continue
        if p == q and p is not None:
            strides.append(1)
        elif isinstance(p, int) and isinstance(q, int) and p > q > 0 and y_axis == 1:
            s = -(-p // q)
            if -(-p // s) != q:
                return None
            strides.append(s)
        else:
            return None
    return tuple(strides)
