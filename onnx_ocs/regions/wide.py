"""The layout of a widened tensor: which channel and which copy stands at each position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.nodes import Array, attribute
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.quantizer import Quantizer

__all__ = ["Wide", "concat_sizes", "join"]


@dataclass(frozen=True, eq=False)
class Wide:
    """The channel layout of a widened tensor.

    Attributes:
        axis: channel axis (negative, counted from the end, where the rank is unknown).
        origin: narrow channel of every wide channel, int64.
        level: 0 for a channel's base, +i for its i-th copy on the upper side, -i on the lower side, int64.
        narrow: number of narrow channels.
        grid: the quantizer on whose grid every wide channel lies; None once that is lost.
        integer: whether the tensor holds the integers between a Q and its DQ.
        halved: whether a channel that has a copy shares its value with it, half and half, instead of leaving it what
            lies above X_clip.
        factor: what the tensor's quantizer's values have been multiplied by on the way.
        full: whether every copy holds a range of its own, qmin to qmax, and stands at an end of it, not at 0, while
            its channel needs it not (copies made early in front of a quantizer that does not rectify).
    """

    axis: int
    origin: Array
    level: Array
    narrow: int
    grid: Quantizer | None
    integer: bool = False
    halved: bool = False
    factor: float = 1.0
    full: bool = False

    def spread(self, inner: int) -> tuple[Array, Array]:
        """Origin and level when every channel becomes `inner` consecutive ones."""
        origin = (self.origin[:, None] * inner + np.arange(inner)).reshape(-1)
        return origin, np.repeat(self.level, inner)

    def units(self) -> Array:
        """By what every narrow channel is divided before it is quantized, int64 (narrow,): a halved one by 2."""
        return 1 + self.copies()[0] * int(self.halved)

    def copies(self) -> tuple[Array, Array]:
        """Copies on the upper and on the lower side of every narrow channel, int64, shape (narrow,)."""
        up = np.bincount(self.origin[self.level > 0], minlength=self.narrow)
        low = np.bincount(self.origin[self.level < 0], minlength=self.narrow)
        return up, low

    def rests(self, q: Quantizer) -> Array:
        """Steps at which each wide channel stands while its base can express the value, int64 (W,)."""
        z = np.broadcast_to(q.zero_point, (self.narrow,))[self.origin]
        ends = np.where(self.level > 0, q.qmin - z, np.where(self.level < 0, q.qmax - z, 0))
        return np.asarray(ends * int(self.full), np.int64)

    def reach(self, q: Quantizer) -> tuple[Array, Array]:
        """Smallest and largest number of steps that every narrow channel expresses, int64 (narrow,)."""
        up, low = self.copies()
        bottom, top = q.qmin - q.zero_point, q.qmax - q.zero_point
        if self.halved:  # of steps that are larger
            return np.broadcast_to(bottom, up.shape), np.broadcast_to(top, up.shape)
        if self.full:
            return bottom - low * (q.qmax - q.qmin), top + up * (q.qmax - q.qmin)
        return (low + 1) * bottom, (up + 1) * top

    def grouped(self, groups: int) -> bool:
        """Whether the wide channels lie in `groups` equal blocks, each holding one block of the narrow channels."""
        if self.origin.size % groups or self.narrow % groups:
            return False
        block = self.origin.reshape(groups, -1) // (self.narrow // groups)
        return bool(np.all(block == np.arange(groups)[:, None]))


def concat_sizes(node: NodeProto, shapes: Mapping[str, Shape]) -> list[int] | None:
    """Narrow sizes of a Concat's inputs along its axis; None if one is unknown."""
    sizes = []
    for t in node.input:
        shape = shapes.get(t)
        if shape is None:
            return None
        size = shape[int(attribute(node, "axis", 0)) % len(shape)]
        if not isinstance(size, int):
            return None
        sizes.append(size)
    return sizes


def join(parts: list[Wide | None], axis: int, sizes: list[int]) -> Wide:
    """Layout of a Concat of wide and narrow tensors.

    Args:
        parts: layout of every input; None for a narrow one.
        axis: the axis along which they are joined.
        sizes: narrow sizes of the inputs along the axis.
    """
    origin, level, offset = [], [], 0
    grid = next(p.grid for p in parts if p is not None)
    for part, size in zip(parts, sizes, strict=True):
        origin.append((np.arange(size) if part is None else part.origin) + offset)
        level.append(np.zeros(size, np.int64) if part is None else part.level)
        offset += size
        if part is not None and (part.grid is None or not part.grid.same_grid(grid)):
            grid = None
    halved = any(p.halved for p in parts if p is not None)
    return Wide(axis, np.concatenate(origin), np.concatenate(level), offset, grid, halved=halved)
