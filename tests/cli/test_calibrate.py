"""`calibrate` and `merge`: what they write, and what they say of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_ocs.calibration.statistics import Statistics

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
BASIC = ("calibrate", DIGITS, "-o", "s.npz", "--calib", CALIB)


def test_shards_and_their_sum(run: Any, tmp_path: Path) -> None:
    for k in (1, 2):
        args = ("calibrate", DIGITS, "-o", f"{k}.npz", "--calib", CALIB, "--samples", 60, "--shard", f"{k}/2")
        code, out, err = run(*args)
        assert (code, err) == (0, "") and out == f"13 tensors on {32 if k == 1 else 28} samples: {k}.npz\n"
    assert run("merge", "2.npz", "1.npz", "-o", "all.npz") == (0, "13 tensors on 60 samples: all.npz\n", "")
    assert Statistics.read(tmp_path / "all.npz").samples == 60
    code, out, err = run("merge", "2.npz", "-o", "some.npz")
    assert (code, out) == (1, "") and err.startswith("Error: feeds 0 to 3 of 8 are in none of the files")
    assert run("merge", "2.npz", "-o", "some.npz", "--partial", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (BASIC[:4], "Missing option '--calib'"),
        ((*BASIC[:2], *BASIC[4:]), "Missing option '--out'"),
        ((*BASIC, "--shard", "3"), "--shard 3: give K/N with K from 1 to N"),
        ((*BASIC, "--shard", "0/2"), "--shard 0/2: give K/N with K from 1 to N"),
        ((*BASIC, "--shard", "3/2"), "--shard 3/2: give K/N with K from 1 to N"),
        ((*BASIC, "--executor", "mpi"), "the executor 'mpi' is not known"),
        ((*BASIC, "--report", "r.json"), "No such option"),
        (("merge", "-o", "s.npz"), "Missing argument"),
        (("merge", "x.npz", "-o", "x.npz"), "-o x.npz is the same file as x.npz"),
        (("merge", "x.npz", "-o", "s.npz"), "x.npz: not a statistics file of onnx_ocs"),
    ],
)
def test_mistakes(run: Any, tmp_path: Path, args: tuple[Any, ...], message: str) -> None:
    (tmp_path / "x.npz").write_bytes(b"none")
    code, out, err = run(*args)
    assert (code, out) == (1, "") and err.startswith(f"Error: {message}") and len(err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
