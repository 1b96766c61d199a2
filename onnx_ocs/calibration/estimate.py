"""Outliers without samples: estimated from weights, biases and quantization parameters.

Each channel is taken for a normal variable whose mean and variance follow from the layer in front of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_ocs.calibration.outliers import Outliers
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qdq.layers import LAYERS, is_layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["estimate"]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
Spread = tuple[Array, Array]  # mean and variance, each (C,) or ()


def _cdf(t: Array) -> Array:
    x = np.asarray(-t / math.sqrt(2))
    return np.asarray(0.5 * np.fromiter(map(math.erfc, x.ravel().tolist()), np.float64, x.size).reshape(x.shape))


def _pdf(t: Array) -> Array:
    return np.asarray(np.exp(-0.5 * np.minimum(t * t, 1e4)) / math.sqrt(2 * math.pi))


def _tail_mass(mean: Array, std: Array, lo: Array, hi: Array) -> Array:
    """Integral of a * N(a; mean, std) over [lo, hi]."""
    a, b = (lo - mean) / std, (hi - mean) / std
    # erfc keeps its relative precision in the upper tail: Phi(b) - Phi(a) = Q(a) - Q(b)
    inside = _cdf(-a) - _cdf(-b)
    return np.asarray(np.maximum(mean * inside + std * (_pdf(a) - _pdf(b)), 0.0))


def _rectified(m: Spread) -> Spread:
    """Mean and variance of max(x, 0) for Gaussian x (Nagel et al. 2019, appendix C)."""
    mean, std = np.asarray(m[0], np.float64), np.sqrt(np.maximum(m[1], 1e-24))
    t = mean / std
    p, d = _cdf(t), _pdf(t)
    first = mean * p + std * d
    second = (mean**2 + std**2) * p + mean * std * d
    return first, np.maximum(second - first**2, 0.0)


def _match(v: Array, channels: int) -> Array:
    if v.shape == (channels,):
        return v
    return np.broadcast_to(v, (channels,)) if v.size in (1, channels) else np.full(channels, v.mean())


def _squared(w: Array) -> Array:
    """The squares of values that are not needed any more: in their place, which a cache holds, if nobody else's."""
    return np.square(w, out=w if w.flags.owndata else None)


def _kernel_sums(w: Array) -> Array:
    """Sums over all positions of a Conv's kernel, for each pair of channels."""
    if w.size == w.shape[0] * w.shape[1]:  # a sum over one element, which numpy is slow at
        return w.reshape(w.shape[:2])
    return np.asarray(w.reshape(*w.shape[:2], -1).sum(2))


def _matrix(w: Array, upright: bool) -> Array:
    """A layer's weight as the matrix that multiplies channel means, (outputs, inputs)."""
    return _kernel_sums(w) if w.ndim > 2 else w if upright else w.T


def _layer(graph: Graph, node: NodeProto, x: Spread) -> Spread | None:
    layer = read_layer(graph, node)
    if layer is None:
        return None
    shape, out, into = layer.weight.shape, layer.out, layer.into
    groups = layer.groups if layer.kind == "Conv" else 1
    if not 0 < groups <= shape[out] or shape[out] % groups:
        return None
    n = shape[into] * groups
    first, second = _match(x[0], n), _match(x[1], n)
    mean, var = np.zeros(shape[out]), np.zeros(shape[out])
    for axis, where, w in layer.weight.blocks(graph):
        at = {axis: where}
        outs, ins = at.get(out, slice(None)), at.get(into, slice(None))
        w = w.astype(np.float32, copy=False)
        if layer.kind == "ConvTranspose":
            w = w.reshape(*w.shape[:2], -1).mean(2)
        elif layer.kind != "Conv" and len(shape) > 2:  # of several matrices the first stands for all
            if where.start:
                continue
            w = w.reshape(-1, *w.shape[-2:])[0]
        if groups > 1:
            inputs = np.arange(n).reshape(groups, -1).repeat(shape[0] // groups, axis=0)[outs, ins]
            mean[outs] += (_kernel_sums(w) * first[inputs]).sum(1)
            var[outs] += (_kernel_sums(_squared(w)) * second[inputs]).sum(1)
            continue
        upright = out == 0
        mean[outs] += _matrix(w, upright) @ first[ins].astype(np.float32)
        var[outs] += _matrix(_squared(w), upright) @ second[ins].astype(np.float32)
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return (mean + bias.reshape(-1) if bias is not None and bias.size in (1, mean.size) else mean), var


def _range(q: Quantizer) -> Spread:
    """Spread of a tensor of which only the quantizer is known: it was fitted to it, as to three deviations."""
    half = float((q.x_clip + q.x_low).max()) / 2
    return np.asarray(float((q.x_clip - q.x_low).mean()) / 2), np.asarray((half / 3) ** 2)


def _scale(graph: Graph, n: NodeProto) -> Array | None:
    """The constant scale of a LayerNormalization, which says all about its output."""
    return graph.constant(n.input[1]) if n.op_type == "LayerNormalization" and len(n.input) > 1 else None


def _step(graph: Graph, n: NodeProto, known: dict[str, Spread]) -> Spread | None:
    got = [known.get(t) for t in n.input]
    x = next((m for m in got if m is not None), None)
    op = n.op_type
    if op == "QuantizeLinear":
        q = read_quantizer(graph, n)
        if not isinstance(q, Quantizer):
            return x
        if x is None or n.input[0] in graph.inputs:
            return _range(q)
        x = _rectified(x) if q.rectifies else x
        low, top = -float(q.x_low.max()), float(q.x_clip.max())
        return np.clip(x[0], low, top), np.minimum(x[1], ((top - low) / 2) ** 2)  # no more spread than the range
    if (norm := _scale(graph, n)) is not None:
        beta = graph.constant(n.input[2]) if len(n.input) > 2 and n.input[2] else None
        center: Array = np.zeros(norm.size) if beta is None else beta.astype(np.float64).reshape(-1)
        return center, norm.reshape(-1).astype(np.float64) ** 2
    if x is None:
        dq = read_quantizer(graph, n) if is_op(n, "DequantizeLinear") else None
        return _range(dq) if isinstance(dq, Quantizer) else None
    if is_layer(n) and got[0] is not None:
        return _layer(graph, n, got[0])
    if op in ("Relu", "LeakyRelu", "PRelu", "Gelu", "HardSwish", "Swish", "Elu"):
        return _rectified(x)
    if op == "Clip" and n.input[1:2] and (lo := graph.constant(n.input[1])) is not None and np.all(lo == 0):
        return _rectified(x) if lo.dtype.kind == "f" else x
    if op in ("Add", "Sub", "Mul") and len(n.input) == 2:
        constant = next((c for t in n.input if (c := graph.constant(t)) is not None), None)
        size = max(v.size for m in got if m is not None for v in m)
        if constant is not None:
            v = _match(constant.astype(np.float64).reshape(-1), size) if constant.size else np.zeros(size)
            return (x[0] * v, x[1] * v**2) if op == "Mul" else (x[0] + (v if op == "Add" else -v), x[1])
        a, b = (m if m is not None else (np.zeros(()), np.ones(())) for m in got)
        a, b = ((_match(m[0], size), _match(m[1], size)) for m in (a, b))
        if op == "Mul":  # a gate, as in SiLU: near one for large values
            larger = a if a[1].sum() >= b[1].sum() else b
            return _rectified(larger)
        return (a[0] + b[0] if op == "Add" else a[0] - b[0]), a[1] + b[1]
    if op == "BatchNormalization":
        gamma, beta, mean, var = (graph.constant(t) for t in n.input[1:5])
        if gamma is None or beta is None or mean is None or var is None:
            return x
        g = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + attribute(n, "epsilon", 1e-5))
        return (_match(x[0], g.size) - mean) * g + beta, _match(x[1], g.size) * g**2
    if op == "Concat" and all(m is not None for m in got):
        return tuple(np.concatenate([np.atleast_1d(m[k]) for m in got if m is not None]) for k in (0, 1))  # type: ignore[return-value]
    return x


