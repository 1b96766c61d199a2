"""What a Q node says of itself: the layout of what it quantizes, and the step that it had before."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.tensors import pack, unpack
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.steps import SCALE
from onnx_ocs.regions.wide import Wide

__all__ = ["LAYOUT", "read_layouts", "read_scales", "record_layout"]


def read_scales(model: onnx.ModelProto) -> dict[str, Array]:
    """The new steps in a rewritten model, by what the Q wrote in the original (layouts give renamed ones)."""
    found: dict[str, Array] = {}
    graph: Graph | None = None
    for n in model.graph.node:
        keys = {p.key: p.value for p in n.metadata_props}
        if SCALE not in keys:
            continue
        graph = graph or Graph(model)
        q = read_quantizer(graph, graph.producer[n.output[0]])
        if isinstance(q, Quantizer):
            wide = json.loads(keys[LAYOUT]) if LAYOUT in keys else None
            scale = q.scale
            if scale.size > 1 and wide is not None:  # per channel, repeated for the copies
                origin, level = unpack(wide["origin"]), unpack(wide["level"])
                base = np.flatnonzero(level == 0)
                scale = np.empty(wide["narrow"])
                scale[origin[base]] = q.scale[base]
            found[wide["original"] if wide else str(n.output[0])] = scale
    return found


LAYOUT = "onnx_ocs.wide"  # metadata key of a Q node: the layout of what it quantizes


def record_layout(node: NodeProto, original: str, wide: Wide) -> None:
    """Write the layout of what a Q node quantizes into its metadata: the file itself says what was done to it."""
    entry = {"original": original, "axis": wide.axis, "narrow": wide.narrow}
    entry |= {"origin": pack(wide.origin), "level": pack(wide.level)}
    if wide.halved:
        entry["halved"] = True
    node.metadata_props.add(key=LAYOUT, value=json.dumps(entry))


def read_layouts(model: onnx.ModelProto) -> dict[str, tuple[str, Wide]]:
    """The layouts in a rewritten model: what a Q wrote in the original -> (what it writes now, layout)."""
    found: dict[str, tuple[str, Wide]] = {}
    for n in model.graph.node:
        for p in n.metadata_props:
            if p.key == LAYOUT:
                e = json.loads(p.value)
                halved = bool(e.get("halved", False))
                wide = Wide(e["axis"], unpack(e["origin"]), unpack(e["level"]), e["narrow"], None, True, halved)
                found[e["original"]] = (n.output[0], wide)
    return found
