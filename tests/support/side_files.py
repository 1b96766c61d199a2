"""Tensors in side files, and in every place of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.model.tensors import FOLDER, refer


def holder() -> onnx.ModelProto:
    """Tensors in every place: an initializer, an attribute, a subgraph, a function, a sparse initializer."""
    tensors = {k: helper.make_tensor(k, TensorProto.FLOAT, [256], [1.0] * 256) for k in ("a", "b", "c", "d", "e")}
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [256])
    inner = helper.make_graph([], "inner", [], [value], [tensors["c"]])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=tensors["b"]),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [tensors["a"]]))
    constant = helper.make_node("Constant", [], ["f"], value=tensors["d"])
    model.functions.append(helper.make_function("own", "F", [], ["f"], [constant], [helper.make_opsetid("", 17)]))
    positions = numpy_helper.from_array(np.arange(256), "positions")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensors["e"], positions, [512]))
    return model


def aside(folder: Path, values: np.ndarray, kind: int, offset: int = 12) -> TensorProto:
    """An attached tensor whose values lie in a file."""
    raw = numpy_helper.from_array(values).raw_data
    (folder / "w.bin").write_bytes(b"?" * offset + raw)
    t = TensorProto(name="w", data_type=kind, dims=values.shape)
    refer(t, {"location": "w.bin", "offset": str(offset), "length": str(len(raw)), FOLDER: str(folder)})
    return t
