"""Files of calibration samples: which are read, which are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper

from onnx_ocs.calibration import reading
from onnx_ocs.calibration.reading import (
    blame,
    is_sample_of,
    npz_files,
    read_blocks,
    read_sets,
    sample_files,
    set_folders,
    user_function,
)
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError

ONE = np.ones(3, np.float32)


def test_all_files_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a"):
        np.savez(tmp_path / f"{name}.npz", x=ONE)
    (tmp_path / "notes.txt").touch()
    assert sample_files(tmp_path / "a.npz") == [tmp_path / "a.npz"]
    assert sample_files(tmp_path) == npz_files(tmp_path) == [tmp_path / "a.npz", tmp_path / "b.npz"]
    sets = tmp_path / "sets"
    (sets / "test_data_set_0").mkdir(parents=True)
    onnx.save_tensor(numpy_helper.from_array(ONE), sets / "test_data_set_0" / "input_0.pb")
    assert sample_files(sets) == [sets / "test_data_set_0" / "input_0.pb"]
    assert set_folders(sets / "test_data_set_0") == [sets / "test_data_set_0"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine.py").touch()
    assert sample_files("pack.mine:feeds") == [Path("pack/mine.py")]
    assert sample_files("nothing") == []
    assert user_function("a.b:c") == ("a.b", "c") and user_function("a/b:c") is None


def test_a_new_file_that_would_be_a_sample(tmp_path: Path) -> None:
    assert is_sample_of(tmp_path, tmp_path / "s.npz")
    assert not is_sample_of(tmp_path, tmp_path / "o.onnx")
    assert not is_sample_of(tmp_path / "c.npz", tmp_path / "s.npz")


@pytest.mark.parametrize("name", ["b.npz", "input_1.pb"])
def test_a_pipe_in_a_folder_is_skipped_with_a_word(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", x=ONE)
    onnx.save_tensor(numpy_helper.from_array(ONE, "x"), tmp_path / "input_0.pb")
    os.mkfifo(tmp_path / name)
    if name == "b.npz":
        assert npz_files(tmp_path) == [tmp_path / "a.npz"]
    else:
        ((_, feed),) = read_sets([tmp_path], ["x"])
        assert isinstance(feed, dict) and list(feed) == ["x"]
    assert [r.getMessage() for r in caplog.records] == [f"skipped {tmp_path / name}: it is not a file"]


def test_blame() -> None:
    with (
        pytest.raises(UserError, match=r"it broke \(ZeroDivisionError: of course\): mend it"),
        blame("it broke", "mend it"),
    ):
        raise ZeroDivisionError("of course")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_file_is_read_some_rows_at_a_time(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of all arrays that are wanted, in order; a small file, or one that has no rows in common, at once."""
    arrays = {"a": np.arange(70, dtype=np.float32).reshape(7, 10), "b": np.arange(7, dtype=np.int64), "c": np.ones(3)}
    path = tmp_path / "samples.npz"
    save(path, **arrays)
    monkeypatch.setattr(reading, "BLOCK", 100)
    blocks = list(read_blocks(path, ["a", "b"]))
    assert [len(b["a"]) for b in blocks if b["a"] is not None] == [2, 2, 2, 1]
    for n in ("a", "b"):
        assert np.array_equal(np.concatenate([b[n] for b in blocks if b[n] is not None]), arrays[n])
    assert all(b.keys() == arrays.keys() and b["c"] is None for b in blocks)
    assert len(list(read_blocks(path, None))) == 1
    monkeypatch.setattr(reading, "BLOCK", 1000)
    (whole,) = read_blocks(path, ["a"])
    assert np.array_equal(whole["a"], arrays["a"]) and whole["b"] is None  # type: ignore[arg-type]


def test_samples_are_the_same_whatever_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is wrong with one is said with its number in the file."""
    model, _ = zoo.build("residual")
    x = np.arange(11 * 4 * 6 * 6, dtype=np.float32).reshape(11, 4, 6, 6)
    np.savez(tmp_path / "x.npz", x=x)
    monkeypatch.setattr(reading, "BLOCK", 2000)
    found = [f["x"] for f in open_samples(tmp_path / "x.npz", model).batches(4)]
    assert [len(f) for f in found] == [4, 4, 3] and np.array_equal(np.concatenate(found), x)
    x[9, 0, 0, 0] = np.nan
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(UserError, match="NaN or infinity in sample 9"):
        open_samples(tmp_path / "x.npz", model)
