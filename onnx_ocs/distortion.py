"""What a quantizer's error costs its readers, as a function of step and copies, from histograms.

A reader with weight W answers an input error e with E||W e||^2.  With errors of different channels uncorrelated but for
their means m (clipping errors have one sign and add up coherently):

    J = sum_c g_c * (E[e_c^2] - m_c^2) + m' G m,        g_c = sum of W[:, c]^2,   G = S' S,  S = W summed over its taps

g and G add up over all readers of the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_ocs.graph import Array, Graph, attribute
from onnx_ocs.region import Region
from onnx_ocs.stats import BINS, Histogram
from onnx_ocs.weights import read_weight

__all__ = ["Readers", "Table", "readers", "tabulate"]

POINTS = 8  # sub-positions inside a bin


@dataclass(frozen=True, eq=False)
class Readers:
    """How the readers weigh a tensor's error.

    Attributes:
        gain: g, float64 (C,).
        coherent: G, float64 (C, C); None when only its diagonal matters (`gain_mean`).
        gain_mean: diagonal of G, float64 (C,).
    """

    gain: Array
    coherent: Array | None
    gain_mean: Array


def readers(graph: Graph, region: Region) -> Readers:
    """Weights of all layers that read a region, folded into channel gains."""
    walk = region.walk
    assert walk is not None
    c = walk.channels
    gain, diagonal, coherent = np.zeros(c), np.zeros(c), np.zeros((c, c))
    dense = False
    for node, columns in zip(walk.weights, walk.columns, strict=True):
        w = graph.constant(node.input[1])
        weight = read_weight(graph, node, 1)
        if w is None or weight is None or columns.size % c:
            continue
        inner = columns.size // c
        w = np.transpose(w.astype(np.float64), range(w.ndim))
        groups = int(attribute(node, "group", 1)) if node.op_type in ("Conv", "ConvTranspose") else 1
        if node.op_type == "Conv" and groups > 1:
            rows = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
            per = (rows**2).sum((1, 3)).reshape(-1), (rows.sum(3) ** 2).sum(1).reshape(-1)
            gain += per[0][columns].reshape(c, inner).sum(1)
            diagonal += per[1][columns].reshape(c, inner).sum(1)
            continue
        if node.op_type == "Conv":
            flat = np.moveaxis(w, 1, 0).reshape(w.shape[1], w.shape[0], -1)
        elif node.op_type == "ConvTranspose" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
            flat = w.reshape(w.shape[0], w.shape[1], -1)
        elif node.op_type == "Gemm":
            flat = w.T.reshape(w.shape[1], w.shape[0], 1)
        else:
            flat = np.moveaxis(w, -2, 0).reshape(w.shape[-2], -1, 1)
        flat = flat[columns]
        gain += (flat**2).sum((1, 2)).reshape(c, inner).sum(1)
        summed = flat.sum(2).reshape(c, inner, -1).sum(1)
        coherent += summed @ summed.T
        dense = True
    if walk.folded:  # who reads the value itself sees every channel alike
        gain += gain.mean() if gain.any() else 1.0
        diagonal += gain.mean() if gain.any() else 1.0
    return Readers(gain, coherent if dense else None, np.diag(coherent) + diagonal)


@dataclass(frozen=True, eq=False)
class Table:
    """Errors of one tensor per element, for one step: for each channel and number of copies on each side.

    Attributes:
        square: sum of squared errors over the number of values, float64 (C, 2, N + 1); side 0 is the upper one.
        mean: the same of signed errors.
    """

    square: Array
    mean: Array


def tabulate(h: Histogram, scale: float, low: int, high: int, copies: int) -> Table:
    """Errors of quantizing with one step, for 0..copies copies on each side.

    Args:
        h: the tensor's histogram.
        scale: the step.
        low: steps that the quantizer can express below zero (zero_point - qmin).
        high: steps above zero (qmax - zero_point).
        copies: N.
    """
    edges = h.edges
    width = edges[1] - edges[0]
    v = edges[:, None] + width * (np.arange(POINTS) + 0.5) / POINTS
    steps = np.rint(v / scale)
    square, mean = np.zeros((BINS, 2, copies + 1)), np.zeros((BINS, 2, copies + 1))
    for side, room in enumerate((high, low)):
        mine = edges >= 0 if side == 0 else edges < 0
        most = (np.arange(copies + 1) + 1) * room
        x, k = (np.abs(t[mine])[:, None, :] for t in (v, steps))
        error = x - np.minimum(k, most[:, None]) * scale  # (bins, copies, points)
        square[mine, side] = np.einsum("bnp,bnp->bn", error, error) / POINTS
        mean[mine, side] = error.mean(2) * (1 if side == 0 else -1)
    counts = h.counts.astype(np.float64)
    total = np.maximum(h.total, 1)[:, None]
    shape = (len(counts), 2, copies + 1)
    return Table(
        (counts @ square.reshape(BINS, -1) / total).reshape(shape),
        (counts @ mean.reshape(BINS, -1) / total).reshape(shape),
    )
