"""What stands in for the float model where none is given: the file without its activation quantizers.

Of a file that was translated by an earlier run the copies are left out, too: a channel holds its whole value once its
quantizer is gone, and what its copies hold of it is set to zero (halves of `split` add up to the whole, and stay).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.regions.find import find_regions

__all__ = ["seen_in", "stand_in"]


def stand_in(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model without activation quantizers and copies; None where a wide tensor's rank is not known.

    Args:
        model: as it is, translated or not; not changed.
    """
    plain = _without_copies(model)
    return None if plain is None else reference(plain, find_regions(Graph(plain), infer_shapes(plain)))


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
    shapes = infer_shapes(model)
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    for k in reversed(range(len(graph.node))):
        n = graph.node[k]
        if n.output[0] not in layouts or layouts[n.output[0]].halved:
            continue
        wide, shape = layouts[n.output[0]], shapes.get(n.input[0])
        if shape is None:
            return None
        mask = (wide.level == 0).reshape(-1, *[1] * (len(shape) - 1 - wide.axis % len(shape)))
        scale = Graph(model).constant(n.input[1])
        assert scale is not None
        name = f"{n.output[0]}_originals"
        graph.initializer.append(numpy_helper.from_array(np.asarray(mask, scale.dtype), name + "_mask"))
        graph.node.insert(k, helper.make_node("Mul", [n.input[0], name + "_mask"], [name], name=name))
        graph.node[k + 1].input[0] = name
    return new
