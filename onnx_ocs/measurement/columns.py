"""Values of a large tensor that are looked at: some positions, evenly spread, all channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.probes.cuts import Cut

__all__ = ["SAMPLED", "columns", "steps"]

SAMPLED = 1 << 13  # values of one tensor and sample that are looked at


def columns(a: Array, axis: int | None, narrow: int, samples: int, first: int = 0) -> Array:
    """Values as float32 (C, n); of large tensors some positions, evenly spread, `SAMPLED` values of every sample.

    The positions are the same in a wide tensor and the narrow one, and whether samples come together or in parts.

    Args:
        a: the tensor, samples first.
        axis: its channel axis; None: it has one channel.
        narrow: number of channels without copies.
        samples: how many are in it.
        first: how many came before these.
    """
    rows = a.reshape(1, -1) if axis is None or not a.ndim else np.moveaxis(a, axis, 0)
    positions = rows[0].size
    stride = positions * narrow // (samples * SAMPLED) | 1  # odd, so that it does not follow rows of pixels
    before = first * (positions // samples)
    index = np.unravel_index(np.arange(-before % stride, positions, stride), rows.shape[1:])
    picked: Any = (slice(None), *index)
    return np.asarray(rows[picked], np.float32)


def steps(cut: Cut, integers: Array, axis: int | None, narrow: int, samples: int, first: int = 0) -> Array:
    """Multiples k of the step that a quantizer's integers stand for, (C, n); copies are added to their channels.

    Args:
        cut: the quantizer.
        integers: what it writes.
        axis: the channel axis; None: it has one channel.
        narrow: number of channels without copies.
        samples: how many are in it.
        first: how many came before these.
    """
    wide, z = cut.wide, cut.quantizer.zero_point.astype(np.float32)
    rows = columns(integers, axis, narrow, samples, first)
    if wide is None:
        return rows - z.reshape(-1, 1)
    rows -= (np.broadcast_to(z, (wide.narrow,))[wide.origin] + wide.rests(cut.quantizer))[:, None]
    total = np.zeros((wide.narrow, rows.shape[1]), np.float32)
    for level in np.unique(wide.level):
        at = wide.level == level
        total[wide.origin[at]] += rows[at]  # no channel twice in one level
    return total
