"""Store signed integers without a sign: q + 128 with the zero-point z + 128, the same values.

Done where copies are made late.  Of int8 behind the Concat of bases and copies OpenVINO's integer kernels make wrong
numbers, of uint8 right ones.  onnxruntime makes uint8 of int8 by itself on x86.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.records.types import record_unsigned
from onnx_ocs.regions.region import Region

__all__ = ["can_be_unsigned", "unsigned"]

OFFSET = 128


def can_be_unsigned(graph: Graph, region: Region) -> bool:
    """Whether nobody but the region's own quantizers and dequantizers knows of the sign.

    Args:
        graph: the graph, not edited.
        region: one of its regions.
    """
    q, walk = region.quantizer, region.walk
    if q.dtype != np.int8 or walk.integers_leave or walk.joined:
        return False
    nodes = (*region.nodes, *walk.carried, *walk.dequantizers)
    zeros = (graph.constant(n.input[2]) if len(n.input) > 2 and n.input[2] else None for n in nodes)
    if any(z is None or z.dtype != np.int8 for z in zeros):
        return False
    if any(is_op(n, "QuantizeLinear") and attribute(n, "output_dtype", 0) for n in nodes):  # it names the type
        return False
    if any(_typed(graph, str(d.input[0])) for d in walk.dequantizers):
        return False
    return not any(is_op(r, "Clip") for n in (*region.nodes, *walk.carried) for r in graph.readers(n.output[0]))


def _typed(graph: Graph, integers: str) -> bool:
    """Whether a Cast, which names the type, stands between a quantizer and these integers."""
    n = graph.producer.get(integers)
    while n is not None and not is_op(n, "QuantizeLinear", "Cast"):
        n = graph.producer.get(n.input[0])
    return is_op(n, "Cast")


def unsigned(graph: EditableGraph, region: Region) -> Region:
    """Change a region's quantizers and dequantizers; returns it with the grid that it has now."""
    walk, q = region.walk, region.quantizer
    made: dict[str, str] = {}
    for n in (*region.nodes, *walk.carried, *walk.dequantizers):
        name = str(n.input[2])
        if name not in made:
            zero = graph.constant(name)
            assert zero is not None
            value = np.asarray((zero.astype(np.int16) + OFFSET).astype(np.uint8))
            made[name] = graph.add_initializer(name + "_unsigned", value)
        graph.set_input(n, 2, made[name])
        if is_op(n, "QuantizeLinear"):
            record_unsigned(n)
            graph.reshaped.add(n.output[0])  # its value_info names the old type
        else:
            moved = n.input[0]
            while moved not in graph.reshaped:
                graph.reshaped.add(moved)
                moved = graph.producer[moved].input[0]
    grid = replace(
        q, zero_point=q.zero_point + OFFSET, dtype=np.dtype(np.uint8), qmin=q.qmin + OFFSET, qmax=q.qmax + OFFSET
    )
    return replace(region, quantizer=grid)
