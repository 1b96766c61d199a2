"""Fold copies back: for a reader that cannot take them, every channel is added up again."""

from __future__ import annotations

import numpy as np

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.regions.wide import Wide

__all__ = ["along", "fold", "pick"]


def fold(graph: EditableGraph, source: str, target: str, wide: Wide, behind: int) -> None:
    """Write the narrow value of a wide tensor: base plus copies (integers: the base alone, as in the original).

    Few channels have copies, and fewer have many.  So a sum is only as wide as there are channels with a further
    copy, and at the end every channel is taken from where it was complete.

    Args:
        graph: the graph.
        source: the wide tensor.
        target: what the narrow one is to be called.
        wide: the layout.
        behind: number of axes behind that of the channels.
    """
    axis = wide.axis
    base = np.flatnonzero(wide.level == 0)
    extra = np.flatnonzero(wide.level != 0)
    if wide.integer or not extra.size:
        pick(graph, source, base, axis, target)
        return
    rests = wide.rests(wide.grid) if wide.full and wide.grid is not None else np.zeros(0)
    order = extra[np.argsort(wide.origin[extra], kind="stable")]
    owner_of = wide.origin[order]
    starts = np.searchsorted(owner_of, owner_of, side="left")
    turn = np.arange(order.size) - starts  # 0 for a channel's first copy, 1 for its second, ...
    rest = np.flatnonzero(np.bincount(owner_of, minlength=wide.narrow) == 0)
    complete, size, where = [source], wide.origin.size, base.copy()
    if not rest.size:
        complete, size = [], 0
    elif behind and 2 * rest.size < size:  # on the last axis picking some is dearer than copying all
        complete, size = [pick(graph, source, base[rest], axis, graph.fresh(target + "_rest"))], rest.size
        where[rest] = np.arange(size)
    total, width, place = source, wide.origin.size, base  # where a channel's sum so far is
    for t in range(int(turn.max()) + 1):
        copies = turn == t
        channels = owner_of[copies]
        if not np.array_equal(place[channels], np.arange(width)):
            total = pick(graph, total, place[channels], axis, graph.fresh(target + "_base"))
        part = pick(graph, source, order[copies], axis, graph.fresh(target + "_copy"))
        if wide.full and wide.grid is not None:  # exactly 0 while it rests
            at_rest = along((rests[order[copies]] * wide.grid.scale).astype(wide.grid.float_dtype), behind)
            constant = graph.add_initializer(target + "_rest", at_rest)
            part = graph.add_node("Sub", [part, constant], graph.fresh(target + "_moved"))
        ending = channels.size - np.count_nonzero(turn == t + 1)
        everything = ending == wide.narrow
        total = graph.add_node("Add", [total, part], target if everything else graph.fresh(target + "_sum"))
        if everything:
            return
        width, place = channels.size, np.zeros_like(base)
        place[channels] = np.arange(width)
        if ending:
            complete.append(total)
            where[channels] = size + np.arange(width)
            size += width
    together = graph.add_node("Concat", complete, graph.fresh(target + "_sums"), axis=axis)
    pick(graph, together, where, axis, target)


def pick(graph: EditableGraph, source: str, where: Array, axis: int, target: str) -> str:
    """Channels of a tensor by position.

    A Gather even where they are a run: onnxruntime moves Q and DQ across a Slice, and some versions break there.
    """
    index = graph.add_initializer(target + "_channels", where.astype(np.int64))
    return graph.add_node("Gather", [source, index], target, axis=axis)


def along(values: Array, behind: int) -> Array:
    """Per-channel values in a shape that broadcasts in front of so many axes; a scalar where they are all equal."""
    if values.size and np.all(values == values[0]):
        return np.asarray(values[0])
    return values.reshape(-1, *[1] * behind)
