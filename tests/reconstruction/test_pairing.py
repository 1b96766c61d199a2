"""What layers aim at: found by weights, by values, or in the model itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from regions_of import graph_and_regions
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.probes.reference import reference
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.pairing import Pair, Reference, pair_layers
from onnx_ocs.regions.find import find_regions

RNG = np.random.default_rng(0)
W1, W2, W3 = (RNG.standard_normal((6, 6)).astype(np.float32) for _ in range(3))
B1, B2, B3 = (RNG.standard_normal(6).astype(np.float32) for _ in range(3))
FEEDS = [{"x": RNG.standard_normal((8, 6)).astype(np.float32)} for _ in range(2)]


def chain(layers: list[tuple[np.ndarray, np.ndarray]], prefix: str, levels: int | None = None) -> onnx.ModelProto:
    """Gemm and Relu, in turn; with quantized weights, where there are levels."""
    nodes, constants, x = [], {}, "x"
    for k, (w, b) in enumerate(layers):
        name = f"{prefix}w{k}"
        if levels is not None:
            s = np.float32(np.abs(w).max() / levels)
            constants |= {name + "q": np.rint(w / s).astype(np.int8), name + "s": s, name + "z": np.int8(0)}
            nodes.append(helper.make_node("DequantizeLinear", [name + "q", name + "s", name + "z"], [name]))
        else:
            constants[name] = w
        constants[f"{prefix}b{k}"] = b
        nodes.append(helper.make_node("Gemm", [x, name, f"{prefix}b{k}"], [f"{prefix}y{k}"]))
        nodes.append(helper.make_node("Relu", [f"{prefix}y{k}"], [f"{prefix}r{k}"]))
        x = f"{prefix}r{k}"
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layers_of(model: onnx.ModelProto) -> tuple[Graph, list[LinearMap]]:
    graph = Graph(model)
    return graph, [f for f in find_maps(graph) if isinstance(f, LinearMap)]


def paired(model: onnx.ModelProto, floats: Any, exact: Any = None, feeds: Any = FEEDS) -> list[Pair | None]:
    return pair_layers(*layers_of(model), floats, exact, feeds)


@pytest.mark.parametrize("levels", [3, 7, 127])
def test_layers_are_found_by_their_weights(levels: int) -> None:
    """Whatever the names, at three bits too; the float weights are what is aimed at."""
    layers = [(W1, B1), (W2, B2), (W3, B3)]
    found = paired(chain(layers, "q", levels), chain(layers, "float"))
    for k, (pair, w) in enumerate(zip(found, (W1, W2, W3), strict=True)):
        assert pair is not None and pair.floats and pair.tensor == f"floaty{k}" and pair.other is None
        assert pair.prior is not None and np.array_equal(pair.prior[0], w.T.astype(np.float64))


def test_what_is_not_there_is_not_found() -> None:
    found = paired(chain([(W1, B1), (W2, B2)], "q", 127), chain([(W2, B2), (W3, B3)], "float"))
    assert found[0] is None and found[1] is not None and found[1].tensor == "floaty0"


def test_equal_layers_are_taken_in_order() -> None:
    found = paired(chain([(W1, B1), (W1, B2)], "q", 127), chain([(W1, B1), (W1, B2)], "float"))
    assert [p.tensor for p in found if p] == ["floaty0", "floaty1"]


def test_folded_rows_are_found_behind_what_was_folded() -> None:
    """A scale per channel stands in a Mul of the float model, and in the weights of the quantized one."""
    scale = np.asarray([0.2, 5, 0.3, 4, 1, 2], np.float32)
    floats = chain([(W1, np.zeros(6, np.float32))], "float")
    g = floats.graph
    g.initializer.append(numpy_helper.from_array(scale, "factor"))
    g.node.insert(1, helper.make_node("Mul", ["floaty0", "factor"], ["scaled"]))
    g.node[2].input[0] = "scaled"
    model = chain([(W1 * scale, np.zeros(6, np.float32))], "q", 127)
    (found,) = paired(model, floats, model)
    assert found is not None and found.floats and found.tensor == "scaled" and found.prior is not None
    np.testing.assert_allclose(found.prior[0], (W1 * scale).T, rtol=0.02)


def test_the_model_itself_stands_in() -> None:
    """Without a float model: the file without its activation quantizers; a sum's other side is known."""
    model, _ = build("residual")
    graph, layers = layers_of(model)
    exact = reference(model, find_regions(Graph(model), infer_shapes(model)))
    found = pair_layers(graph, layers, None, exact, [])
    assert [p.tensor for p in found if p] == [x.y for x in layers] and not any(p.floats for p in found if p)
    others = [p.other for p in found if p]
    assert others[0] is None and others[1] is not None and graph_and_regions(model)[1]
    assert pair_layers(graph, layers, None, None, []) == [None] * len(layers)


def test_copies_aim_at_their_originals() -> None:
    """A reader's columns are spread over its copies; a producer's rows are the narrow ones."""
    model, feed = build("conv_relu_conv")
    wide, _ = run_passes(model, [Translate(ratio=1.0)], Context())
    exact = reference(model, find_regions(Graph(model), infer_shapes(model)))
    graph, layers = layers_of(wide)
    first, second = pair_layers(graph, layers, exact, None, [feed])
    assert first is not None and first.tensor == "conv1" and second is not None and second.tensor == "conv2"
    narrow = np.asarray(layers[1].weight.value[:, :8], np.float64)
    assert second.prior is not None and layers[1].weight.value.shape == (8, 16, 3, 3)
    columns = np.concatenate([narrow] * 2, 1).reshape(8, 16, 9).swapaxes(1, 2)
    np.testing.assert_allclose(second.prior[0], columns.reshape(8, -1))


def test_both_models_are_asked() -> None:
    layers = [(W1, B1), (W2, B2)]
    floats, exact = chain(layers, "float"), chain(layers, "q", 127)
    asked = Reference(floats, exact)
    asked.prepare(["floaty0", "x"], ["qy1"])
    got = asked.run(FEEDS[0])
    assert got.keys() == {(True, "floaty0"), (True, "x"), (False, "qy1")}
    np.testing.assert_allclose(got[True, "floaty0"], FEEDS[0]["x"] @ W1 + B1, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.maximum(got[False, "qy1"], 0), execute(exact, FEEDS[0])[0])
    assert got[True, "x"] is FEEDS[0]["x"]
