"""The pass reconstruct: its options, and the command line from the files to the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction import train
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.records.weights import read_refitted

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS = MODELS / "digits.w8a2.onnx"
GIVEN = ("--calib", MODELS / "digits.calib.npz", "--float", MODELS / "digits.fp32.onnx", "--samples", 64)
QUICK = ("--effort", "quick", "--copies", 2)


def samples_of(model: onnx.ModelProto, feed: dict[str, np.ndarray], count: int = 32) -> Any:
    rng = np.random.default_rng(0)
    drawn = {k: rng.standard_normal((count, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}
    return open_samples(drawn, model)


@pytest.mark.parametrize(
    ("passes", "applied"),
    [
        ("reconstruct", 14),
        pytest.param("", 0, marks=pytest.mark.slow),  # translate,reconstruct
        pytest.param("translate,reconstruct,compensate", 0, marks=pytest.mark.slow),
    ],
)
def test_on_the_command_line(run: Any, tmp_path: Path, passes: str, applied: int) -> None:
    """PASSED, an entry for each of the 14 layers, and outputs that are nearer to the float model's."""
    asked = () if not passes else ("--passes", passes)
    quick = () if passes == "reconstruct" else QUICK
    code, out, err = run("rewrite", DIGITS, "o.onnx", *GIVEN, *asked, *quick, "--report", "r.json")
    assert code == 0, err
    assert "PASSED" in out
    report = json.loads((tmp_path / "r.json").read_text())
    entries, model = report["reconstructions"], onnx.load(tmp_path / "o.onnx")
    assert len(entries) == 14
    kept = [e for e in entries if e["status"] == "applied"]
    assert len(kept) == len(read_refitted(model)) >= applied
    for e in entries:
        assert e["ridge"] > 0 and np.isfinite([e["error_before_db"], e["error_after_db"]]).all()
        assert (e["changed"] > 0) == (e["status"] == "applied") == (e["reason"] is None)
    with np.load(MODELS / "digits.calib.npz") as z:
        feed = {"pixels": z["pixels"][64:]}  # none of those that were used
    wanted = execute(onnx.load(MODELS / "digits.fp32.onnx"), feed)[0]
    before, after = (((execute(m, feed)[0] - wanted) ** 2).sum() for m in (onnx.load(DIGITS), model))
    assert after < 0.8 * before


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_run_or_the_processes(run: Any, tmp_path: Path) -> None:
    for name, jobs in (("a.onnx", 1), ("b.onnx", 2)):
        code, _, err = run("rewrite", DIGITS, name, *GIVEN, *QUICK, "--no-verify", "--jobs", jobs)
        assert code == 0, err
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_refined_on_the_command_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(train, "_likely", lambda *_: True)  # of 16 feeds none can be sure of so small a gain
    code, out, err = run("rewrite", DIGITS, "o.onnx", *GIVEN, "--passes", "reconstruct", "--refine", 40)
    assert code == 0, err
    assert "PASSED" in out and "refined with gradients: 14 layers" in " ".join(out.split())


def test_a_second_run_changes_nothing() -> None:
    model, feed = build("bias_int32_residual")
    context = Context(samples_of(model, feed, 48), floats=None)
    new, results = run_passes(model, [Reconstruct()], context)
    again, second = run_passes(new, [Reconstruct()], context)
    if results["reconstruct"].changed:
        assert again is new and not second["reconstruct"].changed


def test_a_file_of_an_earlier_run_stands_for_its_float_model() -> None:
    """Translated before, and no float model: its layers are fitted all the same, copies follow."""
    model, feed = build("bias_int32_residual")
    wide, _ = run_passes(model, [Translate(ratio=1.0)], Context())
    assert read_layouts(wide)
    _, results = run_passes(wide, [Reconstruct()], Context(samples_of(wide, feed, 48)))
    for e in results["reconstruct"].reconstructions:
        assert e["ridge"] is not None and (e["reason"] is None or e["reason"]["code"] == "taken_back")


def test_what_is_said_about_the_options() -> None:
    model, feed = build("conv_relu_conv")
    with pytest.raises(UserError, match="--calib"):
        run_passes(model, [Reconstruct()], Context())
    with pytest.raises(UserError, match="no input 'mask'"):
        run_passes(model, [Reconstruct(mask="mask")], Context(samples_of(model, feed)))
    with pytest.raises(UserError, match="--refine often"):
        Reconstruct(refine="often")
