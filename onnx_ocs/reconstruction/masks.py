"""What counts, and how much: padding does not, and whoever knows better gives weights of samples and positions.

An input that says what is padding holds only zeros and ones, one for each sample and position, and works on what a
Softmax is computed from (the scores of an attention), or weighs what is summed; it is never looked up in a table, as
token types are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_ocs.calibration.stream import samples_in
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op

__all__ = ["find_mask", "mask_of", "rows_of", "weights_of"]

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


def weights_of(given: Callable[[Feed], Array | None]) -> Callable[[Feed], Array | None]:
    """What gives the weights of a feed, float32 (samples,) or (samples, positions), or None where all count alike.

    Args:
        given: the user's function.

    Raises:
        UserError: when a feed is asked for, and the function gives something else.
    """

    def weights(feed: Feed) -> Array | None:
        found = given(feed)
        if found is None:
            return None
        value = np.asarray(found, np.float32)
        samples = samples_in(feed)
        if not value.ndim or len(value) != samples or not np.isfinite(value).all() or value.min(initial=0) < 0:
            raise UserError(
                f"the weights of samples and positions must be 0 or more, with {samples} samples on the first axis: "
                f"they are of shape {value.shape}"
            )
        return value

    return weights


def rows_of(mask: Array | None, shape: Sequence[int], samples: int) -> Array | None:
    """How much each row of a layer counts, (rows,); None where all count alike, or the mask says nothing of them.

    Args:
        mask: of samples, or of samples and positions.
        shape: axes of the layer's output without its channels'.
        samples: how many there are.
    """
    count = int(np.prod(shape))
    if mask is None:
        return None
    if mask.size == count:
        return mask.reshape(-1)
    if mask.ndim == 1 and samples and count % samples == 0 and tuple(shape[:1]) and shape[0] % samples == 0:
        return np.repeat(mask, count // samples)
    return None
