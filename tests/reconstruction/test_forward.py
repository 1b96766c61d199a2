"""A network carried forward by stages delivers what it delivers as a whole, with the constants of the moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import build, execute

from onnx_ocs.errors import UserError
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.reconstruction.forward import Forward
from onnx_ocs.reconstruction.shelf import Shelf
from onnx_ocs.runtime.instrument import expose

STAGES = [["x_dq"], ["relu1_dq"], ["relu2_dq", "relu1_dq"]]
NAMES = ["x_dq", "relu1_dq", "relu2_dq"]


def look(batch: int, got: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return got


def whole(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    got = execute(expose(model, NAMES), feed)
    return dict(zip(NAMES, got[len(model.graph.output) :], strict=True))


@pytest.mark.parametrize("memory", [1 << 20, 0])
def test_stages_deliver_what_the_whole_does(memory: int, tmp_path: Path) -> None:
    """In memory and in files, batches of different sizes; in the end nothing is kept."""
    model, feed = build("residual")
    feeds = [{"x": feed["x"]}, {"x": feed["x"][:1] * 2}]
    shelf = Shelf(tmp_path, memory)
    forward = Forward(EditableGraph(model), STAGES, feeds, shelf)
    assert forward.batches == 2
    for k, asked in enumerate(STAGES):
        for batch, got in forward.run(k, look):
            wanted = whole(model, feeds[batch])
            assert got.keys() >= set(asked)
            for t in asked:
                assert np.array_equal(got[t], wanted[t]), t
    assert not list(tmp_path.iterdir()) and forward.alive == []


def test_later_stages_see_new_constants(tmp_path: Path) -> None:
    """Earlier ones do not run again: only what stands behind the changed layer changes."""
    model, feed = build("residual")
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    graph = EditableGraph(edited)
    forward = Forward(graph, STAGES, [feed], Shelf(tmp_path, 1 << 20))
    list(forward.run(0, look))
    ((_, first),) = forward.run(1, look)
    old = graph.constant("conv2_w")
    assert old is not None
    graph.overwrite("conv2_w", -old)
    ((_, last),) = forward.run(2, look)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    t = next(t for t in changed.graph.initializer if t.name == "conv2_w")
    t.CopyFrom(numpy_helper.from_array(-old, "conv2_w"))
    wanted = whole(changed, feed)
    assert np.array_equal(first["relu1_dq"], wanted["relu1_dq"])
    assert np.array_equal(last["relu2_dq"], wanted["relu2_dq"])
    assert not np.array_equal(last["relu2_dq"], whole(model, feed)["relu2_dq"])


def test_what_is_kept_between_stages_is_integers(tmp_path: Path) -> None:
    """Of a DequantizeLinear's output a quarter of the bytes."""
    model, feed = build("residual")
    shelf = Shelf(tmp_path, 0)
    forward = Forward(EditableGraph(model), STAGES, [feed], shelf)
    for k in range(2):
        list(forward.run(k, look))
    kept = [a for t in forward.alive for a in shelf.get((0, t))]
    assert kept and all(a.dtype == np.uint8 for a in kept) and len(list(tmp_path.iterdir())) == len(kept)


def test_what_does_not_run_is_said_so(tmp_path: Path) -> None:
    model, feed = build("residual")
    forward = Forward(EditableGraph(model), STAGES, [{"x": feed["x"][:, :3]}], Shelf(tmp_path, 1 << 20))
    list(forward.run(0, look))
    with pytest.raises(UserError, match="onnxruntime does not run a piece of the model"):
        list(forward.run(1, look))
