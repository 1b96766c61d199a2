"""Models whose quantizers were mended by hand, without samples."""

from __future__ import annotations

from collections.abc import Sequence

import detectors
import numpy as np
import onnx
import zoo

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.records.grids import SHORTS, record_edits
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regridding import edits
from onnx_ocs.regridding.bits16 import check_16, grid_16
from onnx_ocs.regridding.grids import Extremes, Grid
from onnx_ocs.regridding.lengthen import stored_16
from onnx_ocs.regridding.mend import Mended, Way, mend

__all__ = ["lengthened", "mended", "moved_zero_point", "regridded"]

BOXES = Extremes(np.full(4, 20.0), np.full(4, 300.0))
SCORES = Extremes(np.zeros(3), np.full(3, 0.4))
JOINED = Extremes(np.append(BOXES.low, SCORES.low), np.append(BOXES.high, SCORES.high))
SEEN = {"mul1": BOXES, "sigmoid2": SCORES, "concat1": JOINED, "transpose1": JOINED, "relu1": BOXES}
KILLERS = ("sigmoid2", "concat1", "transpose1")


def mended(model: onnx.ModelProto, ways: Sequence[Way], tensors: Sequence[str] = KILLERS) -> Mended:
    """A detector whose quantizers of some tensors are mended."""
    keys = [r.key for r in find_regions(Graph(model), infer_shapes(model)) if r.tensor in tensors]
    return mend(model, keys, ways, SEEN, Regrid(), {})


def regridded(name: str, ways: Sequence[Way]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A detector, and the same mended."""
    model = detectors.build(name)
    killers = KILLERS[1:] if name in ("float_parts", "moved", "read_by_a_layer") else KILLERS
    return model, mended(model, ways, killers).model


def lengthened(
    model: onnx.ModelProto, tensors: Sequence[str] | None = None, seen: Extremes | None = None
) -> onnx.ModelProto:
    """A model whose quantizers have 16 bits: of these tensors, or of all that can; over a range that holds `seen`."""
    graph = Graph(model)
    grids = {
        r.key: grid_16(r, seen)
        for r in find_regions(graph, infer_shapes(model))
        if isinstance(r, Region)
        and (tensors is None or r.tensor in tensors)
        and check_16(graph, r, None, SHORTS) is None
    }
    return stored_16(model, grids, Regrid(), {})


def moved_zero_point() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network of layers with int32 biases, and the same with another step and zero-point for every quantizer."""
    net = zoo.Net(zoo.Style(bias="int32"), x=(3, 6, 6))
    hidden = net.qdq(net.op("Relu", net.conv(net.qdq("x", "mid", 1.0))), "low", 1.0)
    model = net.model(net.dq(net.q(net.conv(hidden), "mid", 1.0), out="y"))
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    made = []
    for r in find_regions(graph, infer_shapes(new)):
        if isinstance(r, Region) and r.quantizer.scale.size == 1:
            grid = Grid(float(r.quantizer.scale.astype("float32")) * 2, 100)
            if edits.check_grid(graph, r, grid) is None:
                made += edits.regrid(graph, r, grid)
    graph.commit()
    record_edits(new, made)
    return model, new
