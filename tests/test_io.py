"""Model files: read with clear errors, written atomically."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_ocs import io
from onnx_ocs.errors import UserError

DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits.w8a2.onnx"


def test_a_folder_and_no_file_are_told(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "is a folder"), (tmp_path / "no.onnx", "no such file")):
        with pytest.raises(UserError, match=why):
            io.load_model(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        io.save_model(onnx.load(DIGITS), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
