"""A rewritten model without the compensation branches that it added, made by nothing but its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import onnx

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.order import mentioned
from onnx_ocs.records.branches import Inserted

__all__ = ["strange_constants", "without_branches"]


def _nodes(graph: Graph, b: Inserted) -> list[onnx.NodeProto]:
    """The nodes of a branch: what leads to the corrected value from the uncorrected one and the regressors."""
    found: dict[int, onnx.NodeProto] = {}
    stack, ends = [b.after], {b.before, *b.regressors}
    while stack:
        n = graph.producer.get(stack.pop())
        if n is not None and id(n) not in found:
            found[id(n)] = n
            stack += [t for t in n.input if t and t not in ends]
    return list(found.values())


def without_branches(model: onnx.ModelProto, branches: Sequence[Inserted], kept: Collection[str]) -> onnx.ModelProto:
    """A copy of a model in which all that reads a corrected value reads the uncorrected one, as before.

    Args:
        model: the rewritten model; not changed.
        branches: the branches to leave out.
        kept: initializers that stay even if nobody reads them.

    Returns:
        The copy.  A branch that is not what its record says leaves nodes behind, or takes the original's away.
    """
    graph = Graph(model)
    dropped = {id(n) for b in branches for n in _nodes(graph, b)}
    renamed = {b.before: b.output if b.after == b.output else b.before for b in branches}
    renamed |= {b.after: b.before for b in branches if b.after != b.output}
    new = onnx.ModelProto()
    new.CopyFrom(model)
    left = [n for n, was in zip(new.graph.node, model.graph.node, strict=True) if id(was) not in dropped]
    # `model.graph.node` gives the same objects each time, so that their identities are those that `Graph` has seen
    for n in left:
        n.input[:] = [renamed.get(t, t) for t in n.input]
        n.output[:] = [renamed.get(t, t) for t in n.output]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in left]
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    was_read = {t for n in model.graph.node for t in mentioned(n)}
    read = {t for n in nodes for t in mentioned(n)} | {o.name for o in new.graph.output}
    unread = [t.name in was_read and t.name not in read and t.name not in kept for t in new.graph.initializer]
    for k in reversed(np.flatnonzero(unread)):
        del new.graph.initializer[int(k)]
    return new


def strange_constants(model: onnx.ModelProto, branches: Sequence[Inserted]) -> list[str]:
    """Constants of branches that their records do not give, one sentence each."""
    graph, found = Graph(model), []
    for b in branches:
        e = b.entry
        digested = {*e["weights"], e["back"], e["bias"]}
        numbers = [1.0, e["low"], e["high"], *e["alpha"], *e["reach"], *(-r for r in e["reach"])]
        numbers += [1.0 / e["beta"]] if e["beta"] else []
        known = Counter(np.asarray(v, np.float32).tobytes() for v in numbers)
        rank = len(e["strides"])
        integers = [[0] * rank, [np.iinfo(np.int64).max] * rank, list(range(2, 2 + rank)), list(e["strides"])]
        for n in _nodes(graph, b):
            for t in n.input:
                value = graph.constant(t) if t and t not in digested and graph.is_constant(t) else None
                if value is None:
                    continue
                fine = value.dtype == np.float32 and not value.ndim and value.tobytes() in known
                if not fine and not (value.dtype == np.int64 and value.tolist() in integers):
                    found.append(f"the constant '{t}' of the branch at '{b.output}' is not what its record says")
    return found
