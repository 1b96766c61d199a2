"""What a compensation branch says of itself, and the arithmetic that its record stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.model.text import from_json

__all__ = ["RECORD", "Inserted", "blt", "digest", "inverse_blt", "read_branches", "remove", "strip", "thinned"]


def blt(x: Array, alpha: float) -> Array:
    """The bipolar logarithmic transform; the identity for alpha = 0."""
    return x if alpha == 0 else np.copysign(np.log1p(alpha * np.abs(x)), x)


def inverse_blt(z: Array, alpha: float) -> Array:
    """Its inverse."""
    return z if alpha == 0 else np.copysign(np.expm1(np.abs(z)) / alpha, z)


def thinned(x: Array, strides: Sequence[int]) -> Array:
    """Every strides-th position of (N, C, ...) along the spatial axes; `x` itself where there are no strides."""
    return (
        x[(slice(None), slice(None), *(slice(None, None, int(s)) for s in strides))]
        if max(strides, default=1) > 1
        else x
    )


RECORD = "onnx_ocs.branch"
KEYS = frozenset({
    "output", "before", "after", "regressors", "form", "rank", "groups", "alpha", "beta", "low", "high", "reach",
    "strides", "axis", "weights", "back", "bias",
})  # fmt: skip


@dataclass(frozen=True)
class Inserted:
    """A branch that a file carries.

    Attributes:
        output: the block's output, as the original calls it.
        before: what it is called before the correction.
        after: what it is called after it.
        regressors: tensors that the branch reads.
        entry: alpha, beta, form, rank and bounds, names of the constants, and a digest of all that.
    """

    output: str
    before: str
    after: str
    regressors: tuple[str, ...]
    entry: dict[str, Any]


def digest(entry: Mapping[str, Any], graph: Graph) -> str:
    """SHA-256 of a branch's record and constants.

    Raises:
        KeyError: the record is damaged, or a constant is missing.
    """
    h = hashlib.sha256(json.dumps({k: v for k, v in entry.items() if k != "digest"}, sort_keys=True).encode())
    for t in (*entry["weights"], entry["back"], entry["bias"]):
        value = None if t is None else graph.constant(t)
        if t is not None and value is None:
            raise KeyError(t)
        h.update(b"" if value is None else np.ascontiguousarray(value).tobytes())
    return h.hexdigest()


def read_branches(model: onnx.ModelProto) -> list[Inserted]:
    """The branches that a file carries, in the graph's order.

    Raises:
        UserError: a record is damaged.
    """
    found = []
    for n in model.graph.node:
        for p in n.metadata_props:
            if p.key == RECORD:
                try:
                    e = from_json(p.value)
                    b = Inserted(e["output"], e["before"], e["after"], tuple(e["regressors"]), e)
                    sound = e.keys() >= KEYS and all(isinstance(a, (int, float)) for a in (*e["alpha"], e["beta"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(f"the branch at '{label(n)}' has no readable record ({error})") from None
                if not sound or b.after not in n.output:
                    raise UserError(f"the branch at '{label(n)}' has a damaged record")
                found.append(b)
    return found


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without its branches: what it was before they were added."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    for b in read_branches(new):
        remove(graph, b)
    graph.commit()
    return new


def remove(graph: EditableGraph, b: Inserted) -> None:
    """Let all that reads a corrected value read the uncorrected one again; `commit` drops the branch."""
    if b.after == b.output:  # the corrected value has the original's name: give it back
        graph.rename_output(b.after, graph.fresh(b.after + "_dropped"))
        graph.rename_output(b.before, b.output)
    old, now = (b.before, b.output) if b.after == b.output else (b.after, b.before)
    for n in graph.readers(old):
        for k, t in enumerate(n.input):
            if t == old:
                graph.set_input(n, k, now)
