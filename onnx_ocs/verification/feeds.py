"""Samples of other sizes: a model with free dimensions must hold at more of them than a sample happens to have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

__all__ = ["resized"]

Array = np.ndarray[Any, Any]
MOST = 4  # free dimensions besides the batch that are varied


def _free(model: onnx.ModelProto) -> dict[str, list[tuple[str, int]]]:
    """The free dimensions of the graph inputs: a name -> where it stands.  Unnamed first axes are one batch."""
    initializers = {t.name for t in model.graph.initializer}
    found: dict[str, list[tuple[str, int]]] = {}
    for i in model.graph.input:
        if i.name in initializers or not i.type.tensor_type.HasField("shape"):
            continue
        for axis, d in enumerate(i.type.tensor_type.shape.dim):
            if d.HasField("dim_value"):
                continue
            name = d.dim_param or ("" if axis == 0 else f"{i.name}/{axis}")
            found.setdefault(name, []).append((i.name, axis))
    # the batch comes first
    return dict(sorted(found.items(), key=lambda e: not any(axis == 0 for _, axis in e[1])))


def _sized(value: Array, axis: int, size: int) -> Array:
    """Values repeated along an axis."""
    return np.asarray(np.take(value, np.arange(size) % max(value.shape[axis], 1), axis=axis))


def resized(model: onnx.ModelProto, feed: Mapping[str, Array], few: bool = False) -> Iterator[dict[str, Array]]:
    """Feeds like the given one with other sizes: the batch at 2 and 3, every other free dimension at twice its size.

    Args:
        model: the original; its graph inputs say what is free.
        feed: one sample.
        few: whether one other batch is enough.

    Yields:
        Feeds; whether the model runs on them is not known.
    """
    varied = 0
    for places in _free(model).values():
        places = [(name, axis) for name, axis in places if name in feed and axis < feed[name].ndim]
        if not places or any(not feed[name].size for name, _ in places):
            continue
        first = any(axis == 0 for _, axis in places)
        varied += not first
        if varied > MOST or (few and not first):
            return
        size = feed[places[0][0]].shape[places[0][1]]
        for count in ((2,) if few else (2, 3)) if first else (2 * size,):
            new = dict(feed)
            for name, axis in places:
                new[name] = np.ascontiguousarray(_sized(new[name], axis, count))
            yield new
