"""Tensors and attributes, byte for byte, wherever the bytes lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.model.tensors import FOLDER, refer
from onnx_ocs.verification import bytewise
from onnx_ocs.verification.bytewise import attributes, equal_arrays, same_tensor

Array = np.ndarray[Any, Any]
VALUE = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)


def external(value: Array, folder: Path, location: str, before: bytes = b"") -> TensorProto:
    """A tensor in a side file, behind other bytes."""
    (folder / location).write_bytes(before + value.tobytes())
    t = TensorProto(name="t", data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
    entries = {"location": location, "offset": str(len(before)), "length": str(value.nbytes), FOLDER: str(folder)}
    refer(t, entries)
    return t


def test_arrays_are_compared_by_type_shape_and_bytes() -> None:
    assert equal_arrays(VALUE, VALUE.copy())
    assert not equal_arrays(VALUE, VALUE.reshape(7, 5))
    assert not equal_arrays(VALUE, VALUE.astype(np.float64))
    assert not equal_arrays(np.arange(3), np.asarray([0, 1, 3]))
    assert not equal_arrays(np.arange(3), np.arange(3, dtype=np.uint64))
    # bytes, not values: a zero's sign counts, and a NaN equals itself
    assert not equal_arrays(np.zeros(1), -np.zeros(1))
    assert equal_arrays(np.full(1, np.nan), np.full(1, np.nan))


def test_attributes_are_bytes_by_name() -> None:
    a = helper.make_node("Conv", ["x"], ["y"], group=2, pads=[1, 1])
    b = helper.make_node("Conv", ["x"], ["y"], pads=[1, 1], group=2)
    assert attributes(a) == attributes(b)
    assert attributes(a).keys() == {"group", "pads"} and attributes(a, ("group",)).keys() == {"pads"}
    c = helper.make_node("Conv", ["x"], ["y"], pads=[1, 1], group=3)
    assert attributes(a) != attributes(c) and attributes(a, ("group",)) == attributes(c, ("group",))


def test_one_value_in_every_spelling() -> None:
    raw = numpy_helper.from_array(VALUE, "raw")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, VALUE.shape, VALUE.reshape(-1).tolist())
    assert raw.HasField("raw_data") and not typed.HasField("raw_data")
    assert same_tensor(raw, typed) and same_tensor(typed, raw) and same_tensor(raw, numpy_helper.from_array(VALUE))
    other = VALUE.copy()
    other[4, 6] = np.nextafter(other[4, 6], 10)
    assert not same_tensor(raw, numpy_helper.from_array(other))
    assert not same_tensor(typed, numpy_helper.from_array(other))
    assert not same_tensor(raw, numpy_helper.from_array(VALUE.reshape(7, 5)))
    assert not same_tensor(raw, numpy_helper.from_array(VALUE.view(np.int32)))


def test_strings() -> None:
    def strings(*values: str) -> TensorProto:
        return helper.make_tensor("s", TensorProto.STRING, [len(values)], [v.encode() for v in values])

    assert same_tensor(strings("a", "b"), strings("a", "b"))
    assert not same_tensor(strings("a", "b"), strings("a", "c"))


@pytest.mark.parametrize("block", [16, 64, 1 << 22])
def test_side_files_are_compared_block_by_block(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytewise, "BLOCK", block)
    a, inside = external(VALUE, tmp_path, "a.bin"), numpy_helper.from_array(VALUE)
    assert same_tensor(a, external(VALUE, tmp_path, "b.bin", b"0" * 64))
    assert same_tensor(a, inside) and same_tensor(inside, a)
    for k in (0, 17, 34):
        other = VALUE.copy()
        other.reshape(-1)[k] += 1
        assert not same_tensor(a, external(other, tmp_path, f"c{k}.bin"))
        assert not same_tensor(numpy_helper.from_array(other), a)


def test_one_reference_is_not_read(tmp_path: Path) -> None:
    a = external(VALUE, tmp_path, "a.bin")
    b = TensorProto.FromString(a.SerializeToString())
    (tmp_path / "a.bin").unlink()
    assert same_tensor(a, b)
