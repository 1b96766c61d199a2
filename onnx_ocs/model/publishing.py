"""Publishing: all files of a run, or none of them.

Everything is written beside its place first, where a full disk does no harm.  Publishing then only renames, under a
lock on the folders.  Where a rename fails, those before it are taken back.

A model with side files needs several renames.  The old model is whole until the new one takes its place; that refers
to its staged side files first, which then get their own names (hard links: both names hold the same data), and then
the model is replaced by one that refers to those.  A run that is killed in between is finished by the next one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.model import sidefiles
from onnx_ocs.model.destinations import check_regular, identities
from onnx_ocs.model.protobuf import pieces
from onnx_ocs.model.staging import Workspace, locked, open_up, sweep, uninterrupted

__all__ = ["PROTOBUF_LIMIT", "Transaction"]

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
MODEL = "model"  # what a workspace notes down
BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # no reason to take a file system for one without links


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None


class _Moves:
    """Renames that can be taken back."""

    def __init__(self) -> None:
        self._done: list[tuple[Path, Path | None]] = []  # with what was there before
        self._made: list[Path] = []

    def folder(self, path: Path) -> None:
        """Make a folder, with those above it."""
        missing = [p for p in (path, *path.parents) if not p.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)

    def replace(self, staged: Path, target: Path, workspace: Path) -> None:
        """Rename a staged file; what was there before is kept in the workspace."""
        check_regular(target)
        old = None
        if target.exists():
            old = workspace / f"old.{len(self._done)}"
            try:
                os.link(target, old)
            except OSError:  # a file system without links
                shutil.copy2(target, old)
        self._done.append((target, old))
        staged.replace(target)

    def undo(self) -> bool:
        """Put back what was there before, the last first; whether that could be done."""
        try:
            for target, old in reversed(self._done):
                if old is None:
                    target.unlink(missing_ok=True)
                elif old.exists():  # or the rename itself failed
                    old.replace(target)
        except OSError:  # what is in its place may need what is staged: the next run finishes it
            return False
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        return True


class Transaction:
    """The files of a run: staged one by one, then published together; what is not published is removed.

    Attributes:
        published: the files that are in their places.
    """

    def __init__(self, reserved: Iterable[str | Path] = ()) -> None:
        """Start empty.

        Args:
            reserved: files that are staged later, or that others write: no side file gets their names.
        """
        self.published: tuple[Path, ...] = ()
        self._reserved = {key for p in reserved for key in identities(p)}
        self._workspaces: dict[Path, Workspace] = {}
        self._files: dict[Path, Path | sidefiles.Staged] = {}
        self._spared: dict[Path, list[str]] = {}
        self._half = False  # published by half, and it could not be taken back

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def file(self, path: str | Path, data: bytes | Iterable[bytes]) -> None:
        """Stage a file.

        Args:
            path: where it is to go.
            data: what is in it, as a whole or piece by piece.

        Raises:
            UserError: it cannot be written, or has been staged already.
        """
        path = Path(path)
        self._claim(path)
        with _told(path):
            staged = self._workspace(path.parent) / f"new.{len(self._files)}"
            with staged.open("xb") as f:
                f.writelines([data] if isinstance(data, bytes) else data)
                f.flush()
                os.fsync(f.fileno())
            open_up(staged)
        self._files[path] = staged

    def model(self, model: onnx.ModelProto, path: str | Path, source: str | Path | None = None) -> Path | None:
        """Stage a model; what came from side files goes into side files of the same layout.

        Args:
            model: the model; not changed.
            path: where it is to go.
            source: the file that it was read from.

        Returns:
            Where it can be loaded until then, if it has side files.

        Raises:
            UserError: it cannot be written, or has been staged already.
        """
        path = Path(path)
        if not sidefiles.needed(model, PROTOBUF_LIMIT):
            self.file(path, pieces(model))
            return None
        self._claim(path)
        with _told(path):
            folder = self._workspace(path.parent)
            staged = sidefiles.Staged(model, path, None if source is None else Path(source), folder, self._reserved)
        self._files[path] = staged
        return staged.model

    def discard(self, path: str | Path) -> None:
        """Leave a file out after all."""
        if (staged := self._files.pop(Path(path), None)) is not None:
            self._reserved -= identities(path)
            names = [staged] if isinstance(staged, Path) else staged.written
            for p in names:
                p.unlink(missing_ok=True)

    def publish(self) -> None:
        """Put all files in their places; no signal comes in between.

        Raises:
            UserError: one of them cannot be put there; all is as it was before.
        """
        with uninterrupted(), locked([p.parent for p in self._files]) as alone:
            moves = _Moves()
            path = Path()
            try:
                for path in reversed(self._files):  # the model was staged first: it comes last
                    staged = self._files[path]
                    folder = self._workspaces[path.parent]
                    if isinstance(staged, Path):
                        moves.replace(staged, path, folder.path)
                    else:
                        self._publish_model(staged, moves, folder)
            except BaseException as e:
                self._half = True
                self._half = not moves.undo()
                self._spared.clear()
                if isinstance(e, OSError):
                    raise UserError(f"{path}: cannot be written: {e.strerror}") from None
                raise
            self.published = tuple(self._files)
            for parent in self._workspaces:
                sweep(parent, kept=_finished, alone=alone)  # what only the old model referred to

    def close(self) -> None:
        """Remove what is left."""
        with uninterrupted():
            for parent, workspace in self._workspaces.items():
                if self._half:
                    workspace.release()
                else:
                    workspace.close(self._spared.get(parent))
            self._workspaces.clear()

    def _claim(self, path: Path) -> None:
        mine = identities(path)
        if any(mine & identities(other) for other in self._files):
            raise UserError(f"{path}: is written twice: give one of them another name")
        staged = [s for s in self._files.values() if isinstance(s, sidefiles.Staged)]
        if any(mine & identities(s.path.parent / name) for s in staged for name in s.files):
            raise UserError(f"{path}: is a side file of the model: give it another name")
        self._reserved |= mine

    def _workspace(self, parent: Path) -> Path:
        """The folder beside an output that its files are staged in."""
        if parent not in self._workspaces:
            with locked([parent]) as alone:
                sweep(parent, kept=_finished, alone=alone)
                self._workspaces[parent] = Workspace(parent)
        return self._workspaces[parent].path

    def _publish_model(self, staged: sidefiles.Staged, moves: _Moves, workspace: Workspace) -> None:
        targets = {name: staged.path.parent / name for name in staged.files}
        own = sidefiles.referred(staged.path)
        for name, target in targets.items():
            moves.folder(target.parent)
            if name not in own and (target.exists() or target.is_symlink()):  # since it was staged
                raise UserError(f"{target}: this side file has come meanwhile and is not {staged.path.name}'s")
        if _link(workspace.path, staged.files):
            workspace.record(**{MODEL: staged.path.name}, files=staged.files)
            moves.replace(staged.between, staged.path, workspace.path)
            for name, target in targets.items():
                moves.replace(_linked(workspace.path, name), target, workspace.path)
            moves.replace(staged.model, staged.path, workspace.path)
            workspace.record()
        elif any(target.exists() for target in targets.values()):  # the model stays on the names that it has
            workspace.record(**{MODEL: staged.path.name}, files=staged.files)
            moves.replace(staged.between, staged.path, workspace.path)
            self._spared[staged.path.parent] = list(staged.files)
        else:
            for name, target in targets.items():
                moves.replace(workspace.path / name, target, workspace.path)
            moves.replace(staged.model, staged.path, workspace.path)


def _linked(folder: Path, name: str) -> Path:
    return folder / f"{name}.link"


def _link(folder: Path, names: Iterable[str]) -> bool:
    """Give staged side files a second name each; whether the file system can."""
    try:
        for name in names:
            _linked(folder, name).unlink(missing_ok=True)
            os.link(folder / name, _linked(folder, name))
    except OSError as e:
        if e.errno in BROKEN:
            raise
        return False
    return True


def _finished(folder: Path, noted: dict[str, Any]) -> bool:
    """Finish what a killed run was publishing; whether its workspace is to stay all the same."""
    if MODEL not in noted:
        return False
    path = folder.parent / noted[MODEL]
    if not path.exists():  # moved away with its references, perhaps
        return True
    if not any(name.startswith(f"{folder.name}/") for name in sidefiles.referred(path)):
        return False
    final = folder / sidefiles.final_name(path)
    if not final.is_file() or not _link(folder, noted["files"]):
        return True
    for name in noted["files"]:
        _linked(folder, name).replace(folder.parent / name)
    final.replace(path)
    return False
