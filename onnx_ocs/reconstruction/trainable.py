"""What gradients may change in a QDQ file: the maps of `onnx_ocs.reconstruction.linear`, and steps of activations.

A step changes with everything that is on its grid and with the biases whose scale is s_x * s_w, as
`onnx_ocs.rescale` changes it.  Steps of translated tensors stay, and so do those of quantizers on the same grid: the
copies' X_clip stands in biases and in nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.write import scale_free
from onnx_ocs.records.layouts import quantizers, read_layouts
from onnx_ocs.records.weights import read_refitted
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regions.steps import check_rescale

__all__ = ["MOST_GROWTH", "Step", "Trainable", "find_trainable"]

MOST_GROWTH = 2.0  # factor by which a scale may grow or shrink
COARSEST = 0.02  # steps of a quantizer by which an integer bias may miss X_clip, as in translation


@dataclass(frozen=True, eq=False)
class Step:
    """A step of an activation that may change.

    Attributes:
        region: its region.
        factors: by what a Q or DQ writes, its scale in units of the step.
        most: the largest factor by which the step may grow.
    """

    region: Region
    factors: Mapping[str, float]
    most: float

    @property
    def now(self) -> float:
        """The step as it is in the file."""
        return float(self.region.quantizer.scale)


@dataclass(frozen=True, eq=False)
class Trainable:
    """All of it.

    Attributes:
        layers: in topological order.
        scaled: first outputs of the layers whose weights' scales may change.
        steps: in topological order.
        inputs: by the layer's first output, index into `steps` of the step that it reads.
        ceilings: by what a Q writes, the bound of a ReLU6 that is folded into it.
        refusals: layers that stay as they are.
        bounded: which tensors the float model bounds at 6.
    """

    layers: Sequence[LinearMap]
    scaled: frozenset[str]
    steps: Sequence[Step]
    inputs: Mapping[str, int]
    ceilings: Mapping[str, float]
    refusals: Sequence[Refusal]
    bounded: Bounded | None = None

    @property
    def roots(self) -> set[str]:
        """Names of the constants that change."""
        found = {x.weight.root for x in self.layers}
        return found | {x.bias.root for x in self.layers if x.bias is not None and x.free}


def find_trainable(graph: Graph, bounded: Bounded | None = None) -> Trainable:
    """Everything in a graph that gradients may change.

    Args:
        graph: of the file as it is, translated or not; not edited.
        bounded: which tensors the float model bounds at 6.
    """
    known = read_refitted(graph.model)
    found = find_maps(graph)
    roots = Counter(x.weight.root for x in found if isinstance(x, LinearMap))
    layers = []
    for k, x in enumerate(found):
        if isinstance(x, LinearMap) and roots[x.weight.root] > 1:
            found[k] = Refusal("weight_shared", "several layers read the weight", x.name)
        elif isinstance(x, LinearMap) and (x.weight.reshaped or (x.bias is not None and x.bias.reshaped)):
            found[k] = Refusal("weight_form", "a Reshape stands between a constant and the layer", x.name)
        elif isinstance(x, LinearMap):
            entry = known.get(x.node.output[0])
            if entry is not None:  # the range that an earlier fit kept to, even where its values do not show it
                x = replace(x, weight=replace(x.weight, low=entry.low, high=entry.high))
            layers.append(x)
    wide = {str(n.output[0]) for now, _ in read_layouts(graph.model).values() for n in quantizers(graph, now)}
    least = _least_step(graph, wide)
    scaled = {x.node.output[0] for x in layers if scale_free(x, graph) and _holds(x, least) and _by_row(x)}
    regions = find_regions(graph, infer_shapes(graph.model), bounded=bounded)
    steps, inputs = _steps(graph, regions, wide, {x.node.output[0]: x for x in layers}, least)
    ceilings = {o: r.ceiling for r in regions for o in r.outputs if np.isfinite(r.ceiling)}
    refusals = [x for x in found if isinstance(x, Refusal)]
    return Trainable(layers, frozenset(scaled), steps, inputs, ceilings, refusals, bounded)


def _by_row(layer: LinearMap) -> bool:
    """Whether scales of rows that follow others can follow, too."""
    return layer.tie is None or layer.weight.scale.size in (1, layer.tie.origin.size)


def _least_step(graph: Graph, wide: set[str]) -> float:
    """The smallest step of a translated quantizer."""
    found = [read_quantizer(graph, graph.producer[o]) for o in wide]
    return min((float(q.scale.min()) for q in found if isinstance(q, Quantizer)), default=np.inf)


def _holds(layer: LinearMap, least: float) -> bool:
    """Whether an integer bias with a coarser scale still holds X_clip exactly enough."""
    if layer.tie is None or layer.bias is None or layer.bias.kind == "plain" or not np.any(layer.tie.shift):
        return True
    return bool(layer.bias.scale.max() * MOST_GROWTH**2 / 2 <= COARSEST * least)


def _steps(
    graph: Graph, regions: Sequence[Quantized], wide: set[str], layers: Mapping[str, LinearMap], least: float
) -> tuple[list[Step], dict[str, int]]:
    """Steps that may change, and which of them a layer reads."""
    steps: list[Step] = []
    inputs: dict[str, int] = {}
    claimed: set[int] = set()
    for r in regions:
        if not isinstance(r, Region):
            continue
        nodes = (*r.nodes, *r.walk.carried, *r.walk.dequantizers)
        taken = any(id(n) in claimed for n in nodes)
        claimed |= {id(n) for n in nodes}
        if taken or not r.adjustable or r.quantizer.scale.size != 1 or any(n.output[0] in wide for n in nodes):
            continue
        if any(check_rescale(graph, r, r.quantizer.scale * f) for f in (MOST_GROWTH, 1 / MOST_GROWTH)):
            continue
        if not all(_can_follow(graph, n, layers.get(n.output[0]), least) for n in r.walk.weights):
            continue
        top = float(np.max((r.quantizer.qmax - r.quantizer.zero_point) * r.quantizer.scale))
        inputs |= {n.output[0]: len(steps) for n in r.walk.weights}
        now = float(r.quantizer.scale)
        factors = {str(n.output[0]): _scale(graph, n) / now for n in nodes}
        steps.append(Step(r, factors, min(MOST_GROWTH, max(1.0, r.ceiling / top))))
    return steps, inputs


def _scale(graph: Graph, node: NodeProto) -> float:
    value = graph.constant(node.input[1])
    assert value is not None
    return float(value.reshape(()))


def _can_follow(graph: Graph, node: NodeProto, layer: LinearMap | None, least: float) -> bool:
    """Whether a layer's integer bias, if it has one, can follow another step of what the layer reads."""
    name = node.input[2] if len(node.input) > 2 else ""
    if not name or not is_op(graph.producer.get(name), "DequantizeLinear"):
        return True
    return layer is not None and layer.bias is not None and layer.free and _holds(layer, least)
