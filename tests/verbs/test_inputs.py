"""No output takes the place of a file that is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.verbs.inputs import check_outputs

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(onnx.load(DIGITS), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "calib").mkdir()
    np.savez(tmp_path / "calib" / "a.npz", x=np.ones(1))
    (tmp_path / "p.json").touch()
    return tmp_path


@pytest.mark.parametrize("name", ["m.onnx", "w.bin", "calib/a.npz", "p.json"])
@pytest.mark.parametrize("option", ["OUT", "--report", "--html", "--stats", "-o"])
def test_every_output_against_every_input(option: str, name: str, folder: Path) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for path in (folder / name, folder / "calib" / ".." / name):
        with pytest.raises(UserError, match=rf"{option} .* is the same file as"):
            check_outputs({option: path}, [folder / "m.onnx", None], folder / "calib", [folder / "p.json", None])
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_new_sample(folder: Path) -> None:
    with pytest.raises(UserError, match="would be one of the samples"):
        check_outputs({"--stats": folder / "calib" / "s.npz"}, calib=str(folder / "calib"))
    check_outputs({"OUT": folder / "calib" / "o.onnx", "--report": None}, calib=str(folder / "calib"))


def test_the_old_outputs_side_files(folder: Path) -> None:
    with pytest.raises(UserError, match=r"--report .*w\.bin is the same file as"):
        check_outputs({"OUT": folder / "m.onnx", "--report": folder / "w.bin"}, [DIGITS])
    check_outputs({"OUT": folder / "m.onnx", "--report": folder / "r.json"}, [DIGITS])


def test_in_python_too(folder: Path) -> None:
    for name in ("m.onnx", "w.bin"):
        with pytest.raises(UserError, match=r"OUT .* is the same file as"):
            api.rewrite(folder / "m.onnx", folder / name)
    with pytest.raises(UserError, match="is a folder"):
        api.rewrite(folder / "m.onnx", folder / "calib")
