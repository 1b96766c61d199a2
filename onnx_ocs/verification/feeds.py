"""Samples of other sizes: a model with free dimensions must hold at more of them than a sample happens to have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnx_ocs.model.nodes import Array

__all__ = ["resized"]

MOST = 4  # free dimensions besides the batch that are varied
LARGE = 1 << 16  # values of a sample beyond which only the batch is


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


def _batch(given: Sequence[Mapping[str, Array]], name: str, count: int) -> Array:
    """Several samples of one input behind each other; where they do not fit, one of them repeated."""
    parts = [given[k % len(given)][name] for k in range(1, count + 1)]
    if any(p.shape[1:] != parts[0].shape[1:] for p in parts):
        parts = [parts[0]] * count
    return np.ascontiguousarray(np.concatenate(parts)[:count])


def resized(
    model: onnx.ModelProto, given: Sequence[Mapping[str, Array]], few: bool = False
) -> Iterator[tuple[dict[str, Array], bool]]:
    """Feeds of other sizes: batches of 2 and 3, and every other free dimension at twice its size.

    Args:
        model: the original; its graph inputs say what is free.
        given: samples, one each.
        few: whether one other batch is enough.

    Yields:
        Feeds, and whether it is another batch; whether the model runs on them is not known.
    """
    varied, feed = 0, given[0]
    for places in _free(model).values():
        places = [(name, axis) for name, axis in places if name in feed and axis < feed[name].ndim]
        if not places or any(not feed[name].size for name, _ in places):
            continue
        if all(axis == 0 for _, axis in places):
            for count in (2,) if few else (2, 3):
                yield {**feed, **{name: _batch(given, name, count) for name, _ in places}}, True
            continue
        varied += 1
        if few or varied > MOST or sum(v.size for v in feed.values()) > LARGE:
            continue
        new = dict(feed)
        for name, axis in places:
            new[name] = np.ascontiguousarray(_sized(new[name], axis, 2 * new[name].shape[axis]))
        yield new, False
