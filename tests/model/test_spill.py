"""New values of tensors in side files: in files of the process, written where the old ones were, then gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from side_files import aside

import onnx_ocs
from onnx_ocs.model import spill as module
from onnx_ocs.model import tensors
from onnx_ocs.model.spill import spill, spilling

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_new_values_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 4)
    old, new = np.arange(12, dtype=np.int8).reshape(3, 4), np.arange(12, 24, dtype=np.int8).reshape(3, 4)
    t, other = (aside(tmp_path, old, TensorProto.INT8) for _ in range(2))
    with spilling(True):
        assert spill(t, new) and np.array_equal(tensors.values(t), new)
        assert tensors.home(t) == "w.bin" and tensors.source(t).parent != tmp_path
        assert spill(other, new.T.copy().T) and tensors.source(other) == tensors.source(t), "equal values lie in one"
        assert spill(t, old) and np.array_equal(tensors.values(t), old) and tensors.home(t) == "w.bin"
        path = tensors.source(other)
        assert path.exists()
    assert not path.exists()


def test_what_stays_in_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(12, dtype=np.int8)
    assert not spill(aside(tmp_path, values, TensorProto.INT8), values), "it is small"
    monkeypatch.setattr(module, "SMALL", 4)
    assert not spill(onnx.numpy_helper.from_array(values, "w"), values), "it lies in no side file"


@pytest.mark.parametrize("alone", [False, True])
def test_side_files_stay(alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in" / "model.onnx"
    source.parent.mkdir()
    onnx.save(
        onnx.load(MODELS / "digits.w8a2.onnx"), source, save_as_external_data=True, size_threshold=512,
        all_tensors_to_one_file=not alone, location=None if alone else "weights.bin",
    )  # fmt: skip
    written = []
    for small in (1 << 40, 256):
        monkeypatch.setattr(module, "SMALL", small)
        out = tmp_path / str(small) / "out.onnx"
        out.parent.mkdir()
        done = onnx_ocs.rewrite(source, out, MODELS / "digits.calib.npz", passes=["reconstruct"], limit=64)
        assert done.changed and done.verification is not None and done.verification.verdict == "PASSED"
        loaded = onnx.load(out)
        written.append({t.name: onnx.numpy_helper.to_array(t).tobytes() for t in loaded.graph.initializer})
    assert written[0] == written[1]
    files = sorted(p.name for p in (tmp_path / "256").iterdir())
    assert files == sorted(["out.onnx", *(p.name for p in source.parent.iterdir() if p != source)])
    for p in (tmp_path / "256").iterdir():
        assert b"onnx_ocs.home" not in p.read_bytes()


def test_the_files_go_with_the_process(tmp_path: Path) -> None:
    code = """
import numpy as np, sys
from onnx import TensorProto
from onnx_ocs.model import spill, tensors
spill.SMALL = 4
t = TensorProto(name="w", data_type=TensorProto.INT8, dims=[8])
tensors.refer(t, {"location": "w.bin", "offset": "0", "length": "8", tensors.FOLDER: sys.argv[1]})
assert spill.spill(t, np.arange(8, dtype=np.int8))
assert tensors.source(t).exists()
print(tensors.source(t))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).parent.exists()
