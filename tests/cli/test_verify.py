"""`verify`: its options reach the verb, and the verdict is the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_ocs import api
from onnx_ocs.errors import UserError

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"
NOTHING = Path(__file__).resolve().parents[1] / "data" / "ort_cnn_l17_f8.onnx"


def test_its_options(run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def verify(*args: Any) -> None:
        seen.append(args)
        raise UserError("stopped here")

    monkeypatch.setattr(api, "verify", verify)
    options = ("--calib", "c.npz", "--float", "f.onnx", "--seed", "5", "--samples", "7")
    assert run("verify", DIGITS, "o.onnx", *options) == (1, "", "Error: stopped here\n")
    assert seen == [(DIGITS, Path("o.onnx"), "c.npz", Path("f.onnx"), 5, 7, False)]


@pytest.mark.parametrize(("other", "code"), [(DIGITS, 0), (NOTHING, 2)])
def test_the_verdict_is_the_exit_code(run, other: Path, code: int) -> None:
    found, out, _ = run("verify", DIGITS, other, "-q")
    assert found == code
    assert out.splitlines()[-1].startswith("PASSED" if code == 0 else "FAILED") and len(out.splitlines()) == 1
