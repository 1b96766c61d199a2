"""Rewritten against oracle, cut at every quantized activation: what is the same, and every way to be another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from mutations import copy_of
from onnx import helper, numpy_helper

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.probes.cuts import find_cuts
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.regions.find import find_regions
from onnx_ocs.verification import exact
from onnx_ocs.verification.exact import Inputs, compare_exactly
from onnx_ocs.verification.oracle import WideQuantizer, oracle
from onnx_ocs.verification.verdict import Verification

Model = onnx.ModelProto
CUT = (4 + 8) * 6 * 6  # values of one sample in the two tensors that are cut


@cache
def original() -> Model:
    return zoo.build("conv_relu_conv")[0]


@cache
def translated() -> Model:
    return rewrite(original(), passes=[Translate(0.5, 2, "late")], verify=False).model


def compared(new: Model, wide: bool = False, limit: int = 3) -> Verification:
    """Compare with the original, or with what a translated one must compute."""
    before, after = Graph(original()), Graph(new)
    layouts = read_layouts(translated()) if wide else {}
    found = {r.outputs[0]: r.quantizer for r in find_regions(before, infer_shapes(original()))}
    quantizers: dict[str, WideQuantizer] = {}
    for name, (_, w) in layouts.items():
        q = found[name]
        assert q is not None
        quantizers[name] = WideQuantizer(q, w.axis, *w.copies(), 4)
    truth, names = oracle(original(), quantizers) if wide else (original(), {})
    cuts = find_cuts(before, after, layouts, names)
    limits = {c.original: quantizers[n] for n in quantizers for c in cuts if c.oracle == names[n]}
    result = Verification()
    compare_exactly(result, truth, new, cuts, limits, Inputs(random_samples(original(), 3, 0), limit, 0))
    return result


def stored(model: Model, name: str, change: Callable[[Any], Any]) -> Model:
    new = copy_of(model)
    t = next(t for t in new.graph.initializer if t.name == name)
    value = numpy_helper.to_array(t).copy()
    t.CopyFrom(numpy_helper.from_array(np.asarray(change(value)).astype(value.dtype), name))
    return new


def test_a_model_is_the_same_as_itself() -> None:
    result = compared(original())
    d = result.exact
    assert result.verdict == "PASSED" and not result.notes
    assert (d.mismatches, d.max_steps, d.max_abs, result.active) == (0, 0, 0.0, 0.0)
    assert d.values == (2 + 3 + 1) * CUT and "conv2" in d.outputs  # batches of 2 and 3, and one sample


def test_a_translated_model_is_what_the_oracle_says_on_random_values_too() -> None:
    result = compared(translated(), wide=True)
    assert result.verdict == "PASSED", result.failures
    assert result.exact.values == (6 + 9) * CUT  # nine draws besides
    assert 0 < result.active < 1
    assert any("random states" in o for o in result.exact.outputs)


def test_copies_that_begin_elsewhere() -> None:
    shift = next(t.name for t in translated().graph.initializer if "_shift" in t.name)
    result = compared(stored(translated(), shift, lambda v: v * 1.05), wide=True)
    assert result.verdict == "FAILED" and result.exact.off_tie > 0


WRONG: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a weight": ("conv1_w", lambda w: np.where(np.arange(w.size).reshape(w.shape) == 5, -w, w), "steps"),
    "a bias by two steps": ("conv1_b", lambda b: b + 0.3, "differs from the oracle by"),
    "a bias by a third of a step": ("conv1_b", lambda b: b + 0.3 * float(step()), "no rounding ties"),
    "the output": ("conv2_b", lambda b: b * 1.01, "a graph output differs"),
}


def step() -> Any:
    return next(numpy_helper.to_array(t) for t in original().graph.initializer if t.name == "relu1_scale")


@pytest.mark.parametrize("name", WRONG)
def test_other_values_are_found(name: str) -> None:
    tensor, change, why = WRONG[name]
    result = compared(stored(original(), tensor, change))
    assert result.verdict == "FAILED" and any(why in f for f in result.failures), result.failures


def test_what_shows_in_batches_only() -> None:
    """The output is negated where the batch is above 1."""
    bad = copy_of(original())
    next(n for n in bad.graph.node if "conv2" in n.output).output[0] = "plain"
    bad.graph.initializer.append(numpy_helper.from_array(np.asarray([1], np.int64), "one"))
    bad.graph.node.extend(
        [
            helper.make_node("Shape", ["plain"], ["size"], start=0, end=1),
            helper.make_node("Greater", ["size", "one"], ["more"]),
            helper.make_node("Neg", ["plain"], ["negative"]),
            helper.make_node("Where", ["more", "negative", "plain"], ["conv2"]),
        ]
    )
    result = compared(bad)
    assert result.verdict == "FAILED" and result.exact.relative > 1


def test_an_output_of_another_type() -> None:
    bad = copy_of(original())
    next(n for n in bad.graph.node if "conv2" in n.output).output[0] = "plain"
    bad.graph.node.append(helper.make_node("Cast", ["plain"], ["conv2"], to=onnx.TensorProto.DOUBLE))
    bad.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    result = compared(bad)
    assert "the graph output 'conv2' is float64, not float32" in result.failures


def test_models_that_do_not_load_or_run() -> None:
    bad = copy_of(original())
    bad.graph.node[-1].op_type = "NoSuchOperator"
    result = compared(bad)
    assert result.verdict == "FAILED" and "cut into layers" in result.failures[0]
    bad = copy_of(original())
    bad.graph.node[-1].output[0] = "plain"
    bad.graph.initializer.append(numpy_helper.from_array(np.asarray([3, 5], np.int64), "size"))
    bad.graph.node.append(helper.make_node("Reshape", ["plain", "size"], ["conv2"]))
    del bad.graph.output[0].type.tensor_type.shape.dim[:]
    result = compared(bad)
    assert result.verdict == "FAILED" and "runs the original but not the rewritten" in result.failures[0]


def test_a_large_model_gets_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "SMALL", 0)
    assert compared(translated(), wide=True).exact.values == (6 + 3) * CUT
    monkeypatch.setattr(exact, "LARGE", 0)
    assert compared(translated(), wide=True).exact.values == (2 + 1 + 3) * CUT  # one batch, of 2
