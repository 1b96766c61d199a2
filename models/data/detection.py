"""From a text detector's map to boxes, and boxes against those that were asked for.

As the package of the detector does it (rapidocr-onnxruntime's configuration, upright boxes only): what lies above a
threshold falls into connected parts; a part whose map is high enough is a line; its box grows, since the network is
trained on shrunk ones (Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TEXT", "f_measure", "lines"]

Array = npt.NDArray[Any]
TEXT = 0.3  # from this value on the map says text
LINE = 0.5  # from this mean of the map on a box is a line
GROWTH = 1.6  # a box of area A and perimeter P grows by GROWTH * A / P on each side
SMALLEST = 3  # pixels
OVERLAP = 0.5  # intersection over union from which on a line is found


def lines(plane: Array) -> Array:
    """The boxes of one map [height, width]: float64 [lines, 4], left, top, right, bottom in pixels."""
    from scipy import ndimage  # of the extra `models`

    parts, _ = ndimage.label(plane > TEXT)
    boxes = []
    for rows, columns in ndimage.find_objects(parts):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) >= SMALLEST and plane[rows, columns].mean() >= LINE:
            grow = GROWTH * width * height / (2 * (width + height))
            boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return np.array(boxes, np.float64).reshape(-1, 4)


def overlaps(one: Array, other: Array) -> Array:
    """Intersection over union of boxes [m, 4] and [n, 4]: [m, n]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (one, other)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared))


def f_measure(maps: Array, labels: Array) -> float:
    """How well lines are found, in per cent: harmonic mean of precision and recall over all pages.

    Args:
        maps: a detector's output [pages, 1, height, width], values 0 to 1.
        labels: the boxes of the pages' lines, int64 [pages, most lines, 4], filled up with -1.
    """
    from scipy.optimize import linear_sum_assignment

    hits = said = there = 0
    for plane, boxes in zip(maps[:, 0], labels, strict=True):
        asked, found = boxes[boxes[:, 0] >= 0], lines(plane)
        near = overlaps(asked, found) >= OVERLAP
        hits += int(near[linear_sum_assignment(near, maximize=True)].sum())
        said, there = said + len(found), there + len(asked)
    return 100 * 2 * hits / max(said + there, 1)
