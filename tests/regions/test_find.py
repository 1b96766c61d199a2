"""Regions: one for each quantized activation and grid, with what is known of its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zoo
from regions_of import graph_and_regions
from zoo import Net, Style, image

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.producer import Early


@pytest.mark.parametrize("name", ["residual", "conv_relu_conv", "matmul_gelu", "qcdq2", "contrib", "weight_fake"])
def test_one_for_each_activation_in_order_and_none_for_weights(name: str) -> None:
    model, _ = zoo.build(name)
    graph = Graph(model)
    quantizers = [n for n in graph.nodes if n.op_type == "QuantizeLinear" and not graph.is_constant(n.input[0])]
    regions = find_regions(graph, infer_shapes(model))
    assert [r.tensor for r in regions] == [n.input[0] for n in quantizers]
    assert [r.outputs for r in regions] == [(n.output[0],) for n in quantizers]
    assert all(r.nodes[0] is n for r, n in zip(regions, quantizers, strict=True))


@pytest.mark.parametrize(("name", "expected"), [("two_equal_quantizers", [2]), ("two_different_quantizers", [1, 1])])
def test_quantizers_of_one_tensor_are_one_region_where_their_grids_agree(name: str, expected: list[int]) -> None:
    model, _ = zoo.build(name)
    found = [r for r in find_regions(Graph(model), infer_shapes(model)) if r.tensor == "relu1"]
    assert [len(r.nodes) for r in found] == expected


def nothing_is_known(region: Any) -> bool:
    """Of its readers and its producer."""
    return getattr(region, "walk", None) is None and not getattr(region, "adjustable", False)


def test_all_can_be_refused_unseen() -> None:
    model, _ = zoo.build("residual")
    regions = find_regions(Graph(model), infer_shapes(model), "already_translated")
    assert len(regions) == 4
    for r in regions:
        assert r.refusal is not None and r.refusal.code == "already_translated"
        assert r.quantizer is not None and nothing_is_known(r)


def test_a_readable_region_is_whole() -> None:
    _, regions = graph_and_regions(zoo.build("conv_relu_conv")[0])
    r = regions["relu1"]
    assert r.refusal is None and r.walk is not None and isinstance(r.early, Early)
    assert r.quantizer is not None and r.quantizer.rectifies
    assert (r.activation.kind, r.activation.source) == ("ReLU", "conv1")
    assert r.bounds == (0, np.inf) and not r.folded and r.ceiling == np.inf and r.adjustable


def test_functions_that_dip_below_zero_have_a_lower_bound() -> None:
    _, regions = graph_and_regions(zoo.build("matmul_gelu")[0])
    low, high = regions["mul2"].bounds
    assert -0.25 < low < -0.17 and high == np.inf


@pytest.mark.parametrize(("x_clip", "folded"), [(6.0, True), (5.995, True), (5.9, False), (6.1, False), (3.0, False)])
def test_a_relu6_that_was_folded_is_noticed(x_clip: float, folded: bool) -> None:
    """No activation node in front, zero_point == qmin, and the largest X_clip of the model is 6."""
    n, x = image(Style())
    c = n.conv(x)
    _, regions = graph_and_regions(n.model(n.conv(n.qdq(c, scale=x_clip / 255))))
    r = regions[c]
    assert r.folded is folded and r.ceiling == (6 if folded else np.inf)
    assert (r.refusal is not None and r.refusal.code == "folded_bound") is folded


def test_an_explicit_relu_is_not_folded() -> None:
    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    _, regions = graph_and_regions(n.model(n.conv(n.qdq(r, scale=6 / 255))))
    assert not regions[r].folded and regions[r].refusal is None


@pytest.mark.parametrize(("top", "refused"), [(1.27, True), (1.2, False)])
def test_values_that_barely_leave_the_range_are_not_worth_a_copy(top: float, refused: bool) -> None:
    n, x = image(Style())
    t = n.clip(n.conv(x), 0, 1.27)
    _, regions = graph_and_regions(n.model(n.conv(n.qdq(t, scale=top / 255))))
    why = regions[t].refusal
    assert (why is not None and why.code == "never_clipped") is refused


def test_what_cannot_be_read_has_no_walk() -> None:
    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    model = n.model(n.conv(n.qdq(r, scale=0.0)))
    _, regions = graph_and_regions(model)
    why = regions[r].refusal
    assert why is not None and why.code == "bad_scale" and why.node == "relu1_q/QuantizeLinear"
    assert regions[r].quantizer is None and nothing_is_known(regions[r])


def test_no_layer_reads_it_but_its_step_may_change() -> None:
    def tail(n: Net, a: str) -> str:
        return n.op("Neg", a)

    n, x = image(Style())
    r = n.op("Relu", n.conv(x))
    _, regions = graph_and_regions(n.model(tail(n, n.qdq(r))))
    why = regions[r].refusal
    assert why is not None and why.code == "fold_only" and "Neg neg1/Neg" in why.message
    assert regions[r].adjustable
