"""A real disk that is full: a few kilobytes on a tmpfs, in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"
SPACE = ["unshare", "--mount", "--"]
PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from onnx_ocs.cli.app import main
from onnx_ocs.model import files

small = Path("small")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", small], check=True)

def rewrite(ratio):
    words = ["in.onnx", small / "o.onnx", "--ratio", ratio, "-q", "--no-verify", "--report", small / "r.json"]
    sys.argv = ["onnx-ocs", "rewrite", *map(str, words)]
    try:
        main()
    except SystemExit as stop:
        return stop.code

def state():
    return files.fingerprint(files.load_model(small / "o.onnx")), (small / "r.json").read_bytes()

def whole(ratio):
    assert rewrite(ratio) == 0
    return state()

new, old = whole(0.6), whole(0.3)
names = sorted(os.listdir(small))
ends = set()
for room in (0, 50_000, 150_000, *range(212_000, 236_000, 6_000), 300_000):
    free = os.statvfs(small).f_bavail * 4096
    (small / "balloon").write_bytes(bytes(max(0, free - room)))
    code = rewrite(0.6)
    (small / "balloon").unlink()
    assert sorted(os.listdir(small)) == names, os.listdir(small)
    assert state() == (old if code else new), (room, code)
    ends.add(code)
    if not code:
        whole(0.3)
print(sorted(ends), ",".join(names))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run([*SPACE, "true"], capture_output=True).returncode != 0,
    reason="needs a mount namespace",
)
def test_full_at_every_moment(tmp_path: Path) -> None:
    """With so much room left and so much: all of the new files, or the old ones as they were, and one line."""
    onnx.save(onnx.load(DIGITS), tmp_path / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "small").mkdir()
    done = subprocess.run([*SPACE, sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 1] o.onnx,r.json,w.bin"
    said = done.stderr.splitlines()
    assert said and all(line.startswith("Error: small/") and "No space left on device" in line for line in said)
    assert not [*(tmp_path / "small").iterdir()]
