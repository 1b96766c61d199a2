"""The layers of a graph that may be fitted again, and which of them share a weight.

Several layers may read one weight, or one bias: heads that run on every scale of a pyramid, both halves of a twin.
They get one set of new values, fitted on what all of them see.  That is possible where nobody else reads these
constants, and where all read them alike: the same rows, inputs and scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.reconstruction.linear import LinearMap, read_maps
from onnx_ocs.reconstruction.stored import Stored, exclusive
from onnx_ocs.refusals import Refusal

__all__ = ["find_maps", "sharing"]


def find_maps(graph: Graph) -> list[LinearMap | Refusal]:
    """All layers with a constant quantized weight, in topological order; those that cannot be fitted, and why.

    Layers whose weight is not quantized are left out.
    """
    found = read_maps(graph)
    new = list(found)
    places = [k for k, f in enumerate(found) if isinstance(f, LinearMap)]
    maps = [f for f in found if isinstance(f, LinearMap)]
    for numbers in sharing(maps):
        group = [maps[k] for k in numbers]
        why = _unfit(graph, group)
        for k, m in zip(numbers, group if why else _together(graph, group), strict=True):
            new[places[k]] = Refusal("weight_shared", why, label(m.node)) if why else m
    return new


def sharing(maps: Sequence[LinearMap]) -> list[list[int]]:
    """Numbers of the maps, those together that read one weight, in the order of the first of each."""
    found: dict[str, list[int]] = {}
    for k, m in enumerate(maps):
        found.setdefault(m.weight.root, []).append(k)
    return list(found.values())


def _unfit(graph: Graph, group: Sequence[LinearMap]) -> str:
    """Why the weight of some maps must stay; empty if it may get new values."""
    if not exclusive(graph, [m.weight for m in group]):
        return "somebody else reads the weight, so it must stay what it is"
    first, *others = group
    if others and any(m.tie is not None or m.wide is not None for m in group):
        return "it reads or makes copies, and shares its weight with another layer"
    if not all(_alike(first, m) for m in others):
        return "another layer reads the weight otherwise"
    return ""


def _alike(a: LinearMap, b: LinearMap) -> bool:
    """Whether two maps read one weight in the same way."""
    return (
        a.factor == b.factor
        and np.array_equal(a.index, b.index)
        and np.array_equal(a.columns, b.columns)
        and _same_grid(a.weight, b.weight)
    )


def _same_grid(a: Stored, b: Stored) -> bool:
    seen = [(s.kind, s.grid, s.moves, s.moves_before, s.low, s.high) for s in (a, b)]
    return seen[0] == seen[1] and (
        np.array_equal(a.scale, b.scale)
        and np.array_equal(a.zero, b.zero)
        and {name for _, name in a.scales} == {name for _, name in b.scales}
    )


def _together(graph: Graph, group: Sequence[LinearMap]) -> list[LinearMap]:
    """Maps whose weight, and bias where it is one, knows all nodes that scale it; a bias that others read is fixed."""
    weights = _joined([m.weight for m in group])
    biases = [m.bias for m in group if m.bias is not None]
    one = len(biases) == len(group) > 1 and len({b.root for b in biases}) == 1
    one = one and exclusive(graph, biases) and all(_same_grid(biases[0], b) for b in biases)
    joined: list[Stored | None] = list(_joined(biases)) if one else [m.bias for m in group]
    out = []
    for m, weight, bias in zip(group, weights, joined, strict=True):
        fixed = bias is not None and not one and not exclusive(graph, [bias])
        bias, free = (None, False) if fixed else (bias, m.free)
        out.append(replace(m, weight=weight, bias=bias, free=free))
    return out


def _joined(stored: Sequence[Stored]) -> list[Stored]:
    scales = {(id(node), name): (node, name) for s in stored for node, name in s.scales}
    return [replace(s, scales=tuple(scales.values())) for s in stored]
