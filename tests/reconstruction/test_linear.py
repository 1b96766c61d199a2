"""A layer's linear form: what it says of drawn rows is what onnxruntime computes there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import helper
from zoo import execute

import onnx_ocs
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.reconstruction import large, linear
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.patches import draw, inputs, outputs
from onnx_ocs.refusals import Refusal

RNG = np.random.default_rng(0)

CONVS: list[tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = [
    ("Conv", (3, 4, 9), (5, 4, 3), 5, {"pads": [1, 2]}),
    ("Conv", (2, 4, 7, 8), (6, 4, 3, 2), 6, {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", (2, 4, 9, 9), (6, 4, 3, 3), 6, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ("Conv", (2, 6, 7, 7), (9, 2, 3, 3), 9, {"group": 3, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (2, 6, 8, 8), (12, 1, 2, 2), 12, {"group": 6, "auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("Conv", (1, 2, 4, 5, 6), (3, 2, 2, 2, 2), 3, {"auto_pad": "VALID"}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 2), 3, {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", (2, 6, 4, 4), (6, 2, 3, 3), 4, {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", (2, 4, 5, 5), (4, 1, 3, 3), 4, {"group": 4, "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", (2, 4, 5), (4, 3, 3), 3, {"dilations": [2], "strides": [2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", (2, 4, 5), (4, 3, 4), 3, {"strides": [3], "output_shape": [14]}),
    ("Gemm", (5, 7), (7, 4), 4, {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", (5, 7), (4, 7), 4, {"transB": 1}),
    ("Gemm", (7, 5), (4, 7), 4, {"transB": 1, "transA": 1}),
    ("MatMul", (2, 3, 7), (7, 4), 4, {}),
    ("MatMul", (2, 7, 5), (4, 7), 4, {"left": True}),
]


@pytest.mark.parametrize("op, x, w, channels, attributes", CONVS, ids=[f"{k}_{c[0]}" for k, c in enumerate(CONVS)])
def test_rows_are_what_onnxruntime_computes(
    op: str, x: tuple[int, ...], w: tuple[int, ...], channels: int, attributes: dict[str, Any], one_layer: Any
) -> None:
    model, value = one_layer(op, x, w, channels, **attributes)
    (layer,) = find_maps(Graph(model))
    assert isinstance(layer, LinearMap) and layer.free and layer.y == "y"
    y = execute(model, {"x": value})[0]
    positions = draw(y.size // channels, 40, RNG.random(100), 3)
    seen, wanted = inputs(layer, value, y.shape, positions), outputs(y, layer.axis, positions)
    matrix = layer.matrix(layer.weight.value) * layer.factor
    got = np.zeros_like(wanted, dtype=np.float64)
    for g in range(len(matrix)):
        got[:, layer.outputs[g]] = seen[g] @ matrix[g].T
    assert np.array_equal(got + layer.fixed, wanted)


def test_a_weight_that_others_read_is_refused(one_layer: Any) -> None:
    model, _ = one_layer("Gemm", (5, 7), (7, 4), 4)
    model.graph.node.append(helper.make_node("Identity", ["wd"], ["z"]))
    model.graph.output.append(onnx.ValueInfoProto(name="z"))
    (found,) = find_maps(Graph(model))
    assert isinstance(found, Refusal) and found.code == "weight_shared"


@pytest.mark.parametrize("inputs, refused", [(8, False), (9, False), (12, False), (13, True)])
def test_how_many_inputs_a_matrix_may_have(
    one_layer: Any, monkeypatch: pytest.MonkeyPatch, inputs: int, refused: bool
) -> None:
    """Beyond what moments of every fold have room for, a matrix is fitted in parts; more are too many."""
    monkeypatch.setattr(linear, "WIDE", 8)
    monkeypatch.setattr(large, "WIDE", 8)
    monkeypatch.setattr(linear, "WIDEST", 12)
    model, _ = one_layer("Gemm", (5, inputs), (inputs, 4), 4)
    (found,) = find_maps(Graph(model))
    if refused:
        assert isinstance(found, Refusal) and found.code == "too_wide"
    else:
        assert isinstance(found, LinearMap) and large.is_large(found) == (inputs > 8)


def test_how_many_inputs_a_kernel_may_have(one_layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WIDE", 8)
    model, _ = one_layer("Conv", (1, 3, 5), (2, 3, 3), 2)
    (found,) = find_maps(Graph(model))
    assert isinstance(found, Refusal) and found.code == "too_wide"


def test_a_matrix_with_copies_is_not_fitted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that follow each other are solved jointly, so every fold has moments of its own."""
    model, _ = zoo.build("gemm")
    wide = onnx_ocs.rewrite(model, passes=[Translate(0.5, 1, "early")], verify=False).model
    layers = [f for f in find_maps(Graph(wide)) if isinstance(f, LinearMap)]
    assert any(f.tie is not None for f in layers)
    monkeypatch.setattr(linear, "WIDE", 4)
    monkeypatch.setattr(large, "WIDE", 4)
    for found in find_maps(Graph(wide)):
        assert isinstance(found, Refusal) or large.is_large(found) or found.columns.shape[-1] <= 4