def estimate(graph: Graph, regions: Sequence[Quantized], copies: int) -> dict[int, Outliers]:
    """Estimate the outliers' mass from weights, biases and quantization parameters alone.

    The estimator propagates channel means and variances through the graph: a layer's output has mean
    sum(w) * E[x] + b and variance sum(w^2) * Var[x]; a ReLU gives the rectified Gaussian's moments; a graph input,
    and any tensor of which nothing else is known, is taken as spread over its quantizer's range (three deviations).
    The mass of copy i is the Gaussian's in
    [(i + 1) * X_clip, (i + 2) * X_clip].  It ranks channels; it does not know correlations or real tails.

    Args:
        graph: the graph.
        regions: the regions; those that are refused are passed over.
        copies: most copies a channel.

    Returns:
        Index of the region -> its estimated outliers.
    """
    floats = {i.name for i in graph.model.graph.input if i.type.tensor_type.elem_type in FLOATS}
    known: dict[str, Spread] = {t: (np.zeros(()), np.ones(())) for t in graph.inputs & floats}
    open_to_translation = {k: r for k, r in enumerate(regions) if isinstance(r, Region) and r.refusal is None}
    wanted = {t for r in open_to_translation.values() for t in (r.tensor, r.activation.source)}
    steps: list[NodeProto] = []
    for n in reversed(graph.nodes):
        if not wanted.isdisjoint(n.output) and not is_op(n, "Shape"):
            steps.append(n)
            wanted.update(n.input if _scale(graph, n) is None else ())
    for n in reversed(steps):
        # what is computed from a tensor is none: asked first, as it is known already
        if n.output and ((n.input and n.input[0] in known) or not graph.is_constant(n.output[0])):
            m = _step(graph, n, known)
            if m is not None:
                known.update((o, m) for o in n.output if o)
    result = {}
    for k, region in open_to_translation.items():
        walk, q = region.walk, region.quantizer
        top, low = np.broadcast_to(q.x_clip, (walk.channels,)), np.broadcast_to(q.x_low, (walk.channels,))
        upper, lower = np.zeros((walk.channels, copies)), np.zeros((walk.channels, copies))
        source = graph.producer.get(region.tensor)
        gated = source is not None and not is_op(source, *LAYERS, "Add")
        # behind an activation the tail is that of the Gaussian in front of it
        m = known.get(region.activation.source if gated else region.tensor, known.get(region.tensor))
        if region.tensor not in graph.inputs:  # an input's quantizer is taken to cover it
            m = _range(q) if m is None else m
            mean, std = _match(np.asarray(m[0]), walk.channels), np.sqrt(_match(np.asarray(m[1]), walk.channels))
            std = np.maximum(std, 1e-12)
            for side, bound, sign in ((upper, top, 1), (lower, low, -1)):
                for i in range(copies if np.any(bound > 0) else 0):
                    side[:, i] = _tail_mass(sign * mean, std, (i + 1) * bound, (i + 2) * bound)
            if region.bounds[1] < np.inf:
                upper[(np.arange(1, copies + 1) * top[:, None]) >= region.bounds[1]] = 0
            if region.bounds[0] > -np.inf:
                lower[(np.arange(1, copies + 1) * low[:, None]) >= -region.bounds[0]] = 0
        upper[top <= 0], lower[low <= 0] = 0, 0
        result[k] = Outliers(upper, lower, measured=False)
    return result
