"""The regions of a small model."""

from __future__ import annotations

import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region


def graph_and_regions(model: onnx.ModelProto) -> tuple[EditableGraph, dict[str, Region]]:
    """The graph and its regions by their float tensor (of several on one tensor, the last)."""
    graph = EditableGraph(model)
    return graph, {r.tensor: r for r in find_regions(graph, infer_shapes(model))}
