"""What stands in for the float model where none is given: the file without its activation quantizers.

Of a file that was translated by an earlier run the copies are left out, too: a channel holds its whole value once its
quantizer is gone, and what its copies hold of it is set to zero (halves of `split` add up to the whole, and stay).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.records.grids import read_edits, record_edits
from onnx_ocs.records.layouts import quantizers, read_layouts
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.wide import Wide

__all__ = ["seen_in", "stand_in"]


def stand_in(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model without activation quantizers and copies; None where a wide tensor's rank is not known.

    Args:
        model: as it is, translated or not; not changed.
    """
    plain = _without_copies(model)
    if plain is None:
        return None
    found = reference(plain, find_regions(Graph(plain), infer_shapes(plain)))
    if edits := read_edits(model):  # its channels have the gains that the file declares
        record_edits(found, edits)
    return found


def seen_in(layers: Sequence[LinearMap], model: onnx.ModelProto) -> list[LinearMap]:
    """The layers, aiming at a stand-in of a model: of a translated one it has the copies' rows, too."""
    if not read_layouts(model):
        return list(layers)
    return [x if x.tie is None else replace(x, outputs=x.rows) for x in layers]


def _without_copies(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of a translated model whose copies hold nothing; the model itself where it has none."""
    layouts = dict(read_layouts(model).values())
    if not layouts:
        return model
    shapes, was = infer_shapes(model), Graph(model)
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    for k in reversed(range(len(graph.node))):
        name = graph.node[k].output[0]
        if name not in layouts or layouts[name].halved:
            continue
        wide, shape = layouts[name], shapes.get(graph.node[k].input[0])
        if shape is None:
            return None
        nodes = _joined_before(was, graph.node[k], wide)
        quantize = nodes[-1]
        scale = was.constant(quantizers(was, name)[0].input[1])
        assert scale is not None
        masked, channels = f"{name}_originals", [-1, *[1] * (len(shape) - 1 - wide.axis % len(shape))]
        mask = np.asarray(wide.level == 0, scale.dtype).reshape(channels)
        graph.initializer.append(numpy_helper.from_array(mask, masked + "_mask"))
        nodes.insert(-1, helper.make_node("Mul", [quantize.input[0], masked + "_mask"], [masked], name=masked))
        quantize.input[0] = masked
        if wide.full and isinstance(grid := read_quantizer(was, quantizers(was, name)[0]), Quantizer):
            rested = f"{name}_rested"  # their constant is taken out of what reads them
            rest = np.asarray(wide.rests(grid) * grid.scale, scale.dtype).reshape(channels)
            graph.initializer.append(numpy_helper.from_array(rest, rested + "_rests"))
            nodes.insert(-1, helper.make_node("Add", [masked, rested + "_rests"], [rested], name=rested))
            quantize.input[0] = rested
        for p, t in enumerate(quantize.input):  # of a quantizer of the bases, which are repeated
            value = was.constant(t) if p and t else None
            if value is not None and 1 < value.size < wide.origin.size:
                quantize.input[p] = f"{masked}_{p}"
                graph.initializer.append(numpy_helper.from_array(value[wide.origin], quantize.input[p]))
        del graph.node[k]
        for node in reversed(nodes):
            graph.node.insert(k, node)
    return new


def _joined_before(graph: Graph, node: NodeProto, wide: Wide) -> list[NodeProto]:
    """What writes a wide tensor, with one quantizer, of all its channels, at the end."""
    name = str(node.output[0])
    parts = quantizers(graph, name)
    last = NodeProto()
    last.CopyFrom(parts[0])
    if len(parts) == 1:
        return [last]
    floats = f"{name}_floats"
    nodes = [helper.make_node("Concat", [q.input[0] for q in parts], [floats], name=floats, axis=wide.axis)]
    if is_op(node, "Gather"):
        grouped = f"{floats}_grouped"
        nodes.append(helper.make_node("Gather", [floats, node.input[1]], [grouped], name=grouped, axis=wide.axis))
        floats = grouped
    last.name, last.input[0], last.output[0] = name, floats, name
    return [*nodes, last]
