"""Layouts to try: a grid, copies of some channels, and the sum that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.decision import arrange

Array = np.ndarray[Any, Any]


GRID = Quantizer(np.asarray(0.5), np.asarray(0), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 15)


def wide(copies: list[int], low: list[int] | None = None, groups: int = 1, axis: int = 1, grid: Any = GRID) -> Wide:
    up = np.asarray(copies)
    origin, level = arrange(up, np.zeros_like(up) if low is None else np.asarray(low), groups)
    return Wide(axis, origin, level, up.size, grid)


def total(values: Array, layout: Wide) -> Array:
    """narrow[c] = sum of wide[j] with origin[j] = c, in a plain loop."""
    values = np.moveaxis(values, layout.axis, 0)
    out = np.zeros((layout.narrow, *values.shape[1:]), values.dtype)
    for j, c in enumerate(layout.origin):
        out[c] += values[j]
    return np.moveaxis(out, 0, layout.axis)
