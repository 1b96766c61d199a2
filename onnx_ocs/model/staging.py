"""Folders that a run works in, and locks: what a killed run leaves is removed by the next one.

A workspace is known by its name and held by a lock on a file in it for as long as its process lives.  It gets its name
when it is locked, so one that nobody holds belongs to a dead process.  Locks are the kernel's (flock): they end with
the process, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onnx_ocs.errors import UserError

if sys.platform != "win32":
    import fcntl

__all__ = ["PREFIX", "Workspace", "locked", "open_up", "scratch", "sweep", "uninterrupted"]

PREFIX = ".onnx_ocs."  # of folders beside outputs
SCRATCH = "onnx_ocs_"  # of folders for temporary files
NEW = "new_"  # not locked yet
LOCK = "lock"
HOUR = 3600.0  # after which a folder that never got its lock is nobody's
PATIENCE = 60.0  # seconds that a run waits for another one to publish


def open_up(path: Path) -> None:
    """Give a temporary file or folder the permissions that any new one gets."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _take(handle: int) -> bool | None:
    """Lock an open file or folder; False where somebody else holds it, None on a file system without locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(folder: Path) -> None:
    """Remove a folder, as far as that can be done, with one file handle at a time."""
    with suppress(OSError):
        with os.scandir(folder) as found:
            entries = list(found)
        for e in entries:
            if e.is_dir(follow_symlinks=False):
                _remove(Path(e.path))
            else:
                Path(e.path).unlink(missing_ok=True)
        folder.rmdir()


class Workspace:
    """A folder of this run's own.

    Attributes:
        path: the folder.
    """

    def __init__(self, parent: Path, prefix: str = PREFIX) -> None:
        """Make it.

        Args:
            parent: the folder that it is made in.
            prefix: how its name begins.

        Raises:
            OSError: it cannot be made.
        """
        new = Path(tempfile.mkdtemp(dir=parent, prefix=prefix + NEW))
        self._held: int | None = None
        try:
            self._held = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            _take(self._held)
            if prefix == PREFIX:  # a published model may refer to it
                open_up(new)
            self.path = new.with_name(new.name.replace(prefix + NEW, prefix, 1))
            new.rename(self.path)
        except BaseException:
            self.release()
            _remove(new)
            raise

    def record(self, **values: Any) -> None:
        """Note down for the next run what to do with it, should this one be killed."""
        assert self._held is not None
        data = json.dumps(values).encode()
        os.pwrite(self._held, data, 0)
        os.ftruncate(self._held, len(data))

    def release(self) -> None:
        """Leave it to the next run."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def close(self, spare: Sequence[str] | None = None) -> None:
        """Remove it.

        Args:
            spare: names inside that stay, and with them the folder; None removes all.
        """
        if spare is None:
            _remove(self.path)
        else:
            for p in self.path.iterdir():
                if p.is_file() and p.name not in (LOCK, *spare):
                    p.unlink(missing_ok=True)
        self.release()
        if spare is None:
            _remove(self.path)  # with the lock's file handle, should there have been none left


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files; those that killed runs have left are removed."""
    sweep(Path(tempfile.gettempdir()), SCRATCH)
    workspace = Workspace(Path(tempfile.gettempdir()), SCRATCH)
    try:
        yield workspace.path
    finally:
        with uninterrupted():
            workspace.close()


def sweep(
    parent: Path,
    prefix: str = PREFIX,
    kept: Callable[[Path, dict[str, Any]], bool] | None = None,
    alone: bool = False,
) -> None:
    """Remove the workspaces of dead processes.

    Args:
        parent: where they are.
        prefix: how their names begin.
        kept: whether a folder is to stay, given what was noted down in it.
        alone: whether nobody else makes one there meanwhile (see `locked`): those without a lock are dead, too.
    """
    with suppress(OSError):
        found = [Path(e.path) for e in os.scandir(parent) if e.name.startswith(prefix) and _is_ours(e)]
        for folder in found:
            with suppress(OSError):
                _sweep(folder, kept, alone)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if sys.platform == "win32":
        return False
    return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()


def _sweep(folder: Path, kept: Callable[[Path, dict[str, Any]], bool] | None, alone: bool) -> None:
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        if alone or time.time() - folder.stat().st_mtime > HOUR:
            _remove(folder)
        return
    try:
        if NEW in folder.name and not alone and time.time() - folder.stat().st_mtime <= HOUR:
            return
        if not _take(handle):  # it lives, or that cannot be known
            return
        try:
            noted = json.loads(os.pread(handle, 1 << 20, 0) or b"{}")
        except ValueError:  # cut short: it was killed while it noted down
            noted = {}
        if kept is None or not kept(folder, noted):
            _remove(folder)
    finally:
        os.close(handle)


@contextmanager
def locked(folders: Sequence[Path]) -> Iterator[bool]:
    """One run at a time: whoever makes a workspace in one of these folders, or publishes into it, waits.

    Yields:
        Whether the locks hold: some file systems have none.

    Raises:
        UserError: somebody else has held one for too long.
    """
    handles: list[int] = []
    hold = sys.platform != "win32"
    try:
        if sys.platform != "win32":
            unique = {(s.st_dev, s.st_ino): f for f in folders for s in [f.stat()]}
            for _, folder in sorted(unique.items()):  # all in one order: nobody waits in a circle
                try:
                    handles.append(os.open(folder, os.O_RDONLY))
                except PermissionError:
                    hold = False
                else:
                    hold = _wait(handles[-1], folder) and hold
        yield hold
    finally:
        for handle in handles:
            os.close(handle)


def _wait(handle: int, folder: Path) -> bool:
    """Wait for a lock; whether there are any."""
    start = time.monotonic()
    while (taken := _take(handle)) is False:
        if time.monotonic() - start > PATIENCE:
            raise UserError(f"{folder}: another run has been writing there for {PATIENCE:.0f} s: try again")
        time.sleep(0.005)
    return bool(taken)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until this is over."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    came: list[int] = []
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {s: signal.getsignal(s) for s in numbers}
    before = {s: h for s, h in before.items() if h not in (None, signal.SIG_IGN)}
    for each in before:
        signal.signal(each, lambda got, _frame: came.append(got))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came[:1]:
            signal.raise_signal(number)
