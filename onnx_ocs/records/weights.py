"""Re-fitted layers: which constants of a layer were given new values, written on the layer's node.

The node carries one metadata entry, JSON, under the key `onnx_ocs.refitted`:

    {"weight": E, "weight_scale": E | null, "bias": E | null, "bias_scale": E | null, "low": int, "high": int}
    E = {"name": name now, "before": name in the model that was re-fitted (null if added), "digest": sha256}

`low` and `high` are the range of integers that the weights keep to.  A weight that is stored in float in front of Q
and DQ is declared by that float constant, whose values then lie on the grid.  The bias of a MatMul is the constant of
the Add behind it.  A constant that a Constant node holds is named by what the node writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from onnx_ocs.model.text import from_json
from onnx_ocs.records.metadata import set_entry

__all__ = ["REFITTED", "Refit", "Refitted", "digest", "read_refitted", "record_refitted"]

REFITTED = "onnx_ocs.refitted"  # metadata key of a layer's node


def digest(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array: its dtype's name, its dims, its values in little-endian order.

    Args:
        array: any dtype; 2- and 4-bit integers count as one byte each, as numpy holds them.

    Returns:
        The hexadecimal digest.
    """
    value = np.asarray(array, order="C")
    if value.dtype.kind in "iufc" and value.dtype.byteorder == ">":
        value = value.astype(value.dtype.newbyteorder("<"))
    found = hashlib.sha256(f"{value.dtype.name} {list(value.shape)} ".encode())
    found.update(value.tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Refit:
    """One constant with new values.

    Attributes:
        name: its name now.
        before: its name in the model that was re-fitted; None if it was added.
        digest: of its values now (`digest`).
    """

    name: str
    before: str | None
    digest: str


@dataclass(frozen=True)
class Refitted:
    """What was re-fitted of one layer; None stands for what was left as it was.

    Attributes:
        weight: the weight's root.
        weight_scale: the scale(s) of the weight.
        bias: the bias's root.
        bias_scale: the scale(s) of the bias.
        low: smallest integer that the weights may take.
        high: largest.
    """

    weight: Refit
    weight_scale: Refit | None
    bias: Refit | None
    bias_scale: Refit | None
    low: int
    high: int


def record_refitted(node: onnx.NodeProto, refitted: Refitted) -> None:
    """Write on a layer's node what was re-fitted of it; an older entry is replaced."""
    text = json.dumps(asdict(refitted), sort_keys=True)
    set_entry(node, REFITTED, text)


def _refit(entry: Mapping[str, Any] | None) -> Refit | None:
    return None if entry is None else Refit(entry["name"], entry["before"], entry["digest"])


def read_refitted(model: onnx.ModelProto) -> dict[str, Refitted]:
    """The re-fitted layers of a model, by the first output of the layer's node.

    Raises:
        ValueError: an entry is damaged.
    """
    found: dict[str, Refitted] = {}
    for n in model.graph.node:
        for p in n.metadata_props:
            if p.key != REFITTED:
                continue
            try:
                e = from_json(p.value)
                weight = _refit(e["weight"])
                if weight is None:
                    raise KeyError("weight")
                scale, bias, step = (_refit(e[k]) for k in ("weight_scale", "bias", "bias_scale"))
                found[n.output[0]] = Refitted(weight, scale, bias, step, int(e["low"]), int(e["high"]))
            except (KeyError, TypeError, ValueError, AttributeError) as problem:
                raise ValueError(f"the entry '{REFITTED}' of '{n.output[0]}' is damaged: {problem}") from None
    return found
