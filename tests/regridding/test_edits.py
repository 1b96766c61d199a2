"""The edits: when they may be made, and what they leave."""

from __future__ import annotations

import detectors
import numpy as np
import onnx
import pytest
import zoo
from regridded_models import moved_zero_point

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized
from onnx_ocs.regridding import edits
from onnx_ocs.regridding.grids import Grid


def regions_of(model: onnx.ModelProto) -> tuple[EditableGraph, dict[str, Quantized]]:
    graph = EditableGraph(model)
    return graph, {r.tensor: r for r in find_regions(graph, infer_shapes(model))}


@pytest.mark.parametrize(
    ("name", "tensor", "code"),
    [
        ("one_output", "concat1", None),
        ("one_output", "sigmoid2", None),
        ("read_by_a_layer", "concat1", None),
        ("rectified", "conv2", "acts"),
        ("rectified", "relu1", "kernel"),  # a layer alone reads it
    ],
)
def test_what_may_be_left_out(name: str, tensor: str, code: str | None) -> None:
    graph, regions = regions_of(detectors.build(name))
    why = edits.check_left_out(graph, regions[tensor])
    assert (None if why is None else why.code) == code


def test_integers_that_leave() -> None:
    net = zoo.Net(x=(3, 8, 8))
    integers = net.q(net.op("Sigmoid", net.conv("x")), "low", 1.0)
    model = net.model((integers, onnx.TensorProto.UINT8), net.op("Identity", net.dq(integers), out="y"))
    graph, regions = regions_of(model)
    found = [edits.check_left_out(graph, regions["sigmoid1"]), edits.check_grid(graph, regions["sigmoid1"], Grid(1, 3))]
    assert [isinstance(f, Refusal) and f.code for f in found] == ["integers_leave", "integers_leave"]


def test_left_out_for_floats_alone() -> None:
    model = detectors.build("read_by_a_layer")
    graph, regions = regions_of(model)
    (edit,) = edits.leave_out(graph, regions["concat1"])
    graph.commit()
    after = Graph(model)
    assert (edit.dequantized, edit.identity) == ("concat1_dq", None)
    assert [n.op_type for n in after.readers("concat1_dq")] == ["Conv"]
    assert {n.op_type for n in after.readers("concat1")} == {"Identity", "QuantizeLinear"}


@pytest.mark.parametrize("level", ["disable_all", "enable_all"])
def test_a_zero_point_alone_changes_rounding_only(level: str) -> None:
    """Biases and padding stay exact: what is not clipped is the same to a step, whatever the zero-point."""
    model, new = moved_zero_point()
    moved = [n for n in new.graph.node if any("_moved" in t for t in n.input)]
    assert len(moved) == 6 and {n.op_type for n in moved} == {"QuantizeLinear", "DequantizeLinear"}
    feed = {"x": np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32).clip(-2, 2)}
    before, after = (zoo.execute(m, feed, level) for m in (model, new))
    for a, b in zip(before, after, strict=True):
        assert 0 < np.abs(a - b).max() <= 0.05 * np.abs(a).max()


def test_a_quantizer_that_acts_as_a_relu_keeps_its_zero_point() -> None:
    graph, regions = regions_of(detectors.build("rectified"))
    why = edits.check_grid(graph, regions["conv2"], Grid(1.0, 5))
    assert why is not None and why.code == "acts"
    assert edits.check_grid(graph, regions["conv2"], Grid(1.0, 0)) is None
    assert edits.check_grid(graph, regions["relu1"], Grid(1.0, 5)) is None
