"""The README's shell and Python blocks are run as they stand, but for installing and for running these tests."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.S)


def commands() -> list[str]:
    """The `python -m onnx_ocs` commands; the guide's placeholder names become the example's."""
    found = []
    for kind, block in BLOCKS:
        for line in block.splitlines() if kind == "sh" else ():
            line = line.split("#")[0].strip().removeprefix("pip install . && ")
            if line.startswith("python -m onnx_ocs"):
                line = re.sub(r"(?<!\S)model\.onnx", "models/digits.w8a2.onnx", line)
                found.append(line.replace("samples.npz", "models/digits.calib.npz"))
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


def test_commands(folder: Path) -> None:
    assert len(commands()) >= 6
    for line in commands():
        out = run([sys.executable, *shlex.split(line)[1:]], folder)
        if " rewrite " in line or " verify " in line:
            assert out.splitlines()[-1].startswith("PASSED"), line


def test_python_blocks(folder: Path) -> None:
    for kind, block in BLOCKS:
        if kind == "python":
            assert "PASSED" in run([sys.executable, "-c", block], folder)


def test_every_refusal_is_explained() -> None:
    """A code that the program can give stands in the README, and the README names no other."""
    source = "".join(p.read_text(encoding="utf-8") for d in ("onnx_ocs", "passes") for p in (ROOT / d).glob("*.py"))
    given = set(re.findall(r'(?:Refusal|no)\(\s*"(\w+)"', source))
    given |= set(re.findall(r'code = "(\w+)"', source)) | set(re.findall(r'"code": "(\w+)"', source))
    given |= set(re.findall(r'code = "(\w+)" if missing else "(\w+)"', source)[0])
    start = README.index("## Why a tensor was left alone")
    told = set(re.findall(r"`(\w+)`", README[start : README.index("## From Python")]))
    assert given <= told, given - told
    assert told - given <= {"rescale", "already_translated", "mode"} | set(re.findall(r'^    "(\w+)": "', source, re.M))
