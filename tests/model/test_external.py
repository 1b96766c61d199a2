"""External data: references are checked before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model import files
from onnx_ocs.model.external import attach
from onnx_ocs.model.tensors import FOLDER, PRIVATE, is_alone, refer, reference, values
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def external(folder: Path, name: str = "model.onnx", **layout: object) -> Path:
    folder.mkdir(exist_ok=True)
    options = {"location": "weights.bin", "size_threshold": 512} | layout
    onnx.save(onnx.load(DIGITS), folder / name, save_as_external_data=True, **options)
    return folder / name


def broken(path: Path, **entries: str) -> None:
    """Change one tensor's external data."""
    model = onnx.load(path, load_external_data=False)
    t = next(t for t in model.graph.initializer if t.external_data)
    for key, value in entries.items():
        kept = [e for e in t.external_data if e.key != key]
        del t.external_data[:]
        t.external_data.extend(kept)
        t.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"location": "../secret.bin"}, "must be a file in the model's folder"),
        ({"location": "/etc/passwd"}, "must be a file in the model's folder"),
        ({"location": "below/../../secret.bin"}, "must be a file in the model's folder"),
        ({"location": ""}, "must be a file in the model's folder"),
        ({"location": "a\0b"}, "must be a file in the model's folder"),
        ({"location": "link.bin"}, "leads out of the model's folder"),
        ({"location": "linked/secret.bin"}, "leads out of the model's folder"),
        ({"location": "loop.bin"}, "is missing or cannot be read"),
        ({"location": "below"}, "is not a file"),
        ({"location": "pipe"}, "is not a file"),
        ({"location": "no.bin"}, "is missing or cannot be read"),
        ({"location": "x" * 5000}, "is missing or cannot be read"),
        ({"offset": "-1"}, "offset -1"),
        ({"offset": str(1 << 62)}, "is cut short or not this model's"),
        ({"offset": "1e3"}, "not a number"),
        ({"length": "7"}, "length 7, but its shape"),
        ({"length": str(1 << 62)}, "but its shape"),
        ({"length": "-1"}, "length -1"),
    ],
    ids=str,
)
def test_references_that_are_refused(entries: dict[str, str], why: str, tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    (tmp_path / "secret.bin").write_bytes(b"\1" * 100_000)
    (source.parent / "below").mkdir()
    (source.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (source.parent / "linked").symlink_to(tmp_path)
    (source.parent / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(source.parent / "pipe")
    broken(source, **entries)
    with pytest.raises(UserError, match=why):
        api.rewrite(source, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_stale_side_file(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    data = source.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"'weights\.bin', which has \d+: the side file is cut short"):
        files.load_model(source)
    data.unlink()
    with pytest.raises(UserError, match=r"the side file 'weights\.bin' is missing"):
        files.load_model(source)


def test_side_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    model = files.load_model(source)
    (source.parent / "weights.bin").write_bytes(b"")
    with pytest.raises(UserError, match="the side file has"):
        run_passes(model, [Translate()], Context())


def test_a_model_in_memory_needs_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the model's path instead"):
        api.rewrite(onnx.load(external(tmp_path), load_external_data=False), tmp_path / "out.onnx")


# ---- what lies in the model itself ----------------------------------------------------------------------------------


def holding(*tensors: TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], tensors))


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (TensorProto(data_type=TensorProto.FLOAT, dims=[2, 3], raw_data=b"x" * 23), 23),
        (TensorProto(data_type=TensorProto.FLOAT, dims=[2, 3], float_data=[1.0] * 7), 7),
        (TensorProto(data_type=TensorProto.INT8, dims=[2, 3], int32_data=[1] * 5), 5),
        (TensorProto(data_type=TensorProto.INT4, dims=[5], int32_data=[1] * 5), 5),  # two to a number
        (TensorProto(data_type=TensorProto.STRING, dims=[2], string_data=[b"a"]), 1),
        (TensorProto(data_type=TensorProto.FLOAT, dims=[1]), 0),
    ],
)
def test_values_that_do_not_fit_the_shape(tensor: TensorProto, found: int) -> None:
    tensor.name = "t"
    with pytest.raises(UserError, match=f"the tensor 't' has {found} values or bytes where its shape"):
        attach(holding(tensor), None)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(data_type=TensorProto.FLOAT, dims=[2, 3], raw_data=b"x" * 24),
        TensorProto(data_type=TensorProto.INT4, dims=[5], int32_data=[1] * 3),
        TensorProto(data_type=TensorProto.COMPLEX64, dims=[2], float_data=[1.0] * 4),
        TensorProto(data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b"]),
        TensorProto(data_type=TensorProto.FLOAT, dims=[0]),
    ],
)
def test_values_that_fit_the_shape(tensor: TensorProto) -> None:
    model = holding(tensor)
    before = model.SerializeToString()
    attach(model, None)
    assert model.SerializeToString() == before


# ---- what is tied to the folder -------------------------------------------------------------------------------------


def outside(location: str, offset: str | None = None, **more: str) -> TensorProto:
    t = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[4])
    refer(t, {"location": location, **({} if offset is None else {"offset": offset}), **more})
    return t


def test_references_are_completed_and_tied(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    model = holding(outside("w.bin"), outside("w.bin", "16", **{PRIVATE + "alone": "1"}))
    attach(model, tmp_path)
    first, second = model.graph.initializer
    whole = {"location": "w.bin", "length": "16", FOLDER: str(tmp_path)}
    assert reference(first) == {**whole, "offset": "0"}
    assert reference(second) == {**whole, "offset": "16"}  # entries that are ours are not believed in a file
    np.testing.assert_array_equal(values(second), [4, 5, 6, 7])
    before = model.SerializeToString()
    attach(model, None)  # attached already: the folder need not be known
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("files", "alone"), [(["a", "b"], True), (["a", "a", "b"], False), (["a"], False)])
def test_a_file_for_each_tensor_is_noticed(files: list[str], alone: bool, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"\0" * 16)
    model = holding(*(outside(name) for name in files))
    attach(model, tmp_path)
    assert [is_alone(t) for t in model.graph.initializer] == [alone] * len(files)


def test_text_cannot_lie_outside(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    t = outside("a")
    t.data_type = TensorProto.STRING
    with pytest.raises(UserError, match="strings cannot be external"):
        attach(holding(t), tmp_path)
