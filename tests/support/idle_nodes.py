"""Nodes that do nothing between a QuantizeLinear and its DequantizeLinear, as torch's TorchScript exporter writes."""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer


def with_idle_nodes(model: onnx.ModelProto, kind: Literal["cast", "identity"]) -> onnx.ModelProto:
    """A copy in which one stands behind every QuantizeLinear of an activation."""
    graph, new, nodes = Graph(model), onnx.ModelProto(), []
    new.CopyFrom(model)
    for n in new.graph.node:
        nodes.append(n)
        if n.op_type != "QuantizeLinear" or graph.is_constant(n.input[0]):
            continue
        q = read_quantizer(graph, graph.producer[n.output[0]])
        assert isinstance(q, Quantizer)
        name = f"{n.output[0]}_same"
        if kind == "cast":
            to = helper.np_dtype_to_tensor_dtype(q.dtype)
            nodes.append(helper.make_node("Cast", [n.output[0]], [name], to=to))
        else:
            nodes.append(helper.make_node("Identity", [n.output[0]], [name]))
        for reader in new.graph.node:
            if reader.op_type == "DequantizeLinear" and reader.input[0] == n.output[0]:
                reader.input[0] = name
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del new.graph.node[:]
    new.graph.node.extend(kept)
    return new
