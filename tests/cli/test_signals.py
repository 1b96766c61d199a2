"""A run that is stopped by a signal says what it has done, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from warm import QUICK

from onnx_ocs import api, cli
from onnx_ocs.cli import outputs
from onnx_ocs.errors import UserError
from onnx_ocs.model.publishing import Transaction

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
SLOW = """
import time
import numpy as np
def feeds():
    for k in range(400):
        open("reading", "w").close()
        time.sleep(0.05)
        yield {"pixels": np.full((1, 1, 8, 8), k % 16, np.float32)}
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Signals work, here and in processes of ours: a shell's background has Ctrl-C ignored, and nohup a hang-up."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


def ours(folder: Path) -> list[str]:
    """What is left in the system's folder for temporary files; onnxruntime keeps one of its own there."""
    return [p.name for p in folder.iterdir() if p.name != ".ses"]


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    """A rewrite in a process of its own that is reading its samples."""
    (folder / "slow.py").write_text(SLOW)
    (folder / "tmp").mkdir()
    (folder / "o.onnx").write_bytes(b"old")
    words = [sys.executable, "-B", "-m", "onnx_ocs", "rewrite", str(DIGITS), "o.onnx", "--calib", "slow:feeds", *more]
    env = {**os.environ, "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    while not (folder / "reading").exists() and process.poll() is None:
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_while_it_works(number: signal.Signals, tmp_path: Path) -> None:
    process = started(tmp_path, "--report", "r.json", "--stats", "s.npz")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "")
    assert err.strip() == "Interrupted: nothing was written."
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.onnx", "reading", "slow.py", "tmp"]
    assert (tmp_path / "o.onnx").read_bytes() == b"old"
    assert not ours(tmp_path / "tmp")


def test_what_had_been_published_is_said(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes while files are put in their places waits until all are there."""
    genuine = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).name == "r.json":
            signal.raise_signal(signal.SIGTERM)
        return genuine(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--report", "r.json", "-q")
    assert code == 128 + signal.SIGTERM
    assert err == "Interrupted: o.onnx, r.json had been written.\n" and out.startswith("PASSED")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.onnx", "r.json"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("error", [ImportError("initialization failed"), UserError("slow:feeds failed")])
def test_what_a_library_makes_of_an_interrupt(
    error: Exception, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import in C that is interrupted fails with ImportError."""

    def failing(*_: object, **__: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise error

    monkeypatch.setattr(api, "rewrite", failing)
    code, out, err = run("rewrite", DIGITS, "o.onnx", "-q")
    assert (code, out, err) == (128 + signal.SIGINT, "", "Interrupted: nothing was written.\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not [*tmp_path.iterdir()]


def test_stopped_while_it_is_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Module(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "onnx_ocs.cli.app", Module("app"))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code, capsys.readouterr().err) == (130, "Interrupted: nothing was written.\n")


def test_an_interrupt_knows_the_transaction(tmp_path: Path) -> None:
    with pytest.raises(outputs.Interrupted) as stopped, outputs.publishing() as transaction:
        assert isinstance(transaction, Transaction)
        transaction.file(tmp_path / "a", b"")
        transaction.publish()
        raise KeyboardInterrupt
    assert stopped.value.args == ((tmp_path / "a",),)


def test_a_killed_run_is_swept_by_the_next(tmp_path: Path) -> None:
    """kill -9: temporary folders, those beside the output and those in the system's folder, go with the next run."""
    process = started(tmp_path)
    process.kill()
    process.communicate()
    for folder, name in ((tmp_path / "tmp", "onnx_ocs_dead"), (tmp_path, ".onnx_ocs.dead")):
        (folder / name).mkdir()
        (folder / name / "lock").touch()
    np.savez(tmp_path / "c.npz", pixels=np.zeros((9, 1, 8, 8), np.float32))
    words = [*QUICK, "rewrite", str(DIGITS), "o.onnx", "-q"]
    subprocess.run(words, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.npz", "o.onnx", "reading", "slow.py", "tmp"]
    assert not ours(tmp_path / "tmp")
