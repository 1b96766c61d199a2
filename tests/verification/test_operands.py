"""Weights on either side of a MatMul, and behind nodes that give them other axes: fitted, declared and proved."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.records.weights import REFITTED, digest, read_refitted, record_refitted
from onnx_ocs.verification.operands import read_operand, side
from onnx_ocs.verification.verify import verify

Model = onnx.ModelProto
FORMS = ("left", "right", "reshape", "squeeze", "before")


def made(form: str, noise: int = 0) -> Model:
    """One layer with int8 weights; `noise` is what they are damaged by."""
    rng, dirt = np.random.default_rng(0), np.random.default_rng(5)
    stored = {"left": (6, 8), "right": (8, 6), "reshape": (6, 36), "squeeze": (6, 4, 3, 3, 1), "before": (1, 6, 36)}
    w = rng.integers(-100, 101, stored[form]) + dirt.integers(-noise, noise + 1, stored[form])
    constants: dict[str, Any] = {
        "xs": np.float32(0.03), "xz": np.int8(0), "w": np.clip(w, -127, 127).astype(np.int8),
        "s": np.float32(0.01) if form in ("left", "right") else rng.uniform(0.005, 0.02, 6).astype(np.float32),
        "shape": np.asarray([4] if form == "squeeze" else [6, 4, 3, 3]), "whole": np.asarray([6, 36]),
    }  # fmt: skip
    q = [helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"])]
    q += [helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"])]
    root = "w"
    if form == "before":  # between the constant and its DequantizeLinear, too
        q += [helper.make_node("Reshape", ["w", "whole"], ["w2"])]
        root = "w2"
    image = form in ("reshape", "squeeze", "before")
    q += [helper.make_node("DequantizeLinear", [root, "s"], ["wd"], **({"axis": 0} if image else {}))]
    if image:
        q += [helper.make_node("Squeeze" if form == "squeeze" else "Reshape", ["wd", "shape"], ["wr"])]
        q += [helper.make_node("Conv", ["xd", "wr"], ["y"])]
    else:
        q += [helper.make_node("MatMul", ["wd", "xd"] if form == "left" else ["xd", "wd"], ["y"])]
    x = ["N", 4, 5, 5] if image else ["N", 8, 5] if form == "left" else ["N", 5, 8]
    y = ["N", 6, 3, 3] if image else ["N", 6, 5] if form == "left" else ["N", 5, 6]
    inputs, outputs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y)))
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(q, "g", [inputs], [outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layer(model: Model) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.output[0] == "y")


@cache
def both(form: str) -> tuple[Model, Model, Any]:
    floats, model = made(form), made(form, 9)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(1).standard_normal((32, *shape)).astype(np.float32)
    result = rewrite(model, calib={"x": x}, float_model=floats, passes=[Reconstruct()])
    return model, result.model, result


@pytest.mark.parametrize("form", FORMS)
def test_the_constant_operand(form: str) -> None:
    model = made(form)
    graph = Graph(model)
    assert side(graph, layer(model)) == (0 if form == "left" else 1)
    found = read_operand(graph, layer(model))
    assert found is not None and found.root == "w" and np.array_equal(found.grid.scale, graph.constant("s"))


def test_no_constant_operand() -> None:
    model = made("right")
    layer(model).input[1] = "xd"
    assert read_operand(Graph(model), layer(model)) is None
    model = made("right")
    layer(model).input[1] = "w"  # a constant, but no grid
    assert read_operand(Graph(model), layer(model)) is None


@pytest.mark.parametrize("form", FORMS)
def test_it_is_fitted_and_proved(form: str) -> None:
    """The undamaged integers come back, wherever they are stored."""
    _, new, result = both(form)
    assert result.verification is not None and result.verification.verdict == "PASSED"
    (entry,) = result.report["reconstructions"]
    assert entry["status"] == "applied" and entry["error_after_db"] > entry["error_before_db"] + 10
    stored = {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}["w"]
    good = {t.name: numpy_helper.to_array(t) for t in made(form).graph.initializer}["w"]
    assert stored.shape == good.shape and np.mean(stored == good) > 0.9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", ["nothing declared", "another range", "other integers"])
def test_a_broken_rewriter_is_found_out(form: str, wrong: str) -> None:
    model, fine, _ = both(form)
    new = Model()
    new.CopyFrom(fine)
    node = layer(new)
    refitted = read_refitted(new)["y"]
    if wrong == "nothing declared":
        for p in [p for p in node.metadata_props if p.key == REFITTED]:
            node.metadata_props.remove(p)
    elif wrong == "another range":
        record_refitted(node, replace(refitted, low=-50, high=50))
    else:
        t = next(t for t in new.graph.initializer if t.name == "w")
        value = numpy_helper.to_array(t).copy()
        value.flat[0] ^= 1
        t.CopyFrom(numpy_helper.from_array(value, "w"))
        assert digest(value) != refitted.weight.digest
    assert verify(model, new, random_samples(model, 2, 0)).verdict == "FAILED"
