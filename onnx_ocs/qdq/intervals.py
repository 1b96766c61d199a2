"""Intervals that a tensor's values cannot leave, by interval arithmetic over the graph.

A quantizer whose range covers the interval of its input never clips, so there is nothing to translate there: an
explicit ReLU6 with X_clip >= 6, a pooling or reshaping behind an equal quantizer, a Sigmoid.  Weighted layers are
taken as unbounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer

__all__ = ["Interval", "both_bounds", "clip_bounds", "value_bounds"]

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
UNIT = frozenset(["Sigmoid", "HardSigmoid", "Softmax"])
KEEP = frozenset({
    "Identity", "Dropout", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "GlobalMaxPool",
    "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceMin", "Slice", "Gather", "Split", "Expand", "Tile",
    "Cast", "DepthToSpace", "SpaceToDepth", "ChannelShuffle",
})  # fmt: skip


def _product(a: Interval, b: Interval) -> Interval:
    ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return min(ends), max(ends)


def _node(graph: Graph, n: NodeProto, arg: Callable[[int], Interval]) -> Interval:
    """Interval of a node's outputs from those of its inputs."""
    op = n.op_type
    if op in KEEP or (op in ("Resize", "Upsample") and attribute(n, "mode", b"nearest") == b"nearest"):
        return arg(0)
    if op in UNIT:
        return 0.0, 1.0
    if op in ("Tanh", "Erf"):
        return -1.0, 1.0
    if op in ("Relu", "Clip"):
        lo, hi = arg(0)
        bottom, top = (0.0, math.inf) if op == "Relu" else clip_bounds(graph, n)
        return min(max(lo, bottom), top), min(max(hi, bottom), top)
    if op in ("Gelu", "HardSwish", "Swish", "Mish"):
        lo, hi = arg(0)
        return max(min(lo, 0.0), -0.5), max(hi, 0.0)
    if op in ("LeakyRelu", "Elu", "PRelu"):
        lo, hi = arg(0)
        slope = 1.0 if op == "Elu" else attribute(n, "alpha", 0.01) if op == "LeakyRelu" else None
        return (lo * max(slope, 0.0) if lo < 0 and slope else min(lo, 0.0), max(hi, 0.0)) if slope is not None else ANY
    if op == "AveragePool":
        lo, hi = arg(0)
        return min(lo, 0.0), max(hi, 0.0)  # padding may count as zeros
    if op == "Pad":
        lo, hi = arg(0)
        c = arg(2) if len(n.input) > 2 and n.input[2] else (0.0, 0.0)
        return min(lo, c[0]), max(hi, c[1])
    if op in ("Concat", "Max", "Min"):
        parts = [arg(k) for k in range(len(n.input))]
        if op == "Concat":
            return min(p[0] for p in parts), max(p[1] for p in parts)
        pick = max if op == "Max" else min
        return pick(p[0] for p in parts), pick(p[1] for p in parts)
    if op in ("Add", "Sub", "Mul"):
        a, b = arg(0), arg(1)
        if op == "Mul":
            return _product(a, b)
        b = b if op == "Add" else (-b[1], -b[0])
        return a[0] + b[0], a[1] + b[1]
    if op == "Div":
        d = graph.constant(n.input[1])
        if d is not None and d.size and d.dtype.kind == "f" and (np.all(d > 0) or np.all(d < 0)):
            return _product(arg(0), (1 / float(d.max()), 1 / float(d.min())))
    return ANY


def clip_bounds(graph: Graph, node: NodeProto) -> Interval:
    """Lower and upper bound of a float Clip; infinite where absent or not constant."""
    ends = []
    for k, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        value: float | None = None
        if len(node.input) > k and node.input[k]:
            found = graph.constant(node.input[k])
            value = None if found is None or found.size != 1 else float(found.reshape(()))
        elif graph.opset < 11:
            value = attribute(node, name)
        ends.append(default if value is None else float(value))
    return ends[0], ends[1]


def _output(graph: Graph, n: NodeProto, arg: Callable[[int], Interval]) -> Interval:
    if is_op(n, "DequantizeLinear"):
        q = read_quantizer(graph, n)
        source = graph.producer.get(n.input[0])
        if not isinstance(q, Quantizer):
            return ANY
        lo, hi = q.qmin, q.qmax
        if is_op(source, "Clip") and source is not None:
            lo, hi = integer_clip(graph, source, q) or (lo, hi)
        return float(((lo - q.zero_point) * q.scale).min()), float(((hi - q.zero_point) * q.scale).max())
    if n.domain not in ("", "ai.onnx", "com.microsoft") or is_op(n, "QuantizeLinear") or graph.opset < 1:
        return ANY
    found = _node(graph, n, arg)
    return ANY if any(math.isnan(v) for v in found) else found


def value_bounds(graph: Graph, wanted: Iterable[str]) -> dict[str, Interval]:
    """Intervals of float tensors of the main graph; only what they depend on is looked at.

    Args:
        graph: the graph.
        wanted: names of tensors.

    Returns:
        The interval of each, infinite where nothing is known (and those of others on the way).
    """
    return {t: interval for t, (interval, _) in both_bounds(graph, wanted).items()}


def both_bounds(graph: Graph, wanted: Iterable[str]) -> dict[str, tuple[Interval, Interval]]:
    """The same, and the intervals without what quantizers can express, which copies may widen."""
    known: dict[str, tuple[Interval, Interval]] = {}
    stack = list(wanted)
    while stack:
        tensor = stack[-1]
        if tensor in known:
            stack.pop()
            continue
        n = graph.producer.get(tensor)
        inputs, missing = () if n is None else tuple(n.input), list[str]()
        apart = False  # whether both intervals of an input differ

        def arg(k: int, side: int = 0, inputs: tuple[str, ...] = inputs, missing: list[str] = missing) -> Interval:
            nonlocal apart
            if k >= len(inputs) or not inputs[k]:
                return ANY
            both = known.get(inputs[k])
            if both is None:
                missing.append(inputs[k])
                return ANY
            apart = apart or both[0] != both[1]
            return both[side]

        found = ANY if n is None else _output(graph, n, arg)
        if missing:
            stack += missing
            continue
        firm = found if n is None or not apart else _output(graph, n, partial(arg, side=1))
        if ANY in (found, firm) and (extent := graph.extent(tensor)) is not None:
            found, firm = (extent if i == ANY else i for i in (found, firm))
        free = is_op(n, "DequantizeLinear") and not graph.is_constant(tensor)
        known[tensor] = found, ANY if free else firm
    return known
