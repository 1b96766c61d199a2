"""`inspect`: its options reach the verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Translate

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def test_its_options(run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def inspect(*args: Any) -> None:
        seen.append(args)
        raise UserError("stopped here")

    monkeypatch.setattr(api, "inspect", inspect)
    options = ("--calib", "c.npz", "--float", "f.onnx", "--ratio", "0.2", "--copies", "3", "--mode", "late")
    code, out, err = run("inspect", DIGITS, *options, "--align", "4", "--seed", "5", "--samples", "7")
    assert (code, out, err) == (1, "", "Error: stopped here\n")
    assert seen[0][:6] == (DIGITS, "c.npz", Path("f.onnx"), [Translate(0.2, 3, "late", 4)], 5, 7)


def test_more_copies_are_candidates(run, tmp_path: Path) -> None:
    most = []
    for copies in ("1", "3"):
        assert run("inspect", DIGITS, "--copies", copies, "--ratio", "2", "--report", f"{copies}.json")[0] == 0
        report = json.loads((tmp_path / f"{copies}.json").read_text())
        most.append(max(max(r["copies"], default=0) for r in report["regions"]))
    assert most == [1, 3]


@pytest.mark.parametrize("args", [["--quiet"], ["--budget", "0.1"], ["--select", "mass"], ["--nbc-linear"]])
def test_what_it_does_not_take(run, args: list[str]) -> None:
    code, out, err = run("inspect", DIGITS, *args)
    assert (code, out) == (1, "") and err.startswith("Error: No such option")
