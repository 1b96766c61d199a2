"""Arrays that are needed again later: in memory up to a limit, in files beyond it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Shelf"]


class Shelf:
    """Arrays by key; the caller removes the folder.  Threads may use it side by side, each its own keys."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Start empty.

        Args:
            folder: for files.
            limit: bytes that are held in memory.
        """
        self.folder, self.limit = folder, limit
        self._held: dict[Hashable, tuple[Array, ...]] = {}
        self._files: dict[Hashable, tuple[Path, list[tuple[np.dtype[Any], tuple[int, ...]]]]] = {}
        self._bytes = self._count = 0
        self._lock = Lock()

    def put(self, key: Hashable, *values: Array) -> None:
        """Keep arrays, which must not change any more."""
        self.drop(key)
        size = sum(v.nbytes for v in values)
        with self._lock:
            fits = self._bytes + size <= self.limit or any(v.dtype.hasobject for v in values)
            self._bytes += size if fits else 0
            self._count += 1
            path = self.folder / f"{self._count}.bin"
        if fits:
            self._held[key] = values
            return
        with path.open("wb") as file:
            for v in values:
                np.ascontiguousarray(v).tofile(file)
        self._files[key] = path, [(v.dtype, v.shape) for v in values]

    def get(self, key: Hashable) -> tuple[Array, ...]:
        """The arrays of a key."""
        if key in self._held:
            return self._held[key]
        path, forms = self._files[key]
        with path.open("rb") as file:
            return tuple(np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape) for dtype, shape in forms)

    def drop(self, key: Hashable) -> None:
        """Forget the arrays of a key, if there are some."""
        held = self._held.pop(key, ())
        with self._lock:
            self._bytes -= sum(v.nbytes for v in held)
        file = self._files.pop(key, None)
        if file is not None:
            file[0].unlink()
