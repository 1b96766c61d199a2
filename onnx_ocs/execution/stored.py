"""Models that tasks name by their hash, and read from a folder that coordinator and workers both see."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.model.files import load_model, save_model

__all__ = ["Stored", "store"]


@dataclass(frozen=True)
class Stored:
    """A model that lies in a file.

    Attributes:
        hash: its `fingerprint`: what a worker keeps is kept under it.
        path: the file.
    """

    hash: str
    path: Path = field(compare=False)

    def load(self) -> onnx.ModelProto:
        """Read it.

        Raises:
            UserError: this machine does not see the file.
        """
        if not self.path.exists():
            raise UserError(
                f"the worker on {platform.node()} does not see {self.path}: "
                "set TMPDIR to a folder that all machines share"
            )
        return load_model(self.path)


def store(model: onnx.ModelProto, model_hash: str, folder: Path) -> Stored:
    """Write a model for the workers.

    Args:
        model: the model.
        model_hash: its `fingerprint`.
        folder: where to.
    """
    path = folder / f"{model_hash[:16]}.onnx"
    save_model(model, path)
    return Stored(model_hash, path)
