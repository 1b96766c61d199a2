"""A model run piece by piece: as the whole, with what is alive at a cut kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo

from onnx_ocs.compensation.relay import Relay, save
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.runtime.instrument import expose

Array = np.ndarray[Any, Any]


def batches(model: str) -> list[dict[str, Array]]:
    _, feed = zoo.build(model)
    return [{k: v[i : i + 1] * (i + 1) for k, v in feed.items()} for i in range(3)]


def at(graph: Graph, tensor: str) -> int:
    """How many nodes there are up to the one that writes a tensor."""
    return 1 + next(k for k, n in enumerate(graph.nodes) if tensor in n.output)


def whole(model: str, tensors: list[str]) -> list[list[Array]]:
    """By sample, the tensors in the model itself; pieces are optimized, so their sums may be ordered otherwise."""
    built, _ = zoo.build(model)
    return [zoo.execute(expose(built, tensors), b)[-len(tensors) :] for b in batches(model)]


def test_pieces_give_what_the_whole_gives(tmp_path: Path) -> None:
    model, _ = zoo.build("residual")
    graph = Graph(model)
    relay = Relay(batches("residual"), tmp_path)
    assert relay.batches == 3
    first, second = at(graph, "relu1_dq"), at(graph, "relu2_dq")
    constants = [n for n in graph.nodes[:first] if graph.is_constant(n.output[0])]
    for part, keep in (
        (graph.nodes[:first], ["relu1_dq"]),
        ([*constants, *graph.nodes[first:second]], ["relu2_dq", "relu1_dq"]),
    ):
        want = whole("residual", keep)
        for (k, state), expected in zip(relay.run(graph, part, keep), want, strict=True):
            assert list(state) == keep
            for name, e in zip(keep, expected, strict=True):
                np.testing.assert_allclose(state[name], e, atol=1e-5, err_msg=f"{k} {name}")
    assert len(list(tmp_path.iterdir())) == 3  # one file a batch, however many pieces


def test_peeking_changes_nothing(tmp_path: Path) -> None:
    model, _ = zoo.build("conv_relu_conv")
    graph = Graph(model)
    relay = Relay(batches("conv_relu_conv"), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    seen = dict(relay.peek(graph, graph.nodes, ["conv2"], [0, 2]))
    assert seen.keys() == {0, 2}
    want = whole("conv_relu_conv", ["conv2"])
    for k, value in seen.items():
        np.testing.assert_allclose(value["conv2"], want[k][0], atol=1e-5)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_is_known_already_is_handed_on(tmp_path: Path) -> None:
    model, _ = zoo.build("conv_relu_conv")
    feeds = batches("conv_relu_conv")
    relay = Relay(feeds, tmp_path)
    for (_, state), feed in zip(relay.run(Graph(model), [], ["x"]), feeds, strict=True):
        np.testing.assert_array_equal(state["x"], feed["x"])
    for (_, value), feed in zip(relay.peek(Graph(model), [], ["x"], range(3)), feeds, strict=True):
        np.testing.assert_array_equal(value["x"], feed["x"])


def test_a_tensor_that_was_renamed_is_found(tmp_path: Path) -> None:
    model, _ = zoo.build("conv_relu_conv")
    feeds = batches("conv_relu_conv")
    relay = Relay(feeds, tmp_path)
    relay.rename("x", "x_before")
    states = dict(relay.run(Graph(model), [], ["x_before"]))
    np.testing.assert_array_equal(states[1]["x_before"], feeds[1]["x"])
    again = dict(relay.run(Graph(model), [], ["x_before"]))  # and keeps that name in the files
    np.testing.assert_array_equal(again[2]["x_before"], feeds[2]["x"])


def test_what_does_not_run_is_said(tmp_path: Path) -> None:
    model, _ = zoo.build("conv_relu_conv")
    relay = Relay([{"x": np.zeros((1, 5, 6, 6), np.float32)}], tmp_path)
    with pytest.raises(UserError, match="does not run a piece of the model on these samples"):
        list(relay.run(Graph(model), Graph(model).nodes, ["conv2"]))


def test_arrays_are_saved_plainly(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", {"x": np.arange(3), "y": np.zeros((0, 2), np.float16)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as z:
        assert sorted(z.files) == ["x", "y"] and z["x"].tolist() == [0, 1, 2] and z["y"].shape == (0, 2)
