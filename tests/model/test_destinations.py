"""Where a run may write: regular files only, and none that is read or written by another name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import onnx
import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.model.destinations import (
    check_apart,
    check_readable,
    check_regular,
    check_writable,
    identities,
    model_files,
)

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name may be 100 characters long
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)
    finally:
        os.chdir(here)


def link(path: Path) -> None:
    path.symlink_to("target")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(fifo, "named pipe"), (bound, "socket"), (Path.mkdir, "folder"), (link, "symbolic link")],
    ids=["fifo", "socket", "folder", "link"],
)
def test_what_is_no_regular_file_is_refused_and_left(make, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    for check in (check_writable, check_regular):
        with pytest.raises(UserError, match=f"is a {kind}"):
            check(path)
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_a_device_is_refused() -> None:
    for check in (check_writable, check_readable):
        with pytest.raises(UserError, match="is a device"):
            check(Path("/dev/null"))


@pytest.mark.parametrize(
    ("make", "kind"), [(fifo, "is a named pipe"), (bound, "is a socket"), (Path.mkdir, "a folder"), (link, "no such")],
)
def test_what_is_read_is_a_file(make, kind: str, tmp_path: Path) -> None:
    make(tmp_path / "in")
    with pytest.raises(UserError, match=kind):
        check_readable(tmp_path / "in")
    for odd, why in (("\0", "null"), ("x" * 300, "too long"), ("no/in", "no such file")):
        with pytest.raises(UserError, match=why):
            check_readable(tmp_path / odd)
    (tmp_path / "target").touch()
    (tmp_path / "good").symlink_to("target")
    check_readable(tmp_path / "good")


def test_a_file_and_a_free_place_are_taken(tmp_path: Path) -> None:
    check_writable(tmp_path / "free")
    (tmp_path / "there").touch()
    check_writable(tmp_path / "there")
    with pytest.raises(UserError, match="does not exist: create it first"):
        check_writable(tmp_path / "no" / "folder")
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 300))


def test_one_file_has_many_names(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "folder").symlink_to(".")
    for other in ("hard", "soft", "folder/a", "folder/../" + tmp_path.name + "/a"):
        with pytest.raises(UserError, match=r"--x .* is the same file as"):
            check_apart({"--x": tmp_path / other}, [tmp_path / "a"])
    with pytest.raises(UserError, match=r"--y .* is the same file as"):  # not there yet
        check_apart({"--x": tmp_path / "new", "--y": tmp_path / "folder" / "new"}, [])
    check_apart({"--x": tmp_path / "new", "--y": tmp_path / "newer"}, [tmp_path / "a"])
    assert not identities("no/such/folder/x")


def test_the_files_of_a_model(tmp_path: Path) -> None:
    onnx.save(onnx.load(DIGITS), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert model_files(tmp_path / "m.onnx") == [tmp_path / "m.onnx", tmp_path / "w.bin"]
    assert model_files(DIGITS) == [DIGITS]
    (tmp_path / "text").write_text("no model")
    for name in ("text", "nothing", "."):
        assert model_files(tmp_path / name) == [tmp_path / name]
