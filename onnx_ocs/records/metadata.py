"""Metadata entries of a node or a model: each key at most once."""

from __future__ import annotations

import onnx

__all__ = ["set_entry"]


def set_entry(of: onnx.NodeProto | onnx.ModelProto, key: str, value: str) -> None:
    """Write an entry; an older one of the same key is replaced."""
    for p in of.metadata_props:
        if p.key == key:
            p.value = value
            return
    of.metadata_props.add(key=key, value=value)
