"""Which copies can be folded back for all their readers, and what that costs.

They cost no multiply-accumulates, but time.  It is estimated from the values that float nodes read and write, in
multiply-accumulates that an integer layer computes meanwhile: plans must not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import Shape
from onnx_ocs.planning.candidates import Candidate
from onnx_ocs.planning.distortion import Readers
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.regions.region import Quantized
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.kernels import behind_kernels, losing
from onnx_ocs.translation.reach import beyond

__all__ = ["find_foldable"]

# measured by `python tests/benchmarks/folding.py`
PASS = 128  # multiply-accumulates in the time of one float value that passes a node: 85 to 240
MADE = 4  # nodes of such a kind that a copy's value passes: picked, shifted, rectified, added
JOINED = 4  # and every other value: joined behind the outliers, quantized, dequantized, put back in its place


def find_foldable(
    graph: Graph,
    regions: Sequence[Quantized],
    candidates: Sequence[Candidate],
    shapes: Mapping[str, Shape],
    statistics: Statistics,
    options: PlanOptions,
) -> tuple[Candidate, ...]:
    """Those of a problem's candidates that may get copies which are folded back for all readers.

    A budget of 0 buys steps alone, a ratio is a number of copies that layers read, and a target has a search of its
    own: with these there are none.

    Args:
        graph: the graph, not edited.
        regions: its regions.
        candidates: all that may change.
        shapes: for one sample; what is not known there has no price.
        statistics: histograms; without one a channel, nobody knows which channels to copy.
        options: mode, limits, target.
    """
    if options.mode == "early" or options.budget == 0 or options.ratio is not None or options.target is not None:
        return ()
    rules, found = rules_of(options.runtime), list[Candidate]()
    for c in (c for c in candidates if c.region.fold_only):
        price = _price(shapes.get(c.region.tensor), c.region.walk.channels)
        apart = len(statistics.halves[0][c.index].counts) == c.region.walk.channels
        if price is not None and apart and beyond(c.region, "late", rules) is None:
            readers = Readers.equal(c.region.walk.channels)
            found.append(replace(c, readers=readers, mode="late", folds=True, start=price[0], macs=price[1]))
    return tuple(found) if options.mode != "integer" else tuple(_sparing(graph, regions, found))


def _price(shape: Shape | None, channels: int) -> tuple[float, float] | None:
    """What the first copy costs besides, and what every copy costs; None where the shape is not known."""
    if shape is None or not all(isinstance(d, int) and d > 0 for d in shape):
        return None
    values = math.prod(int(d or 0) for d in shape)
    return float(JOINED * PASS * values), MADE * PASS * values / channels


def _sparing(graph: Graph, regions: Sequence[Quantized], found: Sequence[Candidate]) -> list[Candidate]:
    """Those that cost no operator its integer form in onnxruntime."""
    held = behind_kernels(graph, regions) if found else set()
    tried = {c.index: c for c in found if c.region.tensor not in held}
    one = {k: np.ones(c.region.walk.channels, np.int64) for k, c in tried.items()}
    decisions = {k: Decision(c.region, "late", one[k], 0 * one[k]) for k, c in tried.items()}
    lost = {id(d) for d in losing(graph.model, list(decisions.values()))}
    return [c for k, c in tried.items() if id(decisions[k]) not in lost]
