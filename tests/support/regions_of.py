"""The regions of a small model."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region


def graph_and_regions(model: onnx.ModelProto) -> tuple[EditableGraph, dict[str, Region]]:
    """The graph and its regions by their float tensor (of several on one tensor, the last)."""
    graph = EditableGraph(model)
    return graph, {r.tensor: r for r in find_regions(graph, infer_shapes(model))}


def regions_of(model: onnx.ModelProto) -> tuple[Graph, list[Quantized]]:
    """The graph, and all its quantized activations in order."""
    graph = Graph(model)
    return graph, find_regions(graph, infer_shapes(model))


def find(regions: Sequence[Quantized], tensor: str) -> int:
    """The number of the region of a tensor."""
    return next(k for k, r in enumerate(regions) if r.tensor == tensor)
