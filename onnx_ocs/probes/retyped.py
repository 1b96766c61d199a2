"""The original with the integers unsigned that a rewritten file declares so: the yardstick for their other type.

    q' = q + 128,   z' = z + 128       stored as uint8; (q' - z') * s is (q - z) * s

Built from the original and the declarations, without any code of the rewriter.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.names import Names
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.order import mentioned
from onnx_ocs.model.protobuf import drop_value_info

__all__ = ["retyped"]

OFFSET = 128
MOVING = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool")


def retyped(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of a model whose quantizers write unsigned integers.

    Args:
        model: the original; not changed.
        names: what the QuantizeLinear nodes write.

    Raises:
        ValueError: one of them is no quantizer of int8, or something else than a DequantizeLinear reads its integers.
    """
    graph = Graph(model)
    nodes: list[NodeProto] = []
    integers: set[str] = set()
    for name in names:
        n = graph.producer.get(name)
        if n is None or not is_op(n, "QuantizeLinear"):
            raise ValueError(f"there is no quantizer '{name}' whose integers could have lost their sign")
        nodes.append(n)
        stack = [name]
        while stack:
            t = stack.pop()
            integers.add(t)
            if t in graph.outputs or graph.captured(t):
                raise ValueError(f"the integers '{t}', which have lost their sign, leave the graph")
            for r in graph.readers(t):
                if is_op(r, "DequantizeLinear") and r.input[0] == t:
                    nodes.append(r)
                elif is_op(r, *MOVING) and r.input[0] == t and len(r.output) == 1:
                    stack.append(str(r.output[0]))
                else:
                    raise ValueError(f"'{r.name or r.output[0]}' reads the integers '{t}', which have lost their sign")
    new = onnx.ModelProto()
    new.CopyFrom(model)
    writers = {o: n for n in new.graph.node for o in n.output if o}
    free = Names(graph.initializers, graph.producer, graph.inputs)
    old: set[str] = set()
    for n in nodes:
        zero = graph.constant(n.input[2]) if len(n.input) > 2 and n.input[2] else None
        if zero is None or zero.dtype != np.int8:
            raise ValueError(f"'{n.name or n.output[0]}' has no zero-point of int8 that could lose its sign")
        name = free.fresh(f"{n.input[2]}_unsigned")
        old.add(str(n.input[2]))
        value = (zero.astype(np.int16) + OFFSET).astype(np.uint8)
        new.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        writers[n.output[0]].input[2] = name
    old -= {t for n in new.graph.node for t in mentioned(n)} | {i.name for i in new.graph.input}
    for k in reversed(range(len(new.graph.initializer))):  # those that nobody reads any more
        if new.graph.initializer[k].name in old:
            del new.graph.initializer[k]
    drop_value_info(new.graph, lambda name: name in integers)
    return new
