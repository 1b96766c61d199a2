"""Model files: read with clear errors, written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.model import files

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def test_a_folder_and_no_file_are_told(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "is a folder"), (tmp_path / "no.onnx", "no such file")):
        with pytest.raises(UserError, match=why):
            files.load_model(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        files.save_model(onnx.load(DIGITS), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
