"""The record of re-fitted layers: what is written is read back, and digests tell values, dtypes and shapes apart."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_ocs.records.weights import REFITTED, Refit, Refitted, digest, read_refitted, record_refitted


def _model() -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    return helper.make_model(helper.make_graph([node], "g", [], []))


def test_what_is_recorded_is_read_back() -> None:
    model = _model()
    entry = Refitted(Refit("w", "w", "00"), None, Refit("b", None, "11"), Refit("s", "s0", "22"), -7, 7)
    record_refitted(model.graph.node[0], Refitted(Refit("w", "w", "99"), None, None, None, -1, 1))
    record_refitted(model.graph.node[0], entry)
    assert read_refitted(model) == {"y": entry}
    assert len(model.graph.node[0].metadata_props) == 1


def test_a_damaged_entry_is_said_so() -> None:
    model = _model()
    model.graph.node[0].metadata_props.add(key=REFITTED, value='{"weight": null}')
    with pytest.raises(ValueError, match="damaged"):
        read_refitted(model)


def test_digests_tell_values_dtypes_and_shapes_apart() -> None:
    a = np.arange(6, dtype=np.int8)
    alike = [a.reshape(2, 3), np.asfortranarray(a.reshape(2, 3)), a.reshape(2, 3)[:, ::-1][:, ::-1]]
    assert len({digest(x) for x in alike}) == 1
    others = [a, a.astype(np.uint8), a.astype(np.int32), a.astype(ml_dtypes.int4), a.reshape(3, 2), -a, a.reshape(2, 3)]
    assert len({digest(x) for x in others}) == len(others)
    assert digest(np.float32(1.5)) == digest(np.asarray(1.5, ">f4"))
