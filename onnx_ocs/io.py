"""Model files: read with clear errors, written atomically or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from onnx_ocs.errors import UserError

__all__ = ["check_writable", "copy_model", "has_external_data", "load_model", "save_model", "write_bytes", "write_text"]

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read a model with its external data.

    Raises:
        UserError: no such file, not an ONNX model, or its side files are missing.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder: give the .onnx file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise UserError(f"{path}: not an ONNX model, or cut short (protobuf cannot read it): export it again") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read: {e}") from None
    try:
        for n in model.graph.node:
            _ = (n.op_type, n.domain, n.name, list(n.input), list(n.output))
    except UnicodeDecodeError:
        raise UserError(f"{path}: damaged (a name in it is no text): export it again") from None
    if not model.graph.node or not model.opset_import:
        raise UserError(f"{path}: not an ONNX model (no graph nodes or no operator set)")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # onnx raises its own ValidationError, and OSError, ValueError
        raise UserError(f"{path}: external data cannot be read: {str(e).splitlines()[0]}") from None
    return model


def has_external_data(path: str | Path) -> bool:
    """Whether a model file keeps tensors in side files."""
    model = onnx.load(path, load_external_data=False)
    return any(uses_external_data(t) for t in model.graph.initializer)


def check_writable(path: str | Path, source: str | Path | None = None) -> None:
    """Fail early when an output cannot be written.

    Raises:
        UserError: the folder is missing or not writable, or the output would overwrite its input.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist: create it first")
    if path.is_dir():
        raise UserError(f"{path}: is a folder: give a file name")
    if source is not None and path.resolve() == Path(source).resolve():
        raise UserError(f"{path}: is the input itself: give the output another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise UserError(f"{path}: the folder cannot be written: {e.strerror}") from None


def _replace(path: Path, write: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(write)
            f.flush()
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException as e:
        Path(name).unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise UserError(f"{path}: cannot be written: {e.strerror}") from None
        raise


def copy_model(source: str | Path, path: str | Path) -> None:
    """Copy a model file atomically, byte for byte where it has no side files."""
    if has_external_data(source):
        save_model(load_model(source), path, external=True)
    else:
        _replace(Path(path), Path(source).read_bytes())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically."""
    _replace(Path(path), data)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    _replace(Path(path), text.encode())


def save_model(model: onnx.ModelProto, path: str | Path, external: bool = False) -> None:
    """Write a model atomically; with external data, the side file `<name>.data` first.

    Args:
        model: the model; its tensors are in memory.
        path: where to.
        external: keep large tensors in a side file (always done above protobuf's 2 GB).

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    if not external and model.ByteSize() < PROTOBUF_LIMIT:
        _replace(path, model.SerializeToString())
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    side, data = path.name + ".data", bytearray()
    for t in copy.graph.initializer:
        if t.HasField("raw_data") and len(t.raw_data) >= 1024:
            data += b"\0" * (-len(data) % 4096)
            entries = {"location": side, "offset": str(len(data)), "length": str(len(t.raw_data))}
            data += t.raw_data
            t.ClearField("raw_data")
            t.data_location = TensorProto.EXTERNAL
            del t.external_data[:]
            for key, value in entries.items():
                t.external_data.add(key=key, value=value)
    _replace(path.parent / side, bytes(data))
    _replace(path, copy.SerializeToString())
