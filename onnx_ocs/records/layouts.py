"""What the node that writes a wide tensor's integers says of itself: their layout, and the step that they had before.

That is a QuantizeLinear; or a Concat (and a Gather behind it), where bases and copies are quantized one by one.
"""

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

__all__ = ["LAYOUT", "quantizers", "read_layouts", "read_scales", "record_layout"]


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


LAYOUT = "onnx_ocs.wide"  # metadata key: the layout of what a node writes


def quantizers(graph: Graph, name: str) -> list[NodeProto]:
    """The QuantizeLinear nodes that write the channels of a wide tensor: one, or those of its bases and its copies."""
    n = graph.producer[name]
    if n.op_type == "Gather":
        n = graph.producer[n.input[0]]
    return [graph.producer[t] for t in n.input] if n.op_type == "Concat" else [n]


def record_layout(node: NodeProto, original: str, wide: Wide) -> None:
    """Write the layout of a node's integers into its metadata: the file itself says what was done to it."""
    entry = {"original": original, "axis": wide.axis, "narrow": wide.narrow}
    entry |= {"origin": pack(wide.origin), "level": pack(wide.level)}
    if wide.halved:
        entry["halved"] = True
    node.metadata_props.add(key=LAYOUT, value=json.dumps(entry))


def read_layouts(model: onnx.ModelProto) -> dict[str, tuple[str, Wide]]:
    """The layouts in a rewritten model: what a Q wrote in the original -> (the wide integers now, layout)."""
    found: dict[str, tuple[str, Wide]] = {}
    for n in model.graph.node:
        for p in n.metadata_props:
            if p.key == LAYOUT:
                e = json.loads(p.value)
                halved = bool(e.get("halved", False))
                wide = Wide(e["axis"], unpack(e["origin"]), unpack(e["level"]), e["narrow"], None, True, halved)
                found[e["original"]] = (n.output[0], wide)
    return found
