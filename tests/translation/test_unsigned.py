"""Signed integers of late copies are stored without a sign: the same values, another type."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo
from mistakes import integers_leave
from regions_of import graph_and_regions

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.context import Context
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.records.types import read_unsigned
from onnx_ocs.targets.ort import integer_kernels
from onnx_ocs.translation.unsigned import can_be_unsigned


def rewritten(name: str, mode: str = "late") -> onnx.ModelProto:
    return rewrite(zoo.build(name)[0], passes=[Translate(0.5, 1, mode)]).model


@pytest.mark.parametrize("name", ["int8", "int8_residual"])
def test_the_values_stay(name: str) -> None:
    before, after = Graph(zoo.build(name)[0]), Graph(rewritten(name))
    layouts = read_layouts(after.model)
    assert layouts and read_unsigned(after.model) == layouts.keys()
    for original, (now, _) in layouts.items():
        was, q = (read_quantizer(g, g.producer[t]) for g, t in ((before, original), (after, now)))
        assert isinstance(was, Quantizer) and isinstance(q, Quantizer)
        assert (was.dtype, q.dtype) == (np.dtype(np.int8), np.dtype(np.uint8))
        assert np.array_equal(was.x_clip, q.x_clip) and np.array_equal(was.x_low, q.x_low)
        assert all(n.input[2] == after.producer[now].input[2] for n in after.readers(now))


def test_a_layer_may_keep_its_kernel() -> None:
    """onnxruntime's for x86 takes int8 from a quantizer alone, and uint8 from anywhere."""
    assert integer_kernels(rewritten("int8")) == integer_kernels(rewritten("three_layers")) == 1


def test_only_late_copies_ask_for_it() -> None:
    assert not read_unsigned(rewritten("int8", "early")) and not read_unsigned(rewritten("conv_relu_conv"))


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        (zoo.build("int8")[0], True),
        (integers_leave(zoo.build("int8")[0], "relu1_q"), False),
        (zoo.build("conv_relu_conv")[0], False),
        (zoo.build("clip_open")[0], False),
        (zoo.build("zero_output_dtype")[0], False),
    ],
    ids=["int8", "others read them", "uint8", "a Clip behind", "an attribute names the type"],
)
def test_where_it_can_be(model: onnx.ModelProto, fits: bool) -> None:
    graph, regions = graph_and_regions(model)
    assert can_be_unsigned(graph, regions["relu1"]) == fits


def test_a_target_without_unsigned_activations_keeps_the_sign() -> None:
    model, _ = zoo.build("int8")
    new, _ = run_passes(model, [Translate(0.5, 1, "late", runtime="tensorrt")], Context())
    layouts, graph = read_layouts(new), Graph(new)
    assert layouts and not read_unsigned(new)
    assert all(graph.producer[now].op_type == "QuantizeLinear" for now, _ in layouts.values())
