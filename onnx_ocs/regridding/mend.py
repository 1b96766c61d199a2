"""Mend what quantizers kill: which edit for which quantizer, tried on a copy of the model.

There are two ways.  Where as much as possible stays quantized, a pair behind a Concat is split, any other quantizer
gets a grid on which nothing is dead, and what neither helps is left out.  Where as little as possible stays quantized,
everything is left out that can be, and the rest gets a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass
from onnx_ocs.qdq.intervals import Interval, value_bounds
from onnx_ocs.records.grids import Edit, record_edits
from onnx_ocs.records.history import stamp
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Key, Quantized, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regridding.edits import check_grid, check_left_out, leave_out, regrid, split
from onnx_ocs.regridding.grids import Extremes, Grid, living_grid

__all__ = ["QUANTIZED", "WAYS", "Mended", "Way", "mend", "parts_of", "renewed"]

Way = Literal["split", "new grid", "left out"]
WAYS: tuple[tuple[Way, ...], ...] = (("split", "new grid", "left out"), ("left out", "new grid"))
QUANTIZED: tuple[tuple[Way, ...], ...] = (("split", "new grid"),)  # where nothing may be left out
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice")


@dataclass(eq=False)
class Mended:
    """A model in which quantizers were mended.

    Attributes:
        model: the model.
        done: what became of each quantizer, by its region's key: the way, or why nothing.
        grids: those that got a new grid.
        bounded: which tensors the float model bounds at 6.
    """

    model: onnx.ModelProto
    done: dict[Key, Way | Refusal] = field(default_factory=dict)
    grids: dict[Key, Grid] = field(default_factory=dict)
    bounded: Bounded = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return any(not isinstance(d, Refusal) for d in self.done.values())


def parts_of(graph: Graph, tensor: str) -> dict[int, str]:
    """The inputs of the Concat that writes a tensor which no quantizer has on a grid yet; none where none writes it."""
    n = graph.producer.get(tensor)
    if n is None or not is_op(n, "Concat"):
        return {}
    return {
        k: str(t)
        for k, t in enumerate(n.input)
        if not graph.is_constant(t) and not is_op(graph.producer.get(t), "DequantizeLinear")
    }


def mend(
    model: onnx.ModelProto, wanted: Sequence[Key], ways: Sequence[Way], seen: Mapping[str, Extremes], by: Pass,
    bounded: Bounded,
) -> Mended:
    """Mend quantizers on a copy of the model.

    Args:
        model: the model; not changed.
        wanted: the regions' keys.
        ways: what is tried for each, in this order.
        seen: extremes of the regions' tensors, and of the parts of Concats in front of them.
        by: the pass; its name and version are written on all that is edited.
        bounded: which tensors the float model bounds at 6.

    Returns:
        The copy, and what was done.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    made = Mended(new, bounded=bounded)
    edits = _remove(made, wanted, ways, seen, by)
    edits += _renew(made, by)
    if edits:
        record_edits(new, edits)
    return made


