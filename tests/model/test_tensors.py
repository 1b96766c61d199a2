"""Tensors: where their values are, how many bytes they have, what is taken of them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper
from side_files import aside, holder

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.model import tensors
from onnx_ocs.model.external import attach
from onnx_ocs.model.tensors import (
    all_tensors,
    arrays,
    has_side_files,
    inlined,
    is_alone,
    is_external,
    is_taken,
    pack,
    reference,
    source,
    stored_size,
    take,
    unpack,
    values,
)


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


# ---- how large a tensor is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dims", "expected"),
    [
        (TensorProto.FLOAT, [2, 3], 24),
        (TensorProto.FLOAT16, [5], 10),
        (TensorProto.BFLOAT16, [5], 10),
        (TensorProto.DOUBLE, [], 8),
        (TensorProto.BOOL, [7], 7),
        (TensorProto.INT4, [5], 3),  # two to a byte, the last one alone
        (TensorProto.UINT4, [4], 2),
        (TensorProto.INT64, [0, 9], 0),
        (TensorProto.STRING, [3], 0),
    ],
)
def test_stored_size(kind: int, dims: list[int], expected: int) -> None:
    assert stored_size(TensorProto(data_type=kind, dims=dims)) == expected


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1] * 33), "'t' has 33 axes"),
        (TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2, -1]), r"'t' has the shape \[2, -1\]"),
        (TensorProto(name="t", data_type=99, dims=[2]), "'t' has the unknown type 99"),
    ],
)
def test_sizes_that_cannot_be(tensor: TensorProto, why: str) -> None:
    with pytest.raises(UserError, match=why):
        stored_size(tensor)


def test_every_tensor_of_a_model_is_found() -> None:
    found = sorted(t.name for t in all_tensors(holder()))
    assert found == ["a", "b", "c", "c", "d", "e", "positions"]


# ---- what lies in side files ----------------------------------------------------------------------------------------


def test_what_a_reference_says(tmp_path: Path) -> None:
    t = aside(tmp_path, np.arange(6, dtype=np.float32).reshape(2, 3), TensorProto.FLOAT)
    assert is_external(t) and not is_taken(t) and not is_alone(t)
    assert source(t) == tmp_path / "w.bin"
    assert reference(t)["offset"] == "12"
    taken = take(t, 1, np.asarray([2, 2, 0]))
    assert taken is not None and is_taken(taken) and list(taken.dims) == [2, 3]
    np.testing.assert_array_equal(values(taken), [[2, 2, 0], [5, 5, 3]])
    np.testing.assert_array_equal(values(t), [[0, 1, 2], [3, 4, 5]])


def test_a_model_with_side_files(tmp_path: Path) -> None:
    here = numpy_helper.from_array(np.zeros(3, np.float32), "here")
    there = aside(tmp_path, np.zeros(3, np.float32), TensorProto.FLOAT)
    for stored, wanted in (([here], False), ([here, there], True)):
        assert has_side_files(helper.make_model(helper.make_graph([], "g", [], [], stored))) == wanted


def test_narrow_integers_are_read_but_not_taken(tmp_path: Path) -> None:
    """Two to a byte: no row is whole bytes, so what is taken must be computed."""
    whole = np.asarray([[1, -2, 3], [4, -5, 6]]).astype(ml_dtypes.int4)
    t = aside(tmp_path, whole, TensorProto.INT4)
    np.testing.assert_array_equal(values(t), whole)
    assert take(t, 0, np.asarray([0])) is None
    assert take(numpy_helper.from_array(whole), 0, np.asarray([0])) is None


def test_inlined_brings_the_values_into_the_model(tmp_path: Path) -> None:
    whole = np.arange(24, dtype=np.int16).reshape(4, 6)
    t = take(aside(tmp_path, whole, TensorProto.INT16), 0, np.asarray([3, 1]))
    assert t is not None
    plain = inlined(t)
    assert not is_external(plain) and not plain.external_data
    np.testing.assert_array_equal(numpy_helper.to_array(plain), whole[[3, 1]])
    assert inlined(plain) is plain


@pytest.mark.parametrize("size", [1, 30, 1 << 20])
def test_arrays_come_in_rows(tmp_path: Path, size: int) -> None:
    whole = np.arange(35, dtype=np.float32).reshape(7, 5)
    parts = list(arrays(aside(tmp_path, whole, TensorProto.FLOAT), size))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(parts) == {1: 7, 30: 7, 1 << 20: 1}[size]


def test_packed_integers_come_back() -> None:
    values = np.asarray([0, -1, 5, (1 << 31) - 1])
    text = pack(values)
    assert text.isascii()
    np.testing.assert_array_equal(unpack(text), values)
    assert unpack(pack(values[:0])).size == 0 and unpack(text).dtype == np.int64
