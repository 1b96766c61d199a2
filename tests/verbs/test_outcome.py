"""An outcome is made anew at every step; one that loses has no entry that says "applied"."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.verbs.outcome import Outcome, Prepared, Why, in_part, taken_back

BEFORE, AFTER = Quality(20.0, None, 4), Quality(10.0, None, 4)
LOST = Why("loses", "lost on the calibration data ('y' 20.00 dB -> 10.00 dB)")


def outcome() -> tuple[Prepared, Outcome]:
    ready = Prepared(onnx.ModelProto(), None, Context(), ())
    other = {"tensor": "u", "status": "refused", "reason": {"code": "ratio", "message": "", "node": "n"}}
    return ready, Outcome(
        onnx.ModelProto(), True, ({"tensor": "t", "status": "applied", "copies": [1], "reason": None}, other),
        ({"block": "b", "status": "applied", "reason": None},), ({"layer": "l", "status": "applied", "reason": None},),
        ("a note",), qualities=(BEFORE, AFTER),
    )  # fmt: skip


def test_taken_back() -> None:
    ready, before = outcome()
    after = taken_back(ready, before, LOST)
    assert after.model is ready.original and not after.changed and after.qualities == (BEFORE, BEFORE)
    why = "the rewrite lost on the calibration data ('y' 20.00 dB -> 10.00 dB), so it was not applied"
    assert after.notes == ("a note", why)
    nodes = [e["reason"]["node"] for e in (*after.regions[:1], *after.compensations, *after.reconstructions)]
    assert nodes == ["t", "b", "l"]
    assert after.regions[0]["reason"] == {"code": "loses", "message": why, "node": "t"}
    assert after.regions[0]["copies"] == [1] and after.regions[1] is before.regions[1]
    assert before == outcome()[1] and before.changed, "the first outcome is what it was"


def test_side_files_that_another_run_has_replaced(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(4096, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, [4096])], [helper.make_tensor_value_info("y", 1, [4096])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "out.onnx"
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    staged = onnx.load(path, load_external_data=False)
    done = replace(outcome()[1], model=staged)
    assert done.published(path).graph.node == model.graph.node
    (tmp_path / "out.onnx.data").write_bytes(b"shorter")
    with pytest.raises(UserError, match=r"written and proven, but another run writes there, too: .*out\.onnx\.data"):
        done.published(path)
    assert replace(done, model=model).published(path) is model, "what has no side files is not read again"


def test_frozen() -> None:
    _, found = outcome()
    with pytest.raises(FrozenInstanceError):
        found.changed = False  # type: ignore[misc]
    assert found.noting("more").notes == ("a note", "more") and found.notes == ("a note",)
    assert replace(found, changed=False).notes == found.notes


def test_in_part() -> None:
    """What is applied is told as it is, what was left out with the reason."""
    _, whole = outcome()
    part = replace(whole, regions=(), compensations=(), notes=("another",), qualities=(BEFORE, Quality(21.0, None, 4)))
    found = in_part(whole, part, "the pass 'p'", LOST)
    why = "with the pass 'p' the rewrite lost on the calibration data ('y' 20.00 dB -> 10.00 dB), so that was left out"
    assert found.changed and found.notes == ("another", why) and found.qualities == part.qualities
    assert [e["status"] for e in found.regions] == ["refused", "refused"]
    assert found.regions[0]["reason"]["message"] == why == found.compensations[0]["reason"]["message"]
    assert found.reconstructions == part.reconstructions and found.reconstructions[0]["status"] == "applied"
