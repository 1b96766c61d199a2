"""Targets from the float model: found by values under other names, asked only where quantized weights matter."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from feeds import inputs
from onnx import numpy_helper
from topologies import resnet
from zoo import Style

from onnx_ocs import api
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.compensation.blocks import find_blocks
from onnx_ocs.compensation.ground_truth import Truth, find_truth
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions

QUIET = 0.2  # so that hardly anything is clipped
FEED = {"x": QUIET * np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def network() -> onnx.ModelProto:
    return resnet(Style()).model("gemm1")


def quiet(model: onnx.ModelProto, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {k: QUIET * v for k, v in inputs(model, count, seed).items()}


def stand_in(model: onnx.ModelProto) -> onnx.ModelProto:
    return reference(model, find_regions(Graph(model), infer_shapes(model)))


def floats_of(model: onnx.ModelProto, noise: float, seed: int = 0) -> onnx.ModelProto:
    """A float model of other weights (by channel) and other names, as if the file's had been rounded a lot."""
    new = stand_in(model)
    EditableGraph(new).commit()  # sorted
    rng = np.random.default_rng(seed)
    values = {t.name: t for t in new.graph.initializer}
    for n in new.graph.node:
        if n.op_type == "DequantizeLinear" and n.input[0] in values and n.input[1] in values:
            scale = numpy_helper.to_array(values[n.input[1]])
            if scale.size > 1:
                scale = (scale * (1 + noise * rng.standard_normal(scale.shape))).astype(np.float32)
                values[n.input[1]].CopyFrom(numpy_helper.from_array(scale, n.input[1]))
    kept = {i.name for i in new.graph.input} | set(values)
    for n in new.graph.node:
        n.name = ""
        for names in (n.input, n.output):
            names[:] = [t if not t or t in kept else "float/" + t[::-1] for t in names]
    for o in new.graph.output:
        o.name = "float/" + o.name[::-1]
    del new.graph.value_info[:]
    onnx.checker.check_model(new)
    return new


def found(model: onnx.ModelProto, floats: onnx.ModelProto | None) -> tuple[list[str], Truth]:
    shapes = infer_shapes(model, {"x": [1, 3, 8, 8]})
    graph = Graph(model)
    tensors = [b.output for b in find_blocks(graph, find_regions(graph, infer_shapes(model)), shapes)]
    feeds = open_samples(quiet(model, 8), model).batches(1, None)
    return tensors, find_truth(model, stand_in(model), floats, tensors, feeds)


def test_tensors_are_found_under_other_names() -> None:
    model = network()
    floats = floats_of(model, 0.1)
    tensors, truth = found(model, floats)
    assert truth.matched == {t: "float/" + t[::-1] for t in tensors} and len(tensors) > 2
    assert truth.model is floats
    got = truth.run(FEED, tensors)
    names = [truth.matched[t] for t in tensors]
    asked = copy.deepcopy(floats)
    asked.graph.output.extend(
        onnx.ValueInfoProto(name=t) for t in names if t not in {o.name for o in floats.graph.output}
    )
    for t, value in Truth(asked, names, None, {}).run(FEED, names).items():
        np.testing.assert_array_equal(got[tensors[names.index(t)]], value)


def test_the_same_weights_change_nothing() -> None:
    model = network()
    _, truth = found(model, floats_of(model, 1e-4))
    assert truth.matched == {} and truth.model is not None
    tensors, plain = found(model, None)
    for t, value in plain.run(FEED, tensors).items():
        np.testing.assert_array_equal(truth.run(FEED, tensors)[t], value)


def test_a_stranger_gives_no_targets() -> None:
    """Another network of the same shapes: its output is what the output is compared with, as the user says; no more."""
    model = network()
    other = floats_of(model, 3.0, seed=1)
    tensors, truth = found(model, other)
    assert set(truth.matched) <= {tensors[-1], model.graph.output[0].name}
    assert truth.run(FEED, tensors).keys() == set(tensors)


@pytest.mark.parametrize("what", ["input", "output"])
def test_a_float_model_of_another_kind(what: str) -> None:
    model = network()
    floats = floats_of(model, 0.1)
    if what == "input":
        for n in floats.graph.node:
            n.input[:] = ["pixels" if t == "x" else t for t in n.input]
        floats.graph.input[0].name = "pixels"
    else:
        old = floats.graph.output[0].name
        floats.graph.node.append(onnx.helper.make_node("Concat", [old, old], ["twice"], axis=1))
        floats.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("twice", onnx.TensorProto.FLOAT, None))
    assert found(model, floats)[1].matched == {}


def test_branches_mend_weights_too() -> None:
    """8-bit activations, weights that are off: only with the float model at hand is there something to fit."""
    model = network()
    floats = floats_of(model, 0.1)
    samples, others = quiet(model, 128), open_samples(quiet(model, 64, seed=1), model)
    results = [
        api.rewrite(model, calib=samples, float_model=floats, passes=[Compensate(budget=1.0)]),
        api.rewrite(model, calib=samples, passes=[Compensate(budget=1.0)]),
    ]
    with_floats, without = compare(floats, [r.model for r in results], others)
    (before,) = compare(floats, [model], others)
    assert with_floats.sqnr_db is not None and without.sqnr_db is not None and before.sqnr_db is not None
    assert with_floats.sqnr_db > max(without.sqnr_db, before.sqnr_db) + 3
    assert results[0].verification is not None and results[0].verification.verdict == "PASSED"
