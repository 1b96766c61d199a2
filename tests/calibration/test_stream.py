"""Float activations, streamed: those of the model without activation quantizers, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from zoo import Net, Style

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.calibration.stream import BATCH, Activations, stream
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.runtime.threads import TOGETHER

Array = np.ndarray[Any, Any]


def two_layers() -> tuple[onnx.ModelProto, list[Region], Net]:
    """Weights in float, so that the float network is the same without Q and DQ."""
    n = Net(Style(weight="float"), x=zoo.IMAGE)
    n.conv(n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid")))))
    model = n.model("conv2")
    return model, find_regions(Graph(model), infer_shapes(model)), n


def floats(n: Net, x: Array) -> Array:
    """relu1 of the float network, computed by onnxruntime from the nodes alone."""
    m = Net(n.style, x=zoo.IMAGE)
    m.initializers = {k: v for k, v in n.initializers.items() if k.startswith("conv1")}
    first = next(node for node in n.nodes if node.op_type == "Conv")
    m.op("Relu", m.op("Conv", "x", *first.input[1:], kernel_shape=[3, 3], pads=[1] * 4), out="y")
    return zoo.execute(m.model("y"), {"x": x})[0]


def test_no_quantizer_upstream_clips() -> None:
    model, regions, n = two_layers()
    x = np.random.default_rng(1).standard_normal((5, *zoo.IMAGE)).astype(np.float32) * 3
    got = Activations(model, regions, regions[1:])({"x": x})
    assert got.keys() == {"x", "relu1"}
    np.testing.assert_allclose(got["relu1"], floats(n, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got["x"], x)


def test_batches_come_in_turn_with_what_is_asked_for() -> None:
    model, regions, n = two_layers()
    x = np.random.default_rng(2).standard_normal((2 * BATCH + 3, *zoo.IMAGE)).astype(np.float32)
    said: list[tuple[str, int, int | None]] = []
    context = Context(open_samples({"x": x}, model), progress=lambda *args: said.append(args))
    found = list(stream(model, regions, regions[1:], context))
    parts = [p for _, _, p in found]
    assert [len(p["relu1"]) for p in parts] == [TOGETHER] * 8 + [3], "few at a time"
    assert [(turn, first) for turn, first, _ in found] == [(t, f) for t in (0, 1) for f in (0, 2, 4, 6)] + [(2, 0)]
    np.testing.assert_array_equal(np.concatenate([p["x"] for p in parts]), x)
    np.testing.assert_allclose(np.concatenate([p["relu1"] for p in parts]), floats(n, x), rtol=1e-5, atol=1e-5)
    total = 2 * BATCH + 3
    assert said == [("calibrating", k, total) for k in (0, BATCH, 2 * BATCH, total)]


def test_no_more_samples_than_allowed() -> None:
    model, regions, n = two_layers()
    context = Context(open_samples(n.feed, model), limit=2)
    assert [len(p["relu1"]) for _, _, p in stream(model, regions, regions, context)] == [2]


def test_nothing_runs_where_nothing_is_asked() -> None:
    model, regions, _ = two_layers()

    def feeds(*_: int) -> Iterator[Any]:
        raise AssertionError("the samples were read")

    assert list(stream(model, regions, [], Context(Samples("unread", feeds)))) == []
    assert list(stream(model, regions, regions, Context())) == []


def test_samples_that_do_not_fit_are_said() -> None:
    model, regions, _ = two_layers()
    activations = Activations(model, regions, regions[1:])
    with pytest.raises(UserError, match="does not run the model on the calibration samples"):
        activations({"x": np.zeros((1, 5, 6, 6), np.float32)})


def test_a_folded_bound_is_kept() -> None:
    model, regions, _ = two_layers()
    bounded = [regions[0], replace(regions[1], folded=True)]
    x = np.full((1, *zoo.IMAGE), 100, np.float32)
    assert Activations(model, regions, regions[1:])({"x": x})["relu1"].max() > 6
    got = Activations(model, bounded, bounded[1:])({"x": x})
    assert got["relu1"].max() > 6  # the tensor itself is in front of the bound


@pytest.mark.parametrize(
    ("feed", "count"),
    [({"a": np.zeros(()), "b": np.zeros((4, 2))}, 4), ({"a": np.zeros(())}, 1), ({}, 1), ({"a": np.zeros((0, 3))}, 0)],
)
def test_samples_of_a_feed(feed: dict[str, Array], count: int) -> None:
    assert samples_in(feed) == count
