"""Zero-points that pay: grids that sit wrong for their values, or hold values that the next function makes nothing of.

A grid sits wrong where no step at its zero-point comes near the best step and zero-point together: all values on one
side of a symmetric grid, a zero-point at qmax under positive values.  In front of SiLU, GELU, HardSwish or ReLU large
negative values do not matter, so a range that holds them wastes its levels.  Error is counted behind that function:

    minimise over (scale, zero_point)   sum (f(Q(x)) - f(x))^2        x: values of the reference on samples
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import product

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.function import Function, function_behind
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regridding.edits import check_grid
from onnx_ocs.regridding.grids import Extremes, Grid, current, grid_over

__all__ = ["better_grids", "error", "movable", "sits_wrong"]

WASTED = 1.15  # by what the best step at a zero-point is coarser than the best step, in a grid that sits wrong
WORTH = 1.2  # by what a new grid's squared error must be smaller than that of any step at the old zero-point
LOW = (1.0, 0.8, 0.6, 0.45, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.0)  # shares of the smallest value
HIGH = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # and of the largest


def sits_wrong(q: Quantizer, seen: Extremes) -> bool:
    """Whether all steps at a quantizer's zero-point are much coarser than the best step for these values."""
    low, high = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)
    above, below = float((q.qmax - q.zero_point).max()), float((q.zero_point - q.qmin).max())
    best = (high - low) / (q.qmax - q.qmin)
    steps = [v / room if room else np.inf for v, room in ((high, above), (-low, below)) if v > 0]
    return best > 0 and max(steps) >= WASTED * best


def error(q: Quantizer, grid: Grid, values: Array, f: Function | None) -> float:
    """The squared error of values on a grid, behind a function."""
    integers = np.clip(np.rint(values / grid.scale) + grid.zero_point, q.qmin, q.qmax)
    back = (integers - grid.zero_point) * grid.scale
    return float(np.square(back - values if f is None else f(back) - f(values)).sum())


def better_grids(
    graph: Graph, regions: Sequence[Quantized], seen: Mapping[str, Extremes], values: Mapping[str, Array],
    masked: Container[str] = (),
) -> dict[int, Grid]:  # fmt: skip
    """Grids with another zero-point that are worth it, by index of the region.

    Args:
        graph: the graph.
        regions: its quantized activations.
        seen: extremes of their tensors; what is missing is left out.
        values: some values of them.
        masked: those that a Softmax alone reads, which may get another step, too: their values are as it counts them.
    """
    found = {}
    for k, r in enumerate(regions):
        if not isinstance(r, Region) or r.tensor not in values or r.tensor not in seen:
            continue
        any_step, ends = r.tensor in masked, seen[r.tensor]
        if not any_step and not movable(r):
            continue
        function = None if any_step else function_behind(graph, r)
        may_pay = any_step or sits_wrong(r.quantizer, ends) or (function is not None and ends.low.min() < 0)
        grid = _best(r.quantizer, values[r.tensor], function, any_step) if may_pay else None
        if grid is not None and check_grid(graph, r, grid) is None:
            found[k] = grid
    return found


def movable(region: Region) -> bool:
    """Whether a quantizer has one step, and is not symmetric by its type, which runtimes ask for."""
    q = region.quantizer
    return q.scale.size == 1 and not q.symmetric


def _best(q: Quantizer, values: Array, f: Function | None, any_step: bool = False) -> Grid | None:
    """The best grid, if it is much better than the old one, and than any other step at the old zero-point.

    With `any_step` it may be one of these.
    """
    values = values[np.isfinite(values)]  # a division by zero in front
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    ends = [(a * low, b * high) for a, b in product(LOW, HIGH)]
    zero = current(q).zero_point
    grids = {g for e in ends if e[1] > e[0] and (g := grid_over(q, e)).scale > 0}
    if not grids:
        return None
    at_zero = {current(q)} if any_step else {current(q), *(Grid(g.scale * c, zero) for g in grids for c in (1.0, 2.0))}
    best, kept = (
        min(((error(q, g, values, f), g.scale, g) for g in some), key=lambda e: e[:2]) for some in (grids, at_zero)
    )
    other = any_step or best[2].zero_point != zero
    return best[2] if other and best[0] * WORTH < kept[0] else None
