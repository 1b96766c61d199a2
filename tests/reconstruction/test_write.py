"""New values on a layer's constants: what the file then says is what was wanted, as near as its grid allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.solve import Solution, problem
from onnx_ocs.reconstruction.write import Values, on_grid, scale_free, values, write
from onnx_ocs.records.weights import read_refitted

RNG = np.random.default_rng(0)


def opened(model: onnx.ModelProto, which: int = 0) -> tuple[EditableGraph, LinearMap]:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    layer = [f for f in find_maps(graph) if isinstance(f, LinearMap)][which]
    return graph, layer


def wanted(layer: LinearMap, graph: EditableGraph, factor: float = 1.0, bias: float = 0.1) -> Solution:
    """Other integers, scales and biases."""
    p = problem(layer, None, scale_free(layer, graph))
    assert p is not None
    q = RNG.integers(p.low, p.high + 1, p.now.shape).astype(np.float64)
    f = np.full(p.scales, factor)
    b = layer.fixed[layer.rows] + bias * RNG.standard_normal(layer.rows.shape) * layer.free
    return Solution(q, f, p.weight(q, f), b, 1.0)


def again(
    model: onnx.ModelProto, which: int, *, factor: float = 1.0
) -> tuple[LinearMap, Solution, LinearMap, onnx.ModelProto]:
    """A layer with new values, read back."""
    graph, layer = opened(model, which)
    p = problem(layer, None, scale_free(layer, graph))
    assert p is not None
    s = wanted(layer, graph, factor if p.owner is not None else 1.0)
    new = values(layer, p, s, graph)
    assert isinstance(new, Values)
    write(graph, layer, new)
    graph.commit()
    return layer, s, opened(graph.model, which)[1], graph.model


NAMES = (
    "conv_relu_conv", "conv_transpose", "gemm_transposed", "gemm_alpha_beta", "matmul_transpose", "depthwise",
    "bias_int32", "bias_int8", "weight_fake", "weight_clip", "weight_uint8", "weight_int4", "per_tensor",
)  # fmt: skip


@pytest.mark.parametrize("factor", [1.0, 1.25])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_wanted_is_what_is_read(name: str, factor: float) -> None:
    layer, s, now, model = again(build(name)[0], 1, factor=factor)
    np.testing.assert_allclose(now.matrix(now.weight.value) * now.factor, s.weight, rtol=1e-5, atol=1e-6)
    step = 1e-5 if now.bias is None or now.bias.kind == "plain" else now.bias.scale.max() * 2
    assert np.abs(now.fixed[now.rows] - s.bias).max() <= step
    entry = read_refitted(model)[layer.node.output[0]]
    assert entry.weight.name == layer.weight.root and (entry.low, entry.high) == (layer.weight.low, layer.weight.high)
    assert (entry.weight_scale is None) == (factor == 1.0)
    onnx.checker.check_model(model, full_check=True)


def test_a_missing_bias_is_added_in_integers() -> None:
    """In front of an integer kernel: int32, at the scale of the products."""
    model, feed = build("bias_none")
    layer, s, now, new = again(model, 1)
    assert layer.bias is None and now.bias is not None and now.bias.kind == "integers"
    assert np.abs(now.fixed - s.bias[0]).max() <= now.bias.scale.max() * 0.51
    entry = read_refitted(new)[layer.node.output[0]]
    assert entry.bias is not None and entry.bias.before is None and entry.bias_scale is not None
    assert execute(new, feed)[0].shape == execute(model, feed)[0].shape


def test_copies_rows_follow() -> None:
    """The same integers, and biases that are less by a whole number of X_clip."""
    for name in ("bias_int32", "conv_relu_conv"):
        model = run_passes(build(name)[0], [Translate(ratio=1.0)], Context())[0]
        _, _, now, _ = again(model, 0)
        assert now.tie is not None
        follows = now.tie.base[now.tie.origin]
        assert np.array_equal(now.weight.value, now.weight.value[follows])
        step = 1e-5 if now.bias is None or now.bias.kind == "plain" else now.bias.scale.max()
        np.testing.assert_allclose(now.fixed[follows] - now.fixed, now.tie.shift, atol=step)
        assert now.tie.shift.max() > 100 * step


def test_a_bias_that_does_not_fit_is_refused() -> None:
    graph, layer = opened(build("bias_int32")[0], 1)
    p = problem(layer, None, True)
    assert p is not None
    s = replace(wanted(layer, graph), bias=np.full((1, 8), 1e9))
    assert values(layer, p, s, graph) == "the bias does not fit its integers"


def test_a_small_integer_bias_gets_a_coarser_scale() -> None:
    """Of int8 with a scale of its own: by powers of two, until it fits."""
    graph, layer = opened(build("bias_int8")[0], 1)
    p = problem(layer, None, True)
    assert p is not None and layer.bias is not None
    target = 3.3 * np.abs(layer.fixed).max() * np.linspace(-1, 1, 8)
    new = values(layer, p, replace(wanted(layer, graph), bias=target[None]), graph)
    assert isinstance(new, Values) and new.bias_scale is not None and new.bias is not None
    assert np.allclose(new.bias_scale / layer.bias.scale, 4) and np.abs(new.bias).max() <= 127
    assert np.abs(new.bias * new.bias_scale - target).max() <= new.bias_scale.max() * 0.51


def test_integers_of_training() -> None:
    graph, layer = opened(build("conv_relu_conv")[0], 1)
    assert layer.weight.integers is not None
    target = layer.fixed + 0.5
    new = on_grid(layer, layer.weight.integers, None, target, graph)
    assert isinstance(new, Values) and new.bias is not None and np.allclose(new.bias, target)
    stays = on_grid(layer, layer.weight.integers, None, None, graph)
    assert isinstance(stays, Values) and stays.bias is None


def test_when_scales_are_free() -> None:
    """Where the bias's integers cannot follow they stay; with a float bias or none they may change."""
    for name, free in (("conv_relu_conv", True), ("bias_int32", True), ("bias_none", True), ("bias_int8", True)):
        graph, layer = opened(build(name)[0], 1)
        assert scale_free(layer, graph) == free, name
    graph, layer = opened(build("bias_int32")[0], 1)
    fixed = replace(layer, bias=None, free=False)
    assert not scale_free(fixed, graph)
