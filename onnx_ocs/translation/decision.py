"""What is to be done with one region: copies, mode, layout; and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.regions.region import Region
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.options import Mode

__all__ = ["Decision", "Mode", "Widened", "arrange"]


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do with one region.

    Attributes:
        region: the region.
        mode: "early" or "late".
        copies: copies on the upper side of every channel, int64, shape (C,).
        copies_low: copies on the lower side of every channel, int64, shape (C,).
        halved: whether a channel and its one copy hold half of the value each.
    """

    region: Region
    mode: Literal["early", "late"]
    copies: Array
    copies_low: Array
    halved: bool = False

    @cached_property
    def wide(self) -> Wide:
        """The channel layout behind the QuantizeLinear."""
        walk = self.region.walk
        origin, level = arrange(self.copies, self.copies_low, walk.groups)
        full = self.mode == "early" and self.region.full and not self.halved
        return Wide(walk.axis, origin, level, walk.channels, self.region.quantizer, True, self.halved, full=full)


@dataclass
class Widened:
    """What became of a decision.

    Attributes:
        decision: the decision.
        consumers: labels of the nodes that read the wide value, as they were in the original model.
        quantized: what the region's Q nodes, and those that carry the copies on, write: name in the original model ->
            (name in the rewritten model, layout there).
        carried: tensors that Q nodes on the same grid quantize further on.
    """

    decision: Decision
    consumers: list[str] = field(default_factory=list)
    quantized: dict[str, tuple[str, Wide]] = field(default_factory=dict)
    carried: list[str] = field(default_factory=list)


def arrange(copies: Array, copies_low: Array, groups: int = 1) -> tuple[Array, Array]:
    """Order of the wide channels: all bases, then level by level; block by block for a grouped reader.

    Args:
        copies: upper copies of every channel, shape (C,).
        copies_low: lower copies of every channel, shape (C,).
        groups: number of equal blocks of narrow channels that must stay together.

    Returns:
        Origin and level of every wide channel.
    """
    channels = np.arange(copies.size)
    origin, level = [channels], [np.zeros(copies.size, np.int64)]
    for counts, sign in ((copies, 1), (copies_low, -1)):
        for i in range(1, int(counts.max(initial=0)) + 1):
            chosen = channels[counts >= i]
            origin.append(chosen)
            level.append(np.full(chosen.size, sign * i))
    o, lv = np.concatenate(origin), np.concatenate(level)
    if groups > 1:
        order = np.argsort(o // (copies.size // groups), kind="stable")
        o, lv = o[order], lv[order]
    return o, lv
