"""Model files: read with clear errors, written atomically or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_ocs.errors import UserError
from onnx_ocs.model import external, sizes, tensors
from onnx_ocs.model.destinations import check_readable
from onnx_ocs.model.publishing import Transaction

__all__ = ["fingerprint", "load_model", "save_model", "write_bytes"]


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


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read a model; what lies in side files is checked, and stays there (`onnx_ocs.model.tensors`).

    Raises:
        UserError: no such file, not an ONNX model, damaged, or its side files are missing or not its own.
    """
    path = Path(path)
    check_readable(path)
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


def write_bytes(path: str | Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file atomically, as a whole or piece by piece.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    with Transaction() as transaction:
        transaction.file(path, data)
        transaction.publish()


def save_model(model: onnx.ModelProto, path: str | Path, source: str | Path | None = None) -> None:
    """Write a model atomically; what came from side files goes into side files of the same layout.

    Args:
        model: the model.
        path: where to.
        source: the file that it was read from.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    with Transaction() as transaction:
        transaction.model(model, path, source)
        transaction.publish()
