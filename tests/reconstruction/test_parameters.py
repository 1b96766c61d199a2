"""A file's parts as torch parameters: at first the file itself, and moved as far as its grids allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from zoo import build

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction.trainable import find_trainable

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.parameters import Parameters, Result  # noqa: E402


def opened(name: str | onnx.ModelProto) -> tuple[Graph, Parameters]:
    graph = EditableGraph(build(name)[0] if isinstance(name, str) else name)
    return graph, Parameters(graph, find_trainable(graph))


@pytest.mark.parametrize("name", ["bias_int32", "weight_fake", "matmul_transpose", "bias_int8", "weight_uint8"])
def test_at_first_they_are_the_file(name: str) -> None:
    graph, p = opened(name)
    with torch.no_grad():
        constants, scales = p.values()
    assert len(p.layers) > 1 and constants.keys() == p.parts.roots
    for root, value in constants.items():
        stored = graph.constant(root)
        assert stored is not None
        near = 0.01 if name == "weight_fake" and value.ndim > 1 else 1e-7  # half a step: floats go onto the grid
        np.testing.assert_allclose(value.numpy(), stored.astype(np.float32), rtol=1e-6, atol=near)
    for out, scale in scales.items():
        stored = graph.constant(graph.producer[out].input[1])
        assert stored is not None
        np.testing.assert_allclose(scale.numpy(), stored.astype(np.float32), rtol=1e-6)
    for held in p.layers:
        result = Result(held)
        assert np.array_equal(result.integers, held.layer.weight.integers) and result.scale is None
        assert result.bias is None or np.allclose(result.bias, held.layer.fixed, atol=1e-5)


def test_kinds_of_parameters() -> None:
    _, p = opened("bias_int32")
    groups = p.groups()
    assert {k: len(v) for k, v in groups.items()} == {"weights": 3, "biases": 3, "scales": 3, "steps": 4}
    assert [id(x) for x in p.all()] == [id(x) for group in groups.values() for x in group]


def test_integers_move_and_stay_in_range() -> None:
    _, p = opened("bias_int32")
    held = p.layers[0]
    before = np.asarray(held.layer.weight.integers)
    with torch.no_grad():
        held.weight += 1.4  # rounds to 1
    assert np.array_equal(Result(held).integers, np.minimum(before + 1, 127))
    with torch.no_grad():
        held.weight += 1000
    assert np.all(Result(held).integers == held.layer.weight.high)


def test_scales_grow_by_their_logarithm_up_to_twice() -> None:
    _, p = opened("bias_int32")
    held: Any = p.layers[0]
    with torch.no_grad():
        held.growth[0], held.growth[1] = np.log(1.5), 9.0
    found = Result(held).scale
    assert found is not None
    ratio = found / held.layer.weight.scale
    np.testing.assert_allclose(ratio, [1.5, 2.0, *[1.0] * 6], rtol=1e-6)


def test_a_bias_follows_the_steps_of_input_and_weight() -> None:
    """Its value stays, its integers' scale is their product."""
    graph, p = opened("bias_int32")
    held: Any = p.layers[1]
    at = p.parts.inputs[held.layer.node.output[0]]
    with torch.no_grad():
        p.steps[at] += np.log(1.2)
        held.growth += np.log(1.1)
        constants, scales = p.values()
    bias = held.layer.bias
    assert bias is not None
    step = scales[bias.scales[-1][0].output[0]].numpy()
    np.testing.assert_allclose(step, bias.scale * 1.32, rtol=1e-5)
    assert np.abs(constants[bias.root].numpy() * step - held.layer.fixed).max() <= 0.51 * step.max()
    assert graph.constant(bias.root) is not None


def test_of_copies_only_the_originals_are_held() -> None:
    model = run_passes(build("bias_int32")[0], [Translate(ratio=1.0)], Context())[0]
    _, p = opened(model)
    held: Any = p.layers[0]
    tie = held.layer.tie
    assert tie is not None and len(held.weight) == 8 and held.layer.weight.chain.shape[0] == 16
    with torch.no_grad():
        held.weight[3] -= 2
    result = Result(held)
    follows = tie.base[tie.origin]
    assert np.array_equal(result.integers, result.integers[follows])
    assert np.any(result.integers != held.layer.weight.integers)
    assert result.bias is not None
    np.testing.assert_allclose(result.bias[follows] - result.bias, tie.shift, atol=1e-6)
