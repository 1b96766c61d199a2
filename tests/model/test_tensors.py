"""Tensors: where their values are, how many bytes they have, what is taken of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.model import tensors
from onnx_ocs.model.external import attach
from onnx_ocs.model.tensors import values


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32])
@pytest.mark.parametrize("count", [1, 16, 40])
def test_values_outside_raw_data(kind: int, count: int) -> None:
    t = helper.make_tensor("t", kind, [1, count], [k % 7 for k in range(count)])
    assert not t.HasField("raw_data")
    found, expected = values(t), numpy_helper.to_array(t)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_a_tensor_of_too_many_axes_is_said() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("residual")[0])  # which other tests see as well
    model.graph.initializer[0].dims.extend([1] * 40)
    with pytest.raises(UserError, match=r"has 4\d axes: export the model again"):
        api.rewrite(model)


def test_taking_twice_and_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 99, (7, 5, 3)).astype(np.int16)
    (tmp_path / "w.bin").write_bytes(b"?" * 100 + whole.tobytes())
    t = onnx.TensorProto(name="w", data_type=onnx.TensorProto.INT16, dims=whole.shape)
    tensors.refer(t, {"location": "w.bin", "offset": "100"})
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [t]))
    attach(model, tmp_path)
    monkeypatch.setattr(tensors, "BLOCK", 64)
    t, expected = model.graph.initializer[0], whole
    for axis, positions in ((1, [4, 0, 0]), (0, [6, 6, 1, 2]), (1, [2, 1]), (2, [0, 2, 1, 1])):
        t = tensors.take(t, axis, np.asarray(positions))
        assert t is not None
        expected = np.take(expected, positions, axis)
        assert np.array_equal(tensors.values(t), expected)
        assert b"".join(bytes(b) for b in tensors.blocks(t)) == expected.tobytes()
