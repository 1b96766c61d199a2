"""Conv, ConvTranspose, Gemm and MatMul in numpy, in float64: a second opinion on what a layer computes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.verification.operands import side

__all__ = ["multiply"]

LARGE = 1 << 24  # values of a matrix that become float64 at a time


def multiply(graph: Graph, node: NodeProto, x: Array) -> Array:
    """What a layer with a constant weight writes, float64.

    Args:
        graph: the graph that it is in.
        node: a Conv, ConvTranspose, Gemm or MatMul.
        x: its input; of a MatMul whose first input is the constant, the second.

    Raises:
        ValueError: its weight or bias is no constant, or the shapes do not fit.
    """
    at = side(graph, node)
    w = graph.constant(node.input[at])
    has_bias = len(node.input) > 2 and node.input[2] != ""
    b = graph.constant(node.input[2]) if has_bias else None
    if w is None or (has_bias and b is None):
        raise ValueError("weight or bias is no constant")
    x = x.astype(np.float64)
    bias = None if b is None else b.astype(np.float64)
    if is_op(node, "MatMul"):
        return _product(x, w) if at else np.asarray(w.astype(np.float64) @ x)
    if is_op(node, "Gemm"):
        a = x.T if attribute(node, "transA", 0) else x
        y = attribute(node, "alpha", 1.0) * _product(a, w.T if attribute(node, "transB", 0) else w)
        return np.asarray(y if bias is None else y + attribute(node, "beta", 1.0) * bias)
    w = w.astype(np.float64)
    y = _conv(node, x, w) if is_op(node, "Conv") else _transposed(node, x, w)
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def _product(x: Array, w: Array) -> Array:
    """The product, some columns of a large matrix at a time: its floats would be eight times its integers."""
    if w.ndim != 2 or w.size <= LARGE:
        return np.asarray(x @ w.astype(np.float64))
    step = max(1, LARGE // len(w))
    parts = [x @ w[:, k : k + step].astype(np.float64) for k in range(0, w.shape[1], step)]
    return np.concatenate(parts, axis=-1)


def _geometry(node: NodeProto, rank: int) -> tuple[list[int], list[int], int]:
    strides = list(attribute(node, "strides") or [1] * rank)
    dilations = list(attribute(node, "dilations") or [1] * rank)
    return strides, dilations, int(attribute(node, "group", 1))


def _pads(node: NodeProto, size: tuple[int, ...], reach: list[int], strides: list[int]) -> list[tuple[int, int]]:
    """Padding of a Conv before and behind every axis; `reach` is the size of the dilated kernel."""
    kind, rank = attribute(node, "auto_pad", b"NOTSET"), len(size)
    if kind in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, strides, reach, strict=True)]
        less = [t // 2 for t in total]
        more = [t - h for t, h in zip(total, less, strict=True)]
        ends = (less, more) if kind == b"SAME_UPPER" else (more, less)
        return list(zip(*ends, strict=True))
    pads = list(attribute(node, "pads") or [0] * (2 * rank)) if kind != b"VALID" else [0] * (2 * rank)
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _at(x: Array, where: tuple[Any, ...]) -> Array:
    """Positions along the last axes."""
    return np.asarray(x[(..., *where)])


def _conv(node: NodeProto, x: Array, w: Array) -> Array:
    rank, kernel = w.ndim - 2, w.shape[2:]
    strides, dilations, groups = _geometry(node, rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *_pads(node, x.shape[2:], reach, strides)])
    size = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    x = x.reshape(len(x), groups, -1, *x.shape[2:])
    w = w.reshape(groups, len(w) // groups, *w.shape[1:])
    y = np.zeros((len(x), groups, w.shape[1], *size))
    for at in itertools.product(*(range(k) for k in kernel)):
        where = tuple(
            slice(a * d, a * d + (n - 1) * s + 1, s) for a, d, n, s in zip(at, dilations, size, strides, strict=True)
        )
        filters, part = _at(w, at), _at(x, where)
        if part.shape[2] == 1:  # depthwise
            y += filters.reshape(*filters.shape[:2], *[1] * rank) * part
        else:
            y += (filters @ part.reshape(*part.shape[:3], -1)).reshape(y.shape)
    return y.reshape(len(x), -1, *size)


def _transposed(node: NodeProto, x: Array, w: Array) -> Array:
    rank, kernel = w.ndim - 2, w.shape[2:]
    strides, dilations, groups = _geometry(node, rank)
    extra = list(attribute(node, "output_padding") or [0] * rank)
    full = [s * (n - 1) + d * (k - 1) + 1 for n, s, d, k in zip(x.shape[2:], strides, dilations, kernel, strict=True)]
    out = []
    for part, filters in zip(np.split(x, groups, axis=1), np.split(w, groups), strict=True):
        y = np.zeros((filters.shape[1], x.shape[0], *(f + e for f, e in zip(full, extra, strict=True))))
        for at in itertools.product(*(range(k) for k in kernel)):
            where = tuple(
                slice(a * d, a * d + (n - 1) * s + 1, s)
                for a, d, n, s in zip(at, dilations, x.shape[2:], strides, strict=True)
            )
            y[(slice(None), slice(None), *where)] += np.tensordot(_at(filters, at), part, (0, 1))
        out.append(y)
    y = np.moveaxis(np.concatenate(out), 0, 1)
    cut = _cut(node, y.shape[2:], x.shape[2:], strides)
    return y[(slice(None), slice(None), *cut)]


def _cut(node: NodeProto, full: tuple[int, ...], size: tuple[int, ...], strides: list[int]) -> list[slice]:
    """What a ConvTranspose keeps of its full output."""
    kind, rank, shape = attribute(node, "auto_pad", b"NOTSET"), len(full), attribute(node, "output_shape")
    if shape or kind in (b"SAME_UPPER", b"SAME_LOWER"):
        wanted = list(shape)[-rank:] if shape else [n * s for n, s in zip(size, strides, strict=True)]
        total = [max(f - n, 0) for f, n in zip(full, wanted, strict=True)]
        start = [t // 2 if kind == b"SAME_UPPER" else t - t // 2 for t in total]
        return [slice(a, a + n) for a, n in zip(start, wanted, strict=True)]
    pads = list(attribute(node, "pads") or [0] * (2 * rank)) if kind != b"VALID" else [0] * (2 * rank)
    return [slice(a, n - b) for a, b, n in zip(pads[:rank], pads[rank:], full, strict=True)]
