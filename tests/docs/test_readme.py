"""The README's shell and Python blocks are run as they stand, but for installing and for running these tests."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.S)


def commands() -> list[list[str]]:
    """The `python -m onnx_ocs` commands and Python blocks in order; placeholder names become the example's."""
    found = []
    for kind, block in BLOCKS:
        if kind == "python":
            found.append(["-c", block])
        for line in block.splitlines() if kind == "sh" else ():
            line = re.sub(r"^pip install \S+ && ", "", line.split("#")[0].strip())
            if line.startswith("python -m onnx_ocs"):
                line = re.sub(r"(?<!\S)model\.onnx", "models/digits.w8a2.onnx", line)
                found.append(shlex.split(line.replace("samples.npz", "models/digits.calib.npz"))[1:])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    (path / "models").symlink_to(ROOT / "models")
    return path


def run(args: list[str], folder: Path) -> str:
    done = subprocess.run(args, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_blocks(folder: Path) -> None:
    """All in one folder, so that a block finds what those before it have written."""
    assert len(commands()) >= 9
    for args in commands():
        out = run([sys.executable, *args], folder)
        if "rewrite" in args or "verify" in args:
            assert out.splitlines()[-1].startswith("PASSED"), args
        elif "-c" in args:
            assert "PASSED" in out
