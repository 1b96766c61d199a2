"""Signed integers are stored without a sign where layers find integer kernels for it: the same values, less time.

    q' = q + 128,   z' = z + 128       stored as uint8; (q' - z') * s is (q - z) * s

onnxruntime's products on x86 take uint8 with int8.  It makes uint8 of a quantizer's int8 by itself, but only where one
reader stands behind it: what several read, as the queries, keys and values of attention do, is multiplied in float.
Whether anything is won is read off the graph that it optimizes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass
from onnx_ocs.records.history import stamp
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regridding.entries import unsigned_entry
from onnx_ocs.runtime.cpu import may_saturate
from onnx_ocs.targets.ort import operators
from onnx_ocs.translation.unsigned import can_be_unsigned, unsigned

__all__ = ["without_sign"]


def without_sign(
    model: onnx.ModelProto, regions: Iterable[Quantized], by: Pass, bounded: Bounded
) -> list[dict[str, Any]]:
    """Store integers without a sign in front of matrix products, in place, where that wins integer kernels.

    Nothing is done where an integer operator would be lost, or on CPUs whose kernels for uint8 may saturate.

    Args:
        model: the model.
        regions: its regions, which say at once where there is nothing to win.
        by: the pass; its name and version are written on all that is edited.
        bounded: which tensors the float model bounds at 6.

    Returns:
        The report's entries, one for each quantizer that has changed.
    """
    if may_saturate() or not any(_signed_factor(r) for r in regions):
        return []
    new = onnx.ModelProto()
    new.CopyFrom(model)
    entries = _store(new, by, bounded)
    before, after = (operators(m) for m in (model, new)) if entries else (None, None)
    if before is None or after is None or not before.won(after) or before.between(after):
        return []
    model.CopyFrom(new)
    return entries


def _signed_factor(region: Quantized) -> bool:
    """Whether a matrix product multiplies a tensor's int8."""
    if not isinstance(region, Region) or region.quantizer.dtype != np.int8:
        return False
    return any(is_op(n, "MatMul", "Gemm") for n in region.walk.weights)


def _store(model: onnx.ModelProto, by: Pass, bounded: Bounded) -> list[dict[str, Any]]:
    """Store the integers of all quantizers that matrix products read without a sign; one entry for each."""
    graph = EditableGraph(model)
    touched: set[int] = set()
    entries = []
    for r in find_regions(graph, infer_shapes(model), bounded=bounded):
        if not isinstance(r, Region) or not _signed_factor(r):
            continue
        nodes = {id(n) for n in (*r.nodes, *r.walk.carried, *r.walk.dequantizers)}
        if touched.isdisjoint(nodes) and can_be_unsigned(graph, r):
            entries.append(unsigned_entry(by.name, r, unsigned(graph, r)))
            touched |= nodes
    if entries:
        graph.commit(lambda node: stamp(node, by.name, by.version))
    return entries
