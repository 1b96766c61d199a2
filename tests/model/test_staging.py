"""Workspaces and locks: nothing of a dead process stays, nothing of a living one is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.model import files, staging
from onnx_ocs.model.staging import PREFIX, Workspace, locked, scratch, sweep, uninterrupted

MAKE = (
    "import sys, time\nfrom pathlib import Path\nfrom onnx_ocs.model.staging import Workspace\n"
    "w = Workspace(Path(sys.argv[1]))\n(w.path / 'big').write_bytes(b'x')\nprint('made', flush=True)\ntime.sleep(60)\n"
)


def test_a_dead_process_workspace_is_swept_and_a_living_one_is_not(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", MAKE, tmp_path], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    mine = Workspace(tmp_path)
    sweep(tmp_path)
    assert len([*tmp_path.iterdir()]) == 2
    other.kill()
    other.wait()
    other.stdout.close()
    sweep(tmp_path)
    assert [*tmp_path.iterdir()] == [mine.path]
    mine.close()
    assert not [*tmp_path.iterdir()]


def test_only_workspaces_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(".hidden")
    (tmp_path / f"{PREFIX}young").mkdir()  # its process may be about to lock it
    old = tmp_path / f"{PREFIX}old"
    old.mkdir()
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", *(PREFIX + n for n in ("file", "link", "young"))]


def test_killed_before_its_lock(tmp_path: Path) -> None:
    """Workspaces are made under the folder's lock: who holds it knows that the maker of one without a lock is dead."""
    for name in ("new_none", "new_lock"):
        (tmp_path / (PREFIX + name)).mkdir()
    (tmp_path / (PREFIX + "new_lock") / "lock").touch()
    sweep(tmp_path)
    assert len([*tmp_path.iterdir()]) == 2  # its process may live
    files.write_bytes(tmp_path / "x", b"another run")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_whether_locks_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked([tmp_path]) as hold:
        assert hold is (sys.platform != "win32")
    monkeypatch.setattr(staging, "_take", lambda handle: None)  # a file system without locks
    with locked([tmp_path]) as hold:
        assert not hold


def test_what_was_noted_down_decides(tmp_path: Path) -> None:
    for name in ("a", "b", "garbage"):
        (tmp_path / (PREFIX + name)).mkdir()
        (tmp_path / (PREFIX + name) / "lock").write_text(json.dumps({"model": name}) if name != "garbage" else "{")
    sweep(tmp_path, kept=lambda folder, noted: noted.get("model") == "b")
    assert [p.name for p in tmp_path.iterdir()] == [PREFIX + "b"]
    w = Workspace(tmp_path)
    w.record(model="long" * 10)
    w.record(model="b")
    assert (w.path / "lock").read_text() == '{"model": "b"}'
    w.close()


def test_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.tempfile, "tempdir", str(tmp_path))
    stale = tmp_path / "onnx_ocs_stale"
    stale.mkdir()
    (stale / "lock").touch()
    with scratch() as folder:
        (folder / "x").touch()
        assert [*tmp_path.iterdir()] == [folder]
    assert not [*tmp_path.iterdir()]


def test_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked([tmp_path / ".", tmp_path]):
            order.append("second")

    with locked([tmp_path, tmp_path]):  # the same folder twice
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PATIENCE", 0.05)
    with locked([tmp_path]), pytest.raises(UserError, match="another run has been writing there"), locked([tmp_path]):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    (tmp_path / f"{PREFIX}a").mkdir()
    (tmp_path / f"{PREFIX}a" / "lock").touch()
    monkeypatch.setattr(staging.fcntl, "flock", none)
    with locked([tmp_path]):
        sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{PREFIX}a"]  # it may live


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait(number: int) -> None:
    done: list[str] = []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            with uninterrupted():
                signal.raise_signal(number)
                done.append("all of it")
            done.append("nothing more")
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert done == ["all of it"]
