"""Arrays that are needed again later: in memory up to a limit, in files beyond it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Shelf"]


class Shelf:
    """Arrays by key; the caller removes the folder."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Start empty.

        Args:
            folder: for files.
            limit: bytes that are held in memory.
        """
        self.folder, self.limit = folder, limit
        self._held: dict[Hashable, Array] = {}
        self._files: dict[Hashable, Path] = {}
        self._bytes = self._count = 0

    def put(self, key: Hashable, value: Array) -> None:
        """Keep an array, which must not change any more."""
        self.drop(key)
        if self._bytes + value.nbytes <= self.limit:
            self._held[key] = value
            self._bytes += value.nbytes
            return
        self._count += 1
        self._files[key] = self.folder / f"{self._count}.npy"
        np.save(self._files[key], value, allow_pickle=False)

    def get(self, key: Hashable) -> Array:
        """The array of a key."""
        if key in self._held:
            return self._held[key]
        return np.asarray(np.load(self._files[key], allow_pickle=False))

    def drop(self, key: Hashable) -> None:
        """Forget an array, if there is one."""
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held.nbytes
        file = self._files.pop(key, None)
        if file is not None:
            file.unlink()
