"""Which passes a file has been through, and which of them wrote a node."""

from __future__ import annotations

import json
from typing import Any

import onnx

from onnx_ocs.model.text import from_json
from onnx_ocs.records.metadata import set_entry

__all__ = ["RECORD", "history", "note", "rewritten", "stamp"]

RECORD = "onnx_ocs.passes"
STAMP = "onnx_ocs.pass"


def history(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """The passes that have run on a model, as the file says."""
    for p in model.metadata_props:
        if p.key == RECORD:
            try:
                entries = from_json(p.value)
                return [e for e in entries if isinstance(e, dict)]
            except (ValueError, TypeError):
                return []
    return []


def rewritten(model: onnx.ModelProto) -> bool:
    """Whether a pass has run on a model that makes its quantizers and layers others than they were.

    New grids do not: what `regrid` leaves is a QDQ model like any other.
    """
    return any(e.get("pass") != "regrid" for e in history(model))


def stamp(node: onnx.NodeProto, name: str, version: str) -> None:
    """Write a pass's name and version on a node (several passes may have edited it)."""
    text = f"{name} {version}"
    for p in node.metadata_props:
        if p.key == STAMP:
            if text not in p.value.split(", "):
                p.value += f", {text}"
            return
    node.metadata_props.add(key=STAMP, value=text)


def note(model: onnx.ModelProto, entry: dict[str, Any]) -> None:
    """Write on a model that a pass has run."""
    text = json.dumps([*history(model), entry], sort_keys=True)
    set_entry(model, RECORD, text)
