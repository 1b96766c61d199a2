"""What the machine has too little of is one line, not a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_ocs import api
from onnx_ocs.errors import first_line, printable, shortage

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"


def test_first_line() -> None:
    assert first_line(ValueError("\n a\n b")) == "a"
    assert first_line(ValueError()) == "ValueError" and first_line(ValueError("x" * 9), 5) == "xxxxx"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "too little memory"),
        (RuntimeError("std::bad_alloc"), "too little memory"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "the disk is full (/tmp/x)"),
    ],
)
def test_shortage(run, error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "rewrite", short)
    code, out, err = run("rewrite", DIGITS, "o.onnx")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("Error: ") and said in err and err.endswith("nothing was written\n")
    assert not [*tmp_path.iterdir()]


def test_other_errors_keep_their_traceback() -> None:
    assert shortage(ValueError("of course")) is None and shortage(OSError(errno.EIO, "broken")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
@pytest.mark.parametrize("handles", [8, 12, 20])
def test_too_few_file_handles(handles: int, tmp_path: Path) -> None:
    """A real limit, set when everything is imported: one line, or it was enough."""
    program = (
        "import resource, sys\nfrom onnx_ocs import api\nfrom onnx_ocs.cli.app import main\n"
        "from onnx_ocs.measurement import latency\n"
        "api.rewrite\nlatency.ROUNDS = latency.LEAST\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({handles}, {handles}))\nmain()\n"
    )
    words = [sys.executable, "-c", program, "rewrite", str(DIGITS), "o.onnx", "-q"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert "Traceback" not in done.stderr and done.returncode in (0, 1)
    assert done.returncode == 0 or len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ([] if done.returncode else ["o.onnx"])


def test_printable() -> None:
    assert printable("conv/weight_1 [x]") == "conv/weight_1 [x]"
    assert printable("модель😀 → x") == "модель😀 → x"
    assert printable("\x1b[31m\x1b]0;t\x07\r\na\0\x9b") == r"\x1b[31m\x1b]0;t\x07\r\na\x00\x9b"
    assert printable("a\u202eb\u2028\ud800") == r"a\u202eb\u2028\ud800"
