"""New values of tensors that lay in side files: they lie in files of this process, and the model refers to them.

So copies of a model cost nothing after its weights were changed, either.  Equal values lie in one file.  The files go
when the process ends, or with `spilling`, when whoever made them has written the model elsewhere.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from onnx_ocs.model import tensors
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.staging import SCRATCH, Workspace, sweep

__all__ = ["SMALL", "spill", "spilled", "spilling"]

SMALL = 1 << 20  # bytes up to which new values are held in the model


class _Files:
    """Those of this process."""

    def __init__(self) -> None:
        self.workspace: Workspace | None = None
        self.process = self.made = 0
        self.known: dict[tuple[str, int], str] = {}  # by digest and type: the name

    def folder(self) -> Path:
        """Where they lie."""
        if self.workspace is None or self.process != os.getpid():  # a fork's parent has its own
            parent = Path(tempfile.gettempdir())
            sweep(parent, SCRATCH)
            self.workspace, self.process, self.known = Workspace(parent, SCRATCH), os.getpid(), {}
            atexit.register(self.close)
        return self.workspace.path

    def close(self) -> None:
        """Remove all."""
        if self.workspace is not None and self.process == os.getpid():
            self.workspace.close()
            self.workspace, self.known = None, {}


_FILES = _Files()


def spill(t: TensorProto, value: Array) -> bool:
    """Let a tensor in a side file have other values, of its dtype and shape, which lie in a file, too.

    Args:
        t: the tensor; changed in place.
        value: the values.

    Returns:
        Whether it does; small ones, and those of less than a byte each, are for the caller to put into the model.
    """
    if not tensors.is_external(t) or tensors.bits(t.data_type) < 8 or tensors.stored_size(t) <= SMALL:
        return False
    value = np.ascontiguousarray(value, helper.tensor_dtype_to_np_dtype(t.data_type).newbyteorder("<"))
    data, folder = value.reshape(-1).view(np.uint8).data, _FILES.folder()
    key = hashlib.sha256(data).hexdigest(), t.data_type
    if key not in _FILES.known:
        _FILES.made += 1
        name = f"{_FILES.made}.bin"
        (folder / name).write_bytes(data)
        _FILES.known[key] = name
    entries = tensors.reference(t)
    kept = {k: v for k, v in entries.items() if k == tensors.ALONE}
    home = entries.get(tensors.HOME, entries["location"])
    place = {"location": _FILES.known[key], "offset": "0", "length": str(len(data))}
    tensors.refer(t, place | {tensors.FOLDER: str(folder), tensors.HOME: home} | kept)
    return True


def spilled(like: TensorProto | None, value: Array) -> TensorProto | None:
    """A new tensor with other values, of the dtype and shape of one in a side file; None where they need no file."""
    if like is None or not tensors.is_external(like) or tuple(like.dims) != value.shape:
        return None
    new = TensorProto()
    new.CopyFrom(like)
    return new if spill(new, value) else None


@contextmanager
def spilling(until_written: bool) -> Iterator[None]:
    """Remove what is spilled inside, where it is written elsewhere before this is over."""
    before = set(_FILES.known)
    try:
        yield
    finally:
        if until_written:
            for key in [k for k in _FILES.known if k not in before]:
                (_FILES.folder() / _FILES.known.pop(key)).unlink(missing_ok=True)
