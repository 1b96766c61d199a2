"""Order and subgraphs: nodes in topological order, names that subgraphs take from outside."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import NodeProto

from onnx_ocs.errors import UserError
from onnx_ocs.model.nodes import label

__all__ = ["inner_names", "mentioned", "mentions_of", "topological"]

GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _subgraphs(node: NodeProto) -> Sequence[onnx.GraphProto]:
    """The node's subgraphs and all that are nested in them."""
    for a in node.attribute:
        if a.type in GRAPHS:
            break
    else:
        return ()
    stack = [a for a in node.attribute if a.type in GRAPHS]
    found: list[onnx.GraphProto] = []
    while stack:
        a = stack.pop()
        for g in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
            found.append(g)
            stack += [b for n in g.node for b in n.attribute if b.type in GRAPHS]
    return found


def _outer_names(node: NodeProto) -> Sequence[str]:
    """Names that the node's subgraphs mention (a superset of the outer tensors that they read)."""
    graphs = _subgraphs(node)
    if not graphs:
        return ()
    found: list[str] = []
    for g in graphs:
        found += (o.name for o in g.output)
        for n in g.node:
            found += n.input
    return found


def mentioned(node: NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, by itself or in its subgraphs (a superset)."""
    yield from (t for t in node.input if t)
    yield from _outer_names(node)


def inner_names(node: NodeProto) -> Iterator[str]:
    """All tensor names inside the node's subgraphs: a fresh name must not be one of them."""
    yield from _outer_names(node)
    for g in _subgraphs(node):
        yield from (v.name for v in (*g.input, *g.initializer))
        for n in g.node:
            yield from n.output


def mentions_of(nodes: Iterable[NodeProto]) -> dict[int, Sequence[str]]:
    """What the nodes that hold subgraphs mention in these (`_outer_names`), by id of the node."""
    return {id(n): _outer_names(n) for n in nodes if _subgraphs(n)}


def topological(nodes: Sequence[NodeProto], mentions: Mapping[int, Sequence[str]] | None = None) -> list[NodeProto]:
    """The nodes in an order in which producers come first; nodes already in order keep their places.

    Args:
        nodes: the nodes.
        mentions: what their subgraphs mention, where that is known (`mentions_of`).

    Raises:
        UserError: the graph has a cycle, or a tensor has two producers.
    """
    nodes = list(nodes)
    mentions = mentions_of(nodes) if mentions is None else mentions
    producer: dict[str, int] = {}
    reads: list[list[str]] = []
    wanted: set[str] = set()  # what has been read so far
    ordered = True
    for k, n in enumerate(nodes):
        names = list(n.input)
        if mentions:
            names += mentions.get(id(n), ())
        reads.append(names)
        wanted.update(names)
        for o in n.output:
            if o:
                if producer.setdefault(o, k) != k:
                    raise UserError(f"the tensor '{o}' is written by two nodes: this is not a valid ONNX graph")
                ordered = ordered and o not in wanted
    if ordered:
        return nodes
    before = [{producer[t] for t in names if t in producer} for names in reads]
    waiting, readers = [0] * len(nodes), defaultdict(list)
    for k, n in enumerate(nodes):
        for p in before[k] - {k}:
            waiting[k] += 1
            readers[p].append(k)
        if k in before[k] and any(t in n.output for t in n.input if t):
            raise UserError(f"the node '{label(n)}' reads its own output: this is not a valid ONNX graph")
    ready = [k for k, w in enumerate(waiting) if not w]
    heapq.heapify(ready)
    order: list[NodeProto] = []
    while ready:
        k = heapq.heappop(ready)
        order.append(nodes[k])
        for r in readers[k]:
            waiting[r] -= 1
            if not waiting[r]:
                heapq.heappush(ready, r)
    if len(order) < len(nodes):
        raise UserError("the graph has a cycle: this is not a valid ONNX graph")
    return order