def renewed(model: onnx.ModelProto, grids: Mapping[Key, Grid], by: Pass, bounded: Bounded) -> Mended:
    """Give quantizers other grids, on a copy of the model.

    Args:
        model: the model; not changed.
        grids: by the regions' keys.
        by: the pass; its name and version are written on all that is edited.
        bounded: which tensors the float model bounds at 6.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    made = Mended(new, dict.fromkeys(grids, "new grid"), dict(grids), bounded)
    edits = _renew(made, by)
    if edits:
        record_edits(new, edits)
    return made


def _remove(
    made: Mended, wanted: Sequence[Key], ways: Sequence[Way], seen: Mapping[str, Extremes], by: Pass
) -> list[Edit]:
    """Split and leave out; what is to get a new grid is noted."""
    graph = EditableGraph(made.model)
    regions = {r.key: r for r in find_regions(graph, infer_shapes(made.model), bounded=made.bounded)}
    bounds = value_bounds(graph, [t for r in regions.values() for t in (r.tensor, *parts_of(graph, r.tensor).values())])
    chosen: dict[Key, tuple[Way, dict[int, Grid]]] = {}
    for key in wanted:
        found = [_try(graph, regions[key], way, seen, bounds, wanted) for way in ways]
        good = next((k for k, f in enumerate(found) if not isinstance(f, Refusal)), None)
        if good is None:
            why = found[-1]
            assert isinstance(why, Refusal)
            made.done[key] = why
        else:
            grids = found[good]
            assert not isinstance(grids, Refusal)
            chosen[key] = ways[good], grids
    edits: list[Edit] = []
    for key, (way, grids) in chosen.items():
        made.done[key] = way
        if way == "new grid":
            made.grids[key] = grids[0]
            continue
        if grids:
            edits.append(split(graph, regions[key], grids))
        edits += leave_out(graph, regions[key])
    graph.commit(lambda node: stamp(node, by.name, by.version))
    return edits


def _try(
    graph: Graph,
    region: Quantized,
    way: Way,
    seen: Mapping[str, Extremes],
    bounds: Mapping[str, Interval],
    wanted: Sequence[Key],
) -> dict[int, Grid] | Refusal:
    """The grids that a way needs, or why it cannot be gone."""
    q, at = region.quantizer, label(region.nodes[0])
    assert q is not None
    if way == "new grid":
        one = q.scale.size == 1 and region.tensor in seen and isinstance(region, Region)
        grid = living_grid(q, region.bounds, seen[region.tensor]) if one else None
        return Refusal.of("mixed", at) if grid is None else {0: grid}
    why = check_left_out(graph, region)
    if why is not None or way == "left out":
        return {} if why is None else why
    if _follows(graph, region, wanted):
        return {}
    if not is_op(graph.producer.get(region.tensor), "Concat") or q.scale.size != 1:
        return Refusal.of("mixed", at)
    parts = parts_of(graph, region.tensor)
    grids = {k: living_grid(q, bounds[t], seen[t]) for k, t in parts.items() if t in seen}
    if len(grids) < len(parts):
        return Refusal.of("mixed", at)
    alive = {k: g for k, g in grids.items() if g is not None}
    return alive if len(alive) == len(grids) else Refusal.of("mixed", at)


def _follows(graph: Graph, region: Quantized, wanted: Sequence[Key]) -> bool:
    """Whether a quantizer only repeats one in front of it that gives way: nothing but moves stand between them."""
    n = graph.producer.get(region.tensor)
    while n is not None and is_op(n, *MOVES):
        n = graph.producer.get(n.input[0])
    if n is None or not is_op(n, "DequantizeLinear"):
        return False
    return any(n.input[0] in outputs for _, outputs in wanted)


def _renew(made: Mended, by: Pass) -> list[Edit]:
    """Give quantizers their new grids, on the graph as it is now."""
    if not made.grids:
        return []
    graph = EditableGraph(made.model)
    found = find_regions(graph, infer_shapes(made.model), bounded=made.bounded)
    regions = {r.outputs: r for r in found}  # their tensors may be others now
    edits: list[Edit] = []
    taken: set[int] = set()  # quantizers that have followed another one
    for key, grid in [*made.grids.items()]:
        region = regions.get(key[1])
        why = Refusal.of("mixed", key[0]) if region is None else check_grid(graph, region, grid)
        if region is not None and not taken.isdisjoint(map(id, region.nodes)):
            why = Refusal.of("joined", key[0])
        if why is None and isinstance(region, Region):
            edits += regrid(graph, region, grid)
            taken.update(map(id, (*region.nodes, *region.walk.carried)))
        else:
            assert why is not None
            made.done[key] = why
            del made.grids[key]
    graph.commit(lambda node: stamp(node, by.name, by.version))
    return edits
