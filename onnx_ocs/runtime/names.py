"""Short names for onnxruntime, which takes seconds to load a model whose names are thousands of characters long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from operator import attrgetter

import onnx
from onnx import AttributeProto, GraphProto

__all__ = ["LONG", "rename", "shorten"]

LONG = 1000  # characters from which a name is shortened
KEPT = 40  # characters of it that stay, for messages
NAME = attrgetter("name")


def _graphs(model: onnx.ModelProto) -> Iterator[GraphProto]:
    """The main graph and all subgraphs; a local function's names are its own."""
    stack = [model.graph]
    while stack:
        g = stack.pop()
        yield g
        for n in g.node:
            for a in n.attribute:
                if a.type == AttributeProto.GRAPH:
                    stack.append(a.g)
                elif a.type == AttributeProto.GRAPHS:
                    stack += a.graphs


def _names(graph: GraphProto) -> Iterator[str]:
    parts = (graph.input, graph.output, graph.initializer, graph.value_info, graph.node)
    ends = chain.from_iterable((n.input, n.output) for n in graph.node)
    sparse = (t.values.name for t in graph.sparse_initializer)
    return chain(map(NAME, chain.from_iterable(parts)), sparse, chain.from_iterable(ends))


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Give tensors and nodes other names, in place, in subgraphs too.

    Args:
        model: the model.
        names: new names by old ones; all others stay.
    """
    for g in _graphs(model):
        for part in (g.input, g.output, g.initializer, g.value_info, g.node):
            for x in part:
                if x.name in names:
                    x.name = names[x.name]
        for t in g.sparse_initializer:
            t.values.name = names.get(t.values.name, t.values.name)
        for n in g.node:
            for ends in (n.input, n.output):
                if any(t in names for t in ends):
                    ends[:] = [names.get(t, t) for t in ends]


def shorten(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A model without long names.

    Args:
        model: the model; not changed.

    Returns:
        The model itself where no name is long, else a copy; and the short names by the long ones.
    """
    if max(map(len, chain.from_iterable(map(_names, _graphs(model)))), default=0) < LONG:  # almost all models
        return model, {}
    taken = {name for g in _graphs(model) for name in _names(g)}
    long = sorted(name for name in taken if len(name) >= LONG)
    short: dict[str, str] = {}
    for name in long:
        turn = len(short)
        while (new := f"{name[:KEPT]}~{turn}") in taken:
            turn += len(long)
        short[name] = new
        taken.add(new)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rename(copy, short)
    return copy, short
