"""New steps: which quantizers have another scale than in the original, written on the QuantizeLinear.

Two metadata entries, JSON lists of numbers (one, or one a channel; copies are not counted):

    onnx_ocs.scale_before    the step in the original
    onnx_ocs.scale           the step now; files of older versions lack it
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.model.nodes import Array
from onnx_ocs.model.text import from_json
from onnx_ocs.records.metadata import set_entry

__all__ = ["NOW", "SCALE", "Step", "read_step", "record_step"]

SCALE = "onnx_ocs.scale_before"
NOW = "onnx_ocs.scale"


@dataclass(frozen=True, eq=False)
class Step:
    """A declared change of a quantizer's step.

    Attributes:
        before: the step in the original, float64, shape () or (C,).
        now: the step now; None where the file does not say it.
    """

    before: Array
    now: Array | None


def record_step(node: onnx.NodeProto, before: Array, now: Array) -> None:
    """Write a change of step on a QuantizeLinear; the first step that was recorded stays the one before.

    Args:
        node: the QuantizeLinear.
        before: its step before, in float64.
        now: its step now, in float64.
    """
    if all(p.key != SCALE for p in node.metadata_props):
        set_entry(node, SCALE, json.dumps(before.tolist()))
    set_entry(node, NOW, json.dumps(now.tolist()))


def read_step(node: onnx.NodeProto) -> Step | None:
    """The change of step that a node declares; None if it declares none.

    Raises:
        ValueError: the entry holds no numbers.
    """
    entries = {p.key: p.value for p in node.metadata_props if p.key in (SCALE, NOW)}
    if SCALE not in entries:
        return None
    now = entries.get(NOW)
    try:
        before = np.asarray(from_json(entries[SCALE]), np.float64)
        return Step(before, None if now is None else np.asarray(from_json(now), np.float64))
    except (ValueError, TypeError) as e:
        raise ValueError(f"the step of '{node.output[0]}' is no list of numbers ({e})") from None
