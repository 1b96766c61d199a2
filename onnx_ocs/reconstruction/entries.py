"""The report's entries of re-fitted layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from onnx_ocs.measurement.quality import decibels
from onnx_ocs.reconstruction.fit import Fitted
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.refusals import Refusal

__all__ = ["entries"]

TAKEN_BACK = "the model's outputs are better without, on samples that no fit has seen"


def entries(
    found: Sequence[LinearMap | Refusal], fitted: Sequence[Fitted], kept: Collection[int]
) -> list[dict[str, Any]]:
    """One entry for each layer with a quantized weight, in topological order.

    Args:
        found: the layers, and why some could not be read.
        fitted: what became of those that were.
        kept: numbers of those whose new values stay.
    """
    out: list[dict[str, Any]] = []
    turn = 0
    for f in found:
        if isinstance(f, Refusal):
            out.append(_entry(f.node, None, None, "refused") | {"reason": f.as_dict()})
            continue
        out.append(_fitted(fitted[turn], turn in kept))
        turn += 1
    return out


def _entry(layer: str, weight: str | None, bias: str | None, status: str) -> dict[str, Any]:
    return {
        "layer": layer, "weight": weight, "bias": bias, "changed": 0.0, "scales_changed": 0, "ridge": None,
        "error_before_db": None, "error_after_db": None, "status": status, "reason": None,
    }  # fmt: skip


def _fitted(f: Fitted, kept: bool) -> dict[str, Any]:
    layer, new = f.layer, f.values
    bias = None if layer.bias is None else layer.bias.root
    entry = _entry(layer.name, layer.weight.root, bias, "applied" if kept else "refused")
    if f.ridge is not None:
        entry |= {"ridge": f.ridge, "error_before_db": decibels(f.signal, f.before)}
        entry |= {"error_after_db": decibels(f.signal, f.after)}
    if kept and new is not None:
        held = layer.weight.held
        assert held is not None
        if held.dtype.kind not in "iu":  # several to a byte
            held = held.astype(np.int16)
        entry["changed"] = float(np.mean(new.weight != held))
        entry["scales_changed"] = 0 if new.scale is None else int(np.sum(new.scale != layer.weight.scale))
        return entry
    code, message = f.why or ("taken_back", TAKEN_BACK)
    return entry | {"reason": {"code": code, "message": message, "node": layer.name}}
