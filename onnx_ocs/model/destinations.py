"""What a run may read and where it may write: regular files, no output being one that is read, or another output.

Files are told apart by what they are, not by what they are called: device and inode where a file is there, its folder
and its name where it is not.  A symbolic link is refused as an output: replaced, it would be lost; followed, a model
could not find the side files beside it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_ocs.errors import UserError
from onnx_ocs.model import tensors

__all__ = ["check_apart", "check_readable", "check_regular", "check_writable", "identities", "model_files"]

KINDS = {
    stat.S_IFDIR: "a folder: give a file name",
    stat.S_IFLNK: "a symbolic link: give the file that it leads to",
    stat.S_IFIFO: "a named pipe: give a regular file",
    stat.S_IFSOCK: "a socket: give a regular file",
    stat.S_IFCHR: "a device: give a regular file",
    stat.S_IFBLK: "a device: give a regular file",
}


def check_readable(path: str | Path) -> None:
    """Fail where what is to be read is no regular file, behind links; a pipe would wait, a device has no end.

    Raises:
        UserError: what it is, or that there is none.
    """
    try:
        kind = KINDS.get(stat.S_IFMT(Path(path).stat().st_mode))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None
    if kind is not None:
        raise UserError(f"{path}: is {kind}")


def check_regular(path: Path) -> None:
    """Fail where something is at an output's place that is no regular file.

    Raises:
        UserError: what it is.
    """
    try:
        kind = KINDS.get(stat.S_IFMT(path.lstat().st_mode))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be written: {getattr(e, 'strerror', None) or e}") from None
    if kind is not None:
        raise UserError(f"{path}: is {kind}")


def check_writable(path: str | Path) -> None:
    """Fail early when an output cannot be written.

    Raises:
        UserError: the folder is missing or not writable, or something is there that is no regular file.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist: create it first")
    check_regular(path)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise UserError(f"{path}: the folder cannot be written: {e.strerror}") from None


def identities(path: str | Path) -> set[tuple[object, ...]]:
    """What a file is, under any name: device and inode (behind links, too), and its folder's with its name."""
    path, found = Path(path), set[tuple[object, ...]]()
    for p in (path, Path(os.path.realpath(path))):
        try:
            folder = p.parent.stat()
            found.add((folder.st_dev, folder.st_ino, p.name))
            here = p.stat()
            found.add((here.st_dev, here.st_ino))
        except (OSError, ValueError):  # not there, or no name at all
            continue
    return found


def model_files(path: str | Path) -> list[Path]:
    """A model's file and the side files that it refers to; just the file where it is no model."""
    path = Path(path)
    if not path.is_file():
        return [path]
    try:
        model = onnx.load(path, load_external_data=False)
        locations = {tensors.reference(t).get("location") for t in tensors.all_tensors(model) if tensors.is_external(t)}
    except (DecodeError, OSError, ValueError):
        return [path]
    return [path, *(path.parent / name for name in sorted(filter(None, locations)))]


def check_apart(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """Fail where an output is a file that is read, or another output.

    Args:
        outputs: by what each is called ("--report").
        inputs: all files that are read.

    Raises:
        UserError: which two are the same.
    """
    taken = {key: path for path in inputs for key in identities(path)}
    for name, path in outputs.items():
        mine = identities(path)
        same = next((taken[k] for k in mine if k in taken), None)
        if same is not None:
            raise UserError(f"{name} {path} is the same file as {same}: give it another name")
        taken |= dict.fromkeys(mine, path)
