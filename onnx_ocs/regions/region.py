"""Regions: one quantized activation, what stands before it, and everything that reads it.

A quantized activation is found by structure and value alone.  Where its grid and its readers are known it is a
`Region`, translatable early and/or late, or refused with a reason; else it is `Unreadable`.
*Early* (the paper): the producer's rows are repeated and i * X_clip is subtracted from the copies' bias; then the
activation and the one existing Q/DQ do the rest.  It is exact only where

    Q(f(y - i * X_clip)) == Q(relu(f(y) - i * X_clip))      for every y:

f is ReLU (explicit with any zero-point; implicit, no node at all, with zero_point == qmin), or f(t) = t for t >= 0 and
f(t) <= 0 below with zero_point == qmin.  A bound (ReLU6) belongs to f: (n + 1) * X_clip must not exceed it.
*Late* is exact for every f: the copies are made in float behind the activation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.nodes import Array
from onnx_ocs.qdq.activation import Activation
from onnx_ocs.qdq.intervals import Interval
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.relu6 import RELU6

__all__ = [
    "COARSEST", "FOLD_ONLY", "HALF_COPIES", "RELU6", "STEP_ONLY", "Early", "Key", "Quantized", "Region", "Unreadable",
    "Walk", "adjustable",
]  # fmt: skip

Key = tuple[str, tuple[str, ...]]  # a tensor, and what its quantizers write (it may have several grids)

FOLD_ONLY = "fold_only"  # refused, but copies can be made and folded back
STEP_ONLY = ("never_clipped", "folded_bound", "no_weight_consumer", FOLD_ONLY)  # refused, but another step may help
HALF_COPIES = 2  # most copies where the float type is not float32
MANY = 1 << 20  # more copies than anybody makes
BARELY_ALIVE = 1e-4  # of the range, for rounding
COARSEST = 0.15  # steps by which a float type may miss X_clip (float16 holds that of an 8-bit quantizer to 0.06)


@dataclass(frozen=True)
class Walk:
    """What reads a widened tensor, found with a probe of two copies a channel.

    Attributes:
        axis: channel axis.
        channels: number of channels.
        weights: layers that read it with a repeated weight, and depthwise ones, which read the copies folded back.
        depthwise: whether one of them is depthwise.
        groups: number of equal groups that the copies must respect (1: none).
        folded: readers for which the copies are folded back, with the reason.
        carried: Q nodes on the same grid that carry the copies on.
        columns: for each of `weights`, which of its input channels the region's channels are, int64 (C * inner,).
        factors: for each of `weights`, what the region's values have been multiplied by on the way.
        dequantizers: DQ nodes that read the integers (of the region's Q nodes and the carried ones).
        integers_leave: whether somebody else reads the integers, so that their step must stay what it is.
        joined: whether a carried Q quantizes other values too (behind a Concat), so that its step must stay.
        unranked: whether the copies would be folded back in a tensor whose rank is not known.
    """

    axis: int
    channels: int
    weights: tuple[NodeProto, ...]
    depthwise: bool
    groups: int
    folded: tuple[tuple[NodeProto, str], ...]
    carried: tuple[NodeProto, ...]
    columns: tuple[Array, ...]
    factors: tuple[float, ...]
    dequantizers: tuple[NodeProto, ...]
    integers_leave: bool
    joined: bool
    unranked: bool


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One quantized activation.

    Attributes:
        tensor: float input of the QuantizeLinear.
        nodes: the QuantizeLinear nodes on this tensor with the same grid.
        outputs: what `nodes` write in the original model.
        activation: what stands in front.
        quantizer: their grid; None when it cannot be read.
        refusal: why it gets no copies; None if it can be translated.
        bounds: interval that the float values cannot leave.
        firm: interval that they cannot leave whatever other quantizers can express.
        folded: whether its saturation stands for a ReLU6, or for the Clip(x + 3, 0, 6) of a HardSwish.
        guessed: whether that was guessed from the largest range of all such quantizers.
    """

    tensor: str
    nodes: tuple[NodeProto, ...]
    outputs: tuple[str, ...]
    activation: Activation
    quantizer: Quantizer | None
    refusal: Refusal | None
    bounds: Interval = (-np.inf, np.inf)
    firm: Interval = (-np.inf, np.inf)
    folded: bool = False
    guessed: bool = False

    @property
    def key(self) -> Key:
        """What names it in every graph that was made from the same model."""
        return self.tensor, self.outputs

    @property
    def ceiling(self) -> float:
        """The bound of a Clip that was folded into the quantizer: the float model has no larger values."""
        return RELU6 if self.folded else np.inf


@dataclass(frozen=True, kw_only=True)
class Unreadable(_Found):
    """A quantized activation that nothing can be done about, and why."""

    refusal: Refusal


@dataclass(frozen=True, kw_only=True)
class Region(_Found):
    """A quantized activation whose grid and readers are known.

    Attributes:
        walk: what reads it.
        early: how to repeat the producer's rows, or why that is not exact.
    """

    quantizer: Quantizer
    walk: Walk
    early: Early | Refusal

    @property
    def fold_only(self) -> bool:
        """Whether its copies would be read by nobody, but folded back for all."""
        return self.refusal is not None and self.refusal.code == FOLD_ONLY

    @property
    def adjustable(self) -> bool:
        """Whether anything about it can be changed: copies for layers that repeat a weight, or its step alone."""
        return bool(self.walk.weights) or (self.quantizer.scale.size == 1 and bool(self.walk.dequantizers))

    @property
    def full(self) -> bool:
        """Whether early copies are shifted by the whole range (`onnx_ocs.regions.full`)."""
        return isinstance(self.early, Early) and self.early.full

    def alive(self, scale: Array | None = None, full: bool = False) -> tuple[Array, Array]:
        """How many copies on the upper and on the lower side can hold anything, int64, shape () or (C,).

        Copy i holds what lies beyond i * X_clip, and behind a bound there may be nothing.

        Args:
            scale: the step; default: the quantizer's.
            full: whether each copy holds a whole range.
        """
        q = self.quantizer
        step = q.scale if scale is None else scale
        found = []
        for end, steps in ((self.firm[1], q.qmax - q.zero_point), (-self.firm[0], q.zero_point - q.qmin)):
            base = steps * step
            if not math.isfinite(end):  # nothing is known of it
                found.append(np.full(base.shape, MANY, np.int64))
                continue
            reach = (q.qmax - q.qmin) * step if full else base
            with np.errstate(divide="ignore", invalid="ignore"):  # half a step beyond is rounded to nothing
                most = np.ceil((end - step / 2 - base) / reach - BARELY_ALIVE)
            most = np.where(reach > 0, np.clip(most, 0, MANY), MANY)
            found.append(np.asarray(most).astype(np.int64))
        return found[0], found[1]


Quantized = Region | Unreadable  # what a quantized activation is


def adjustable(quantized: Iterable[Quantized]) -> dict[int, Region]:
    """Those about which anything can be changed, by index."""
    return {k: r for k, r in enumerate(quantized) if isinstance(r, Region) and r.adjustable}
