"""What the node that writes a wide tensor's integers says of itself: their layout, and the step that they had before.

That is a QuantizeLinear; or a Concat (and a Gather behind it), where bases and copies are quantized one by one.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.model.tensors import pack, unpack
from onnx_ocs.model.text import from_json
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.metadata import set_entry
from onnx_ocs.records.steps import SCALE
from onnx_ocs.regions.wide import Wide

__all__ = ["LAYOUT", "quantizers", "read_layouts", "read_scales", "record_layout"]


def read_scales(model: onnx.ModelProto) -> dict[str, Array]:
    """The new steps in a rewritten model, by what the Q wrote in the original (layouts give renamed ones).

    Raises:
        UserError: a record is damaged.
    """
    found: dict[str, Array] = {}
    graph: Graph | None = None
    for n in model.graph.node:
        keys = {p.key: p.value for p in n.metadata_props}
        if SCALE not in keys:
            continue
        graph = graph or Graph(model)
        q = read_quantizer(graph, graph.producer[n.output[0]])
        if isinstance(q, Quantizer):
            name, scale = str(n.output[0]), q.scale
            if LAYOUT in keys:
                name, wide = _read(keys[LAYOUT], n)
                if scale.size > 1:  # per channel, repeated for the copies
                    if scale.size != wide.origin.size:
                        raise UserError(f"the layout at '{label(n)}' has a damaged record")
                    base = np.flatnonzero(wide.level == 0)
                    scale = np.empty(wide.narrow)
                    scale[wide.origin[base]] = q.scale[base]
            found[name] = scale
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
    if wide.full:
        entry["full"] = True
    set_entry(node, LAYOUT, json.dumps(entry))


def read_layouts(model: onnx.ModelProto) -> dict[str, tuple[str, Wide]]:
    """The layouts in a rewritten model: what a Q wrote in the original -> (the wide integers now, layout).

    Raises:
        UserError: a record is damaged.
    """
    found: dict[str, tuple[str, Wide]] = {}
    for n in model.graph.node:
        for p in n.metadata_props:
            if p.key == LAYOUT:
                original, wide = _read(p.value, n)
                found[original] = (n.output[0], wide)
    return found


def _read(text: str, node: NodeProto) -> tuple[str, Wide]:
    """The original's name of what a Q writes, and its layout."""
    try:
        e = from_json(text)
        origin, level = unpack(e["origin"]), unpack(e["level"])
        wide = Wide(
            int(e["axis"]), origin, level, int(e["narrow"]), None, True, bool(e.get("halved", False)),
            full=bool(e.get("full", False)),
        )  # fmt: skip
        bases = np.sort(origin[level == 0])
        sound = wide.narrow == bases.size and np.array_equal(bases, np.arange(bases.size))
        sound = sound and bool(np.isin(origin, bases).all())
        name = str(e["original"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, zlib.error) as error:
        raise UserError(f"the layout at '{label(node)}' has no readable record ({error})") from None
    if not sound:
        raise UserError(f"the layout at '{label(node)}' has a damaged record")
    return name, wide
