"""Files: external data, atomic writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_ocs import api, io
from onnx_ocs.errors import UserError

DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits.w8a2.onnx"


def outputs(path: Path) -> np.ndarray:
    pixels = np.linspace(0, 16, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    return np.asarray(
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]
    )


@pytest.fixture
def external(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(onnx.load(DIGITS), path, save_as_external_data=True, location="weights.bin", size_threshold=512)
    assert (folder / "weights.bin").stat().st_size > 10_000
    return path


def test_external_data_stays_external(external: Path, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    api.rewrite(DIGITS, inside)
    result = api.rewrite(external, outside)
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    assert (tmp_path / "outside.onnx.data").stat().st_size > outside.stat().st_size / 4
    assert np.array_equal(outputs(inside), outputs(outside))
    assert np.array_equal(outputs(external), outputs(DIGITS))


def test_nothing_to_rewrite_with_external_data(external: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = api.rewrite(external, out, passes=[])
    assert not result.changed
    assert np.array_equal(outputs(out), outputs(DIGITS))


def test_missing_side_file(external: Path) -> None:
    (external.parent / "weights.bin").unlink()
    with pytest.raises(UserError, match=r"external data cannot be read.*weights\.bin"):
        io.load_model(external)


def test_side_file_outside_the_folder_is_not_read(external: Path, tmp_path: Path) -> None:
    model = onnx.load(external, load_external_data=False)
    for t in model.graph.initializer:
        for e in t.external_data:
            if e.key == "location":
                e.value = "../secret.bin"
    (tmp_path / "secret.bin").write_bytes(b"\0" * 1_000_000)
    onnx.save(model, external)
    with pytest.raises(UserError, match="external data cannot be read"):
        io.load_model(external)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        io.save_model(onnx.load(DIGITS), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
