"""External data: references are checked before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model import files
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def external(folder: Path, name: str = "model.onnx", **layout: object) -> Path:
    folder.mkdir(exist_ok=True)
    options = {"location": "weights.bin", "size_threshold": 512} | layout
    onnx.save(onnx.load(DIGITS), folder / name, save_as_external_data=True, **options)
    return folder / name


def broken(path: Path, **entries: str) -> None:
    """Change one tensor's external data."""
    model = onnx.load(path, load_external_data=False)
    t = next(t for t in model.graph.initializer if t.external_data)
    for key, value in entries.items():
        kept = [e for e in t.external_data if e.key != key]
        del t.external_data[:]
        t.external_data.extend(kept)
        t.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"location": "../secret.bin"}, "must be a file in the model's folder"),
        ({"location": "/etc/passwd"}, "must be a file in the model's folder"),
        ({"location": "below/../../secret.bin"}, "must be a file in the model's folder"),
        ({"location": ""}, "must be a file in the model's folder"),
        ({"location": "a\0b"}, "must be a file in the model's folder"),
        ({"location": "link.bin"}, "leads out of the model's folder"),
        ({"location": "linked/secret.bin"}, "leads out of the model's folder"),
        ({"location": "loop.bin"}, "is missing or cannot be read"),
        ({"location": "below"}, "is not a file"),
        ({"location": "pipe"}, "is not a file"),
        ({"location": "no.bin"}, "is missing or cannot be read"),
        ({"location": "x" * 5000}, "is missing or cannot be read"),
        ({"offset": "-1"}, "offset -1"),
        ({"offset": str(1 << 62)}, "is cut short or not this model's"),
        ({"offset": "1e3"}, "not a number"),
        ({"length": "7"}, "length 7, but its shape"),
        ({"length": str(1 << 62)}, "but its shape"),
        ({"length": "-1"}, "length -1"),
    ],
    ids=str,
)
def test_references_that_are_refused(entries: dict[str, str], why: str, tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    (tmp_path / "secret.bin").write_bytes(b"\1" * 100_000)
    (source.parent / "below").mkdir()
    (source.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (source.parent / "linked").symlink_to(tmp_path)
    (source.parent / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(source.parent / "pipe")
    broken(source, **entries)
    with pytest.raises(UserError, match=why):
        api.rewrite(source, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_stale_side_file(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    data = source.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"'weights\.bin', which has \d+: the side file is cut short"):
        files.load_model(source)
    data.unlink()
    with pytest.raises(UserError, match=r"the side file 'weights\.bin' is missing"):
        files.load_model(source)


def test_side_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    model = files.load_model(source)
    (source.parent / "weights.bin").write_bytes(b"")
    with pytest.raises(UserError, match="the side file has"):
        run_passes(model, [Translate()], Context())


def test_a_model_in_memory_needs_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the model's path instead"):
        api.rewrite(onnx.load(external(tmp_path), load_external_data=False), tmp_path / "out.onnx")
