"""What is folded back for readers that cannot take copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from wide_layouts import total, wide
from zoo import execute

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.foldback import fold

Array = np.ndarray[Any, Any]


def folded(layout: Wide, shape: tuple[int, ...]) -> onnx.ModelProto:
    """x -> y, copies added to their channels."""
    size = [layout.narrow if k == layout.axis % len(shape) else n for k, n in enumerate(shape)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", size))]
    model = helper.make_model(
        helper.make_graph([], "fold", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    graph = EditableGraph(model)
    fold(graph, "x", "y", layout, len(shape) - 1 - layout.axis % len(shape))
    graph.commit()
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("axis", [1, -1, 2])
@pytest.mark.parametrize(
    ("copies", "low", "groups"),
    [
        ([1, 0, 0, 0, 0], None, 1), ([1] * 5, None, 1), ([3, 0, 1, 0, 15], None, 1), ([2, 1, 1, 3, 1], None, 1),
        ([0, 2, 0, 1, 0], [1, 1, 0, 0, 3], 1), ([0] * 5, [0, 0, 2, 2, 0], 1), ([1, 0, 2, 0, 1, 2], None, 2),
        ([2, 0, 0, 2], [0, 1, 1, 0], 2), ([1, 2, 0, 0, 0, 0, 0, 0], [0, 0, 0, 4, 0, 0, 0, 0], 1),
    ],
)  # fmt: skip
def test_a_fold_is_the_sum_in_order(copies: list[int], low: list[int] | None, groups: int, axis: int) -> None:
    """To the last bit, wherever the copies lie, and no wider than there are channels to be added up."""
    layout = wide(copies, low, groups, axis)
    shape = [3, 4, 6]
    shape[axis] = layout.origin.size
    model = folded(layout, tuple(shape))
    x = np.random.default_rng(len(copies)).standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(execute(model, {"x": x})[0], total(x, layout))
    shapes = infer_shapes(model)
    widths = [shapes[n.output[0]][axis] for n in model.graph.node if n.op_type == "Add"]
    count = np.asarray(copies) + (0 if low is None else np.asarray(low))
    assert widths == [int((count > t).sum()) for t in range(count.max())]
