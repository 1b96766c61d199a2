"""How large models are, and what is left of them for a checker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from side_files import aside, holder

from onnx_ocs.model.sizes import exceeds, inline_size, is_plain, rough_size, total_size, without_side_files
from onnx_ocs.model.tensors import refer


def test_sizes_of_a_model() -> None:
    model = holder()
    inside = 6 * 1024 + 256 * 8
    assert inline_size(model) == inside
    size = model.ByteSize()
    assert total_size(model) == size and size > inside
    assert exceeds(model, size - 1) and not exceeds(model, size + 1)
    assert rough_size(model, 1 << 20) == size and rough_size(model, 100) == inside
    assert is_plain(model, size + 1) and not is_plain(model, size - 1)
    refer(model.graph.initializer[0], {"location": "w.bin", "offset": "0", "length": "1024"})
    model.graph.initializer[0].ClearField("float_data")
    assert inline_size(model) == inside - 1024
    assert total_size(model) == model.ByteSize() + 1024
    assert not is_plain(model, 1 << 20)


def test_a_checker_gets_inputs_for_what_lies_outside(tmp_path: Path) -> None:
    """Small constants (shapes, say) come along; large ones need only have a type and a shape."""
    large, small = np.zeros((32, 64), np.float32), np.asarray([2, -1], np.int64)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 32])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Reshape", ["m", "to"], ["y"])]
    weights = [aside(tmp_path, large, TensorProto.FLOAT), numpy_helper.from_array(small, "to")]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    new = without_side_files(model)
    assert [i.name for i in new.graph.input] == ["x", "w"] and [t.name for t in new.graph.initializer] == ["to"]
    assert [d.dim_value for d in new.graph.input[1].type.tensor_type.shape.dim] == [32, 64]
    onnx.checker.check_model(new, full_check=True)
    assert [i.name for i in model.graph.input] == ["x"]  # not changed
    plain = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights[1:]))
    assert without_side_files(plain) is plain
