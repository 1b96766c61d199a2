"""Do the branches of a file compute what their records say, bounded for every input, at every optimization level?

The yardstick is numpy, from the record's parameters alone: no node of the branch is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.records.branches import Inserted, blt, digest, inverse_blt, read_branches, thinned
from onnx_ocs.runtime.instrument import expose, piece
from onnx_ocs.runtime.session import Session

__all__ = ["check_branches"]

CLOSE = 2e-3  # of the largest correction: float32 sums over the channels
ROUNDED = 4e-6  # of the largest value that a correction is added to
EXTREMES = (0.0, 1.0, 1e30, -1e30, 1e-30)


def _expected(e: Mapping[str, Any], constant: Mapping[str, Array], values: Mapping[str, Array]) -> Array:
    """What a branch should write."""
    axis = int(e["axis"])
    y = values[e["before"]].astype(np.float64)
    if not e["weights"]:
        return y + inverse_blt(constant[e["bias"]].astype(np.float64), 0.0)
    total: Array | float = 0.0
    for k, name in enumerate(e["regressors"]):
        x = values[name].astype(np.float64)
        if name != e["before"]:
            x = thinned(x, e["strides"])
        x = blt(np.clip(x, -e["reach"][k], e["reach"][k]), e["alpha"][k])
        total = total + _times(x, constant[e["weights"][k]], axis, e["form"])
    if e["back"] is not None:
        total = _times(np.asarray(total), constant[e["back"]], axis, e["form"])
    z = np.clip(total + constant[e["bias"]].astype(np.float64), e["low"], e["high"])
    return np.asarray(y + inverse_blt(z, e["beta"]))


def _times(x: Array, w: Array, axis: int, form: str) -> Array:
    w = w.astype(np.float64)
    if form == "diagonal":
        return np.asarray(x * w)
    if axis == x.ndim - 1 and form != "grouped":
        return np.asarray(x @ w)
    w = w.reshape(w.shape[:2])
    x = np.moveaxis(x, axis, -1)
    groups = x.shape[-1] // w.shape[1]
    parts = zip(np.split(x, groups, axis=-1), np.split(w, groups), strict=True)
    return np.moveaxis(np.concatenate([p @ q.T for p, q in parts], axis=-1), -1, axis)


def check_branches(model: onnx.ModelProto, samples: Samples, limit: int, seed: int) -> list[str]:
    """Check all branches of a file.

    Args:
        model: the rewritten model.
        samples: what to feed.
        limit: number of samples.
        seed: of random values.

    Returns:
        What is wrong, one sentence each.
    """
    branches = read_branches(model)
    graph = Graph(model)
    failures: list[str] = []
    tensors = dict.fromkeys(t for b in branches for t in (b.before, b.after, *b.regressors))
    session = Session(expose(model, tensors), "disable_all")
    rng = np.random.default_rng(seed)
    parts: dict[str, tuple[Session, Session]] = {}
    for feed in samples.batches(1, limit):
        got = {**feed, **session.run(feed, [t for t in tensors if t not in feed])}
        for b in branches:
            values = {t: got[t] for t in (b.before, *b.regressors)}
            if b.after not in parts:
                alone = piece(graph, _nodes(graph, b), values, [b.after])
                parts[b.after] = Session(alone, "disable_all"), Session(alone, "enable_all")
            failures += _compare(graph, b, values, got[b.after], parts[b.after], rng)
    return list(dict.fromkeys(failures))


def _nodes(graph: Graph, b: Inserted) -> list[onnx.NodeProto]:
    """The nodes of a branch, in order."""
    found: dict[int, onnx.NodeProto] = {}
    stack = [b.after]
    ends = {b.before, *b.regressors}
    while stack:
        n = graph.producer.get(stack.pop())
        if n is not None and id(n) not in found:
            found[id(n)] = n
            stack += [t for t in n.input if t and t not in ends]
    return [n for n in graph.nodes if id(n) in found]


def _compare(
    graph: Graph,
    b: Inserted,
    values: Mapping[str, Array],
    written: Array,
    sessions: tuple[Session, Session],
    rng: np.random.Generator,
) -> list[str]:
    names = [t for t in (b.entry["bias"], b.entry["back"], *b.entry["weights"]) if t is not None]
    constant = {t: v for t in names if (v := graph.constant(t)) is not None}
    if len(constant) < len(set(names)):
        return [f"the branch at '{b.output}' has lost a constant"]
    e = b.entry
    if e.get("digest") != digest(e, graph):
        return [f"the branch at '{b.output}' has another record or other constants than it was written with"]
    ends = [inverse_blt(np.asarray(v, np.float64), e["beta"]) for v in (e["low"], e["high"])]
    limit = float(np.abs(constant[e["bias"]]).max() if not e["weights"] else max(abs(v) for v in ends))
    cases: list[tuple[str, Mapping[str, Array], Array]] = [("the samples", values, written)]
    for size in EXTREMES:
        same = {t: np.full_like(v, size) for t, v in values.items()}
        cases.append((f"the value {size:g}", same, sessions[0].run(same)[b.after]))
    random = {t: (rng.standard_normal(v.shape) * (np.abs(v).max() + 1)).astype(v.dtype) for t, v in values.items()}
    cases.append(("random values", random, sessions[0].run(random)[b.after]))
    for what, fed, out in cases:
        y, expected = fed[b.before].astype(np.float64), _expected(e, constant, fed)
        room = CLOSE * max(limit, 1e-30) + ROUNDED * float(np.abs(y).max(initial=0))
        if not np.isfinite(out).all() or np.abs(out - y).max(initial=0) > limit + room:
            return [f"the branch at '{b.output}' leaves its bounds on {what}"]
        if np.abs(out - expected).max(initial=0) > room:
            return [f"the branch at '{b.output}' does not compute what its record says on {what}"]
        if np.abs(sessions[1].run(dict(fed))[b.after] - expected).max(initial=0) > room:
            return [f"the branch at '{b.output}' computes something else at ORT_ENABLE_ALL on {what}"]
    return []
