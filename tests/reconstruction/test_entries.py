"""The report's entries of re-fitted layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction.entries import entries
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.fit import Fitted
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.write import Values
from onnx_ocs.refusals import Refusal


def fitted(one_layer: Any, **more: Any) -> Fitted:
    model, _ = one_layer("Gemm", (5, 6), (6, 4), 4)
    (layer,) = find_maps(Graph(model))
    assert isinstance(layer, LinearMap) and layer.weight.integers is not None
    new = layer.weight.integers.copy()
    new[:3, 0] += 1  # 3 of 24
    return Fitted(layer, Values(new, layer.weight.scale * 2, None, None), 0.1, 100.0, 10.0, 1.0, **more)


def test_a_layer_that_is_kept(one_layer: Any) -> None:
    f = fitted(one_layer)
    (e,) = entries([f.layer], [f], {0})
    assert e.pop("error_before_db") == pytest.approx(10) and e.pop("error_after_db") == pytest.approx(20)
    assert e == {
        "layer": f.layer.name, "weight": "w", "bias": "b", "changed": 0.125, "scales_changed": 1, "ridge": 0.1,
        "status": "applied", "reason": None,
    }  # fmt: skip


def test_a_layer_that_is_taken_back(one_layer: Any) -> None:
    """It says what it was by itself, and that nothing is changed."""
    f = fitted(one_layer)
    (e,) = entries([f.layer], [f], set())
    assert (e["status"], e["changed"], e["scales_changed"], e["ridge"]) == ("refused", 0.0, 0, 0.1)
    assert e["reason"]["code"] == "taken_back" and e["reason"]["node"] == f.layer.name
    assert e["error_after_db"] == pytest.approx(20)


def test_a_layer_that_was_not_fitted(one_layer: Any) -> None:
    f = Fitted(fitted(one_layer).layer, why=("few_rows", "too few samples reach it"))
    (e,) = entries([f.layer], [f], set())
    assert e["reason"] == {"code": "few_rows", "message": "too few samples reach it", "node": f.layer.name}
    assert e["ridge"] is e["error_before_db"] is e["error_after_db"] is None


def test_numbers_count_layers_that_could_be_read(one_layer: Any) -> None:
    first, second = fitted(one_layer), fitted(one_layer)
    refusal = Refusal("bad_scale", "the scale is 0", "conv")
    found = entries([refusal, first.layer, refusal, second.layer], [first, second], {1})
    assert [e["status"] for e in found] == ["refused", "refused", "refused", "applied"]
    assert found[0]["layer"] == "conv" and found[0]["reason"] == refusal.as_dict()
    assert found[1]["reason"]["code"] == "taken_back" and np.isclose(found[3]["changed"], 0.125)
