"""From trained parameters back to a QDQ file, and what it declares.

Steps are changed and declared as every change of a step is (`onnx_ocs.rescale`); weights, their scales and biases are
declared on the layer's node (`onnx_ocs.records.weights`), against the model before the first fit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.parameters import Parameters, Result
from onnx_ocs.reconstruction.stored import Stored
from onnx_ocs.reconstruction.trainable import Trainable
from onnx_ocs.reconstruction.write import on_grid, write
from onnx_ocs.records.weights import REFITTED, Refit, Refitted, digest, read_refitted, record_refitted
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.translation.rescale import rescale

__all__ = ["written"]

PARTS = ("weight", "weight_scale", "bias", "bias_scale")


def written(model: onnx.ModelProto, parts: Trainable, parameters: Parameters) -> tuple[onnx.ModelProto, int]:
    """A copy of the model with the trained values, and how many layers have new ones.

    Args:
        model: as it was when the training began.
        parts: what could be trained.
        parameters: what has become of it.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    _rescale(new, parts, [float(f.detach()) for f in parameters.factors()])
    start = EditableGraph(model)
    graph = EditableGraph(new)
    found = {x.node.output[0]: x for x in find_maps(graph) if isinstance(x, LinearMap)}
    for held in parameters.layers:
        layer, result = found[held.layer.node.output[0]], Result(held)
        values = on_grid(layer, result.integers, result.scale, result.bias, graph)
        if not isinstance(values, str):
            write(graph, layer, values)
    graph.commit()
    return new, _declare(new, start, {x.node.output[0]: x for x in parts.layers})


def _rescale(model: onnx.ModelProto, parts: Trainable, factors: list[float]) -> None:
    """Change the steps that have grown, in place."""
    changed = {s.region.outputs: s.now * f for s, f in zip(parts.steps, factors, strict=True) if f != 1}
    if not changed:
        return
    graph = EditableGraph(model)
    for region in find_regions(graph, infer_shapes(model), bounded=parts.bounded):
        if isinstance(region, Region) and region.outputs in changed:
            rescale(graph, region, np.asarray(changed[region.outputs]))
    graph.commit()


def _names(layer: LinearMap) -> dict[str, str | None]:
    """What a layer's constants are called."""

    def scale(stored: Stored | None) -> str | None:
        return stored.scales[-1][1] if stored is not None and stored.scales else None

    bias = layer.bias
    root = None if bias is None else bias.root
    return {"weight": layer.weight.root, "weight_scale": scale(layer.weight), "bias": root, "bias_scale": scale(bias)}


def _declare(model: onnx.ModelProto, start: Graph, before: Mapping[str, LinearMap]) -> int:
    """Write on every layer what is not as it was before the first fit; the number of layers that training changed."""
    graph, known, count = Graph(model), read_refitted(start.model), 0
    for layer in find_maps(graph):
        if not isinstance(layer, LinearMap) or layer.node.output[0] not in before:
            continue
        output = layer.node.output[0]
        earlier, old, now = known.get(output), _names(before[output]), _names(layer)
        entries: dict[str, Refit | None] = {}
        moved = False
        for part in PARTS:
            entry = getattr(earlier, part) if earlier is not None else None
            entries[part] = entry
            name, was = now[part], old[part]
            if name is None or was is None:
                continue
            value, value_before = graph.constant(name), start.constant(was)
            assert value is not None and value_before is not None
            if name != was or value.tobytes() != value_before.tobytes():
                moved = True
                entries[part] = Refit(name, was if entry is None else entry.before, digest(value))
        count += moved
        weight, stored = entries["weight"], before[output].weight
        if moved:
            root = layer.weight.root
            value = graph.constant(root)
            assert value is not None
            weight = weight or Refit(root, old["weight"], digest(value))
            rest = (entries["weight_scale"], entries["bias"], entries["bias_scale"])
            record_refitted(layer.node, Refitted(weight, *rest, stored.low, stored.high))
        elif earlier is None:
            _forget(layer.node)
    return count


def _forget(node: onnx.NodeProto) -> None:
    """A layer on which nothing has changed declares nothing."""
    for p in [p for p in node.metadata_props if p.key == REFITTED]:
        node.metadata_props.remove(p)
