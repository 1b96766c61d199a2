"""Model files: read with clear errors, written atomically or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_ocs.errors import UserError
from onnx_ocs.model import external, sidefiles, sizes, tensors
from onnx_ocs.model.protobuf import pieces

__all__ = ["check_writable", "fingerprint", "load_model", "save_model", "stage", "write_bytes", "write_text"]


def fingerprint(model: onnx.ModelProto) -> str:
    """A hash of the model and its side files, wherever they lie; statistics and plans are tied to it."""
    digest = hashlib.sha256()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    large = sizes.exceeds(bare, 1 << 31)
    for t in tensors.all_tensors(bare):
        if tensors.is_external(t):
            for block in tensors.blocks(t):
                digest.update(block)
            del t.external_data[:]
        elif large and t.HasField("raw_data"):
            digest.update(t.raw_data)
            t.ClearField("raw_data")
    digest.update(bare.SerializeToString(deterministic=True))
    return digest.hexdigest()


PROTOBUF_LIMIT = (1 << 31) - (1 << 20)


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read a model; what lies in side files is checked, and stays there (`onnx_ocs.model.tensors`).

    Raises:
        UserError: no such file, not an ONNX model, damaged, or its side files are missing or not its own.
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
    if not _is_text(model):
        raise UserError(f"{path}: damaged (a name in it is no text): export it again")
    if not model.graph.node or not model.opset_import:
        raise UserError(f"{path}: not an ONNX model (no graph nodes or no operator set)")
    try:
        external.attach(model, path.parent)
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
    return model


def _is_text(model: onnx.ModelProto) -> bool:
    """Whether all names are text: protobuf lets bytes through that are not."""
    g = model.graph
    try:
        names = [x.name for part in (g.input, g.output, g.value_info, g.initializer, g.node) for x in part]
        for n in g.node:
            names += n.op_type, n.domain, *n.input, *n.output
            names += [a.name for a in n.attribute]
        "".join(names)
        return True
    except (UnicodeDecodeError, TypeError):  # protobuf gives bytes, or fails, where a name is no text
        return False


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


def write_bytes(path: str | Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file atomically, as a whole or piece by piece.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as f:
            f.writelines([data] if isinstance(data, bytes) else data)
            f.flush()
            os.fsync(f.fileno())
        sidefiles.open_up(Path(name))
        Path(name).replace(path)
    except BaseException as e:
        Path(name).unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise UserError(f"{path}: cannot be written: {e.strerror}") from None
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def save_model(model: onnx.ModelProto, path: str | Path, source: str | Path | None = None) -> None:
    """Write a model atomically; what came from side files goes into side files of the same layout.

    Args:
        model: the model.
        path: where to.
        source: the file that it was read from.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    staged = stage(model, path, source)
    if staged is None:
        write_bytes(path, pieces(model))
        return
    with closing(staged):
        staged.publish(write_bytes)


def stage(model: onnx.ModelProto, path: str | Path, source: str | Path | None = None) -> sidefiles.Staged | None:
    """Write a model with side files beside its place, where it can be loaded and then published; None if it has none.

    Args:
        model: the model.
        path: where it is to go.
        source: the file that it was read from.

    Raises:
        UserError: it cannot be written.
    """
    if not sidefiles.needed(model, PROTOBUF_LIMIT):
        return None
    return sidefiles.Staged(model, Path(path), None if source is None else Path(source))
