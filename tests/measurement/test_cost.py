"""What a model costs: multiply-accumulates by their definition, parameters, bytes, nodes, kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import helper
from zoo import Net, Style

from onnx_ocs.measurement.cost import Cost, cost, layer_macs
from onnx_ocs.model.files import load_model
from onnx_ocs.targets.ort import Operators

MACS = [
    ("Conv", {"x": (1, 4, 6, 6), "w": (8, 4, 3, 3), "y": (1, 8, 6, 6)}, {}, 8 * 36 * 4 * 9),
    ("Conv", {"x": (1, 8, 6, 6), "w": (8, 1, 3, 3), "y": (1, 8, 3, 3)}, {"group": 8}, 8 * 9 * 9),
    ("Conv", {"x": (2, 4, 16), "w": (8, 4, 5), "y": (2, 8, 12)}, {}, 2 * 8 * 12 * 4 * 5),
    ("ConvTranspose", {"x": (1, 4, 3, 3), "w": (4, 8, 2, 2), "y": (1, 8, 6, 6)}, {}, 4 * 9 * 8 * 4),
    ("Gemm", {"x": (5, 12), "w": (12, 7), "y": (5, 7)}, {}, 5 * 12 * 7),
    ("Gemm", {"x": (12, 5), "w": (7, 12), "y": (5, 7)}, {"transA": 1, "transB": 1}, 5 * 12 * 7),
    ("MatMul", {"x": (2, 3, 4), "w": (4, 5), "y": (2, 3, 5)}, {}, 2 * 3 * 4 * 5),
    ("MatMul", {"x": ("N", 3, 4), "w": (4, 5), "y": ("N", 3, 5)}, {}, 3 * 4 * 5),  # one sample
    ("Relu", {"x": (5, 12), "w": (1,), "y": (5, 12)}, {}, 0),
    ("MatMul", {"x": (5, 12), "w": (12, 7)}, {}, 0),  # unknown
]  # fmt: skip


@pytest.mark.parametrize(("op", "shapes", "attributes", "expected"), MACS)
def test_macs_of_a_layer(op: str, shapes: dict[str, Any], attributes: dict[str, int], expected: int) -> None:
    assert layer_macs(helper.make_node(op, ["x", "w"], ["y"], **attributes), shapes) == expected


def test_a_strangers_operator_is_no_layer() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], domain="my.own")
    assert layer_macs(node, {"x": (1, 4, 6, 6), "w": (8, 4, 3, 3), "y": (1, 8, 6, 6)}) == 0


def test_a_model_is_the_sum_of_its_parts() -> None:
    model, _ = zoo.build("weight_float")
    found = cost(model)
    assert found.macs == 8 * 36 * 4 * 9 + 8 * 36 * 8 * 9
    assert found.params == sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    assert found.bytes == len(model.SerializeToString())
    assert found.nodes == len(model.graph.node)
    assert found.integer_kernels == 1  # the second one's output is not quantized


def test_symbols_count_as_one_or_as_given() -> None:
    n = Net(Style(weight="float"), x=(5, 12))
    model = n.model(n.matmul("x", 16, bias=False))
    assert cost(model, kernels=False).macs == 5 * 12 * 16
    assert cost(model, {"x": (3, 5, 12)}, kernels=False).macs == 3 * 5 * 12 * 16


def test_kernels_are_asked_for_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = zoo.build("residual")
    monkeypatch.setattr("onnx_ocs.measurement.cost.operators", lambda m: Operators(7, {"QLinearAdd": 2}, 5))
    found = cost(model)
    assert (found.integer_kernels, found.integer_operators, found.transposes) == (7, 9, 5)
    none = cost(model, kernels=False)
    assert none.integer_kernels is None and none.integer_operators is None and none.transposes is None


def test_side_files_count(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("weight_float")[0])  # `onnx.save` empties the weights
    whole = cost(model, kernels=False)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=128)
    apart = cost(load_model(tmp_path / "m.onnx"), kernels=False)
    assert apart.params == whole.params and apart.macs == whole.macs
    assert apart.bytes > (tmp_path / "w.bin").stat().st_size > 0
    assert abs(apart.bytes - whole.bytes) < 1000


def test_report_entries() -> None:
    assert Cost(1, 2, 3, 4, None).as_dict("before") == {
        "macs_before": 1, "params_before": 2, "bytes_before": 3, "nodes_before": 4, "integer_kernels_before": None,
        "integer_operators_before": None, "transposes_before": None,
    }  # fmt: skip
