"""What biases follow: checked on a Gemm that multiplies its bias, and on layers with and without accumulators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zoo

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.reconstruction.biases import beta, bias_shift, follows_weight, output_shift
from onnx_ocs.reconstruction.copies import Tie
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap


def layers(topology: Any, bias: str) -> tuple[EditableGraph, list[LinearMap]]:
    net, outputs = topology(zoo.Style(bias=bias))
    graph = EditableGraph(net.model(*outputs))
    return graph, [x for x in find_maps(graph) if isinstance(x, LinearMap)]


@pytest.mark.parametrize(("bias", "follows"), [("int32", True), ("float", False), ("none", False), ("int8", False)])
def test_an_accumulators_bias_follows_the_weight(bias: str, follows: bool) -> None:
    graph, found = layers(zoo.conv_relu_conv, bias)
    assert found and all(follows_weight(graph, x) is follows for x in found)


def test_a_gemm_may_multiply_its_bias() -> None:
    _, found = layers(zoo.gemm(1, beta=0.5), "float")
    assert found[-1].node.op_type == "Gemm" and beta(found[-1]) == 0.5
    assert beta(layers(zoo.conv_relu_conv, "float")[1][0]) == 1.0


@pytest.mark.parametrize("taken", [True, False])
def test_the_shift_is_seen_in_the_bias_or_taken_behind(taken: bool) -> None:
    layer = layers(zoo.gemm(1, beta=0.5), "float")[1][-1]
    rows = layer.channels
    origin = np.arange(rows)
    origin[-1] = 0
    shift = np.where(np.arange(rows) == rows - 1, 3.0, 0.0)
    fixed = np.ones(rows) - (0 if taken else shift)
    tied = replace(layer, tie=Tie(origin, np.arange(rows), shift, False), fixed=fixed)
    wanted = 0 * shift if taken else shift
    np.testing.assert_array_equal(output_shift(tied), wanted)
    np.testing.assert_array_equal(bias_shift(tied), 2 * wanted)
