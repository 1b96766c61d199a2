"""Padding must not count: which input says what is padding, and which rows of a layer it means.

Such an input holds only zeros and ones, one for each sample and position, and works on what a Softmax is computed from
(the scores of an attention), or weighs what is summed; it is never looked up in a table, as token types are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op

__all__ = ["find_mask", "mask_of"]

Feed = Mapping[str, Array]


def find_mask(graph: Graph, feeds: Sequence[Feed]) -> str | None:
    """The input that says what is padding; None if there is none.

    Args:
        graph: the graph.
        feeds: some samples.
    """
    found = [t for t in sorted(graph.inputs) if _is_mask(graph, t, feeds)]
    return found[0] if len(found) == 1 else None


def _is_mask(graph: Graph, tensor: str, feeds: Sequence[Feed]) -> bool:
    values = [f[tensor] for f in feeds if tensor in f]
    if not values or any(v.ndim != 2 or not np.isin(v, (0, 1)).all() for v in values):
        return False
    seen, stack, attends = {tensor}, [tensor], False
    while stack:
        t = stack.pop()
        for n in graph.readers(t):
            if is_op(n, "Gather", "GatherElements", "GatherND") and t in n.input[1:]:
                return False
            attends = attends or is_op(n, "Softmax")
            if is_op(n, "MatMul", "Gemm", "Conv", "Softmax"):
                continue
            for o in n.output:
                if o not in seen:
                    seen.add(o)
                    stack.append(o)
    return attends


def mask_of(graph: Graph, wanted: str | None, feeds: Sequence[Feed]) -> Callable[[Feed], Array | None]:
    """What gives the rows of a feed that count, bool (samples, positions), or None where all do.

    Args:
        graph: the graph.
        wanted: the input that the user has named; None: it is looked for.
        feeds: some samples.

    Raises:
        UserError: there is no such input.
    """
    if wanted is not None and wanted not in graph.inputs:
        raise UserError(f"the model has no input '{wanted}' for a mask: choose from {', '.join(sorted(graph.inputs))}")
    name = wanted or find_mask(graph, feeds)
    return lambda feed: None if name is None else np.asarray(feed[name]) != 0
