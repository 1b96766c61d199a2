"""Graphs of a few nodes, spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph


def node(op: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    """A node called after what it writes; inputs and outputs are separated by blanks, `-` is an empty one."""
    ends = [["" if t == "-" else t for t in names.split()] for names in (inputs, output)]
    return helper.make_node(op, *ends, name=ends[1][0] + "/" + op, **attributes)


def model(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    outputs: Sequence[str] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of float inputs; the last node's output is the graph's, where no other is given."""
    shapes = {"x": ["N", 3, 4, 4]} if inputs is None else inputs
    ends = [nodes[-1].output[0]] if outputs is None else outputs
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(k, 1, s) for k, s in shapes.items()],
        [helper.make_tensor_value_info(o, 1, None) for o in ends],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def graph(*arguments: Any, **options: Any) -> Graph:
    """The same, indexed."""
    return Graph(model(*arguments, **options))
