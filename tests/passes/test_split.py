"""OCS by halving: split channels hold exactly 2 Q(a / 2), by a second opinion; refusals; what a proof catches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from checks import LEVELS, applied, check_outputs, check_structure
from covering import in_turn
from onnx import numpy_helper
from reference import initializer, layer_weights
from typer.testing import CliRunner

from onnx_ocs.api import rewrite, verify
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.cli.app import app
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.tensor_errors import measure_layers
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import Session
from onnx_ocs.verbs.rewrite import make_passes

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS, CALIB = MODELS / "digits.w8a2.onnx", str(MODELS / "digits.calib.npz")
ROWS = [("early", 1.0), ("late", 1.0), ("auto", 0.5)]  # so that models meet the modes that test_exact.py leaves out
# One step for all rows or all of the bias, so that some cannot be halved alone; integers that are read by others.
UNLIKE = {
    "per_tensor": {"relu1": "late", "conv2": "late"},
    "opset10": {"relu1": "late", "conv2": "late"},
    "shared_parameters": {"relu1": "late", "conv2": "late"},
    "grouped_transpose": {"relu1": "late"},
    "one_channel": {"relu1": "late"},
    "output_integer": {},
}


def expected_modes(name: str, mode: str) -> dict[str, str]:
    """The tensors that are split, and how: those that are translated, and as those are, but for a few."""
    auto = UNLIKE.get(name, zoo.CASES[name].wide)
    if mode == "late":
        return {t: m if m == "carried" else "late" for t, m in auto.items()}
    return auto if mode == "auto" else {t: m for t, m in auto.items() if m != "late"}


@pytest.mark.parametrize(
    ("name", "mode", "ratio"),
    in_turn([c.name for c in zoo.TOPOLOGIES], ROWS)
    + in_turn([c.name for c in (*zoo.VARIANTS, *zoo.DIALECTS)], ROWS[1:]),
)
def test_rewrite(name: str, mode: Any, ratio: float) -> None:
    case, wanted = zoo.CASES[name], expected_modes(name, mode)
    model, feed = zoo.build(name)
    before = model.SerializeToString(deterministic=True)
    result = rewrite(model, passes=[Split(ratio, mode)])
    assert model.SerializeToString(deterministic=True) == before, "the input model was changed"
    assert applied(result) == wanted
    if not wanted:
        assert not result.changed and result.model is model
        return
    assert result.verification is not None and result.verification.verdict == "PASSED"
    for e in result.report["regions"]:
        assert e["pass"] == "split" and not any(e["copies_low"])
        if e["status"] == "applied":
            assert {*e["copies"]} <= {0, 1} and any(e["copies"]) and e["scale"] == e["scale_before"]
            assert e["x_clip_after"] == (2 * np.asarray(e["x_clip"])).tolist()
    check_outputs(case, model, result, feed, LEVELS, 0.003)
    check_structure(model, result.model, "split 1")
    again = rewrite(result.model, passes=[Split(ratio, mode)], verify=False)
    assert not again.changed and again.model is result.model


def test_early_halves_are_the_same_integers_on_half_the_step() -> None:
    model, _ = zoo.build("conv_relu_conv")
    new = rewrite(model, passes=[Split(0.5)], verify=False).model
    (_, old_rows), (layer, rows) = (layer_weights(m)["conv1/Conv"] for m in (model, new))
    dq = next(n for n in new.graph.node if layer.input[1] in n.output)
    scale, old_scale = initializer(new, dq.input[1]), initializer(model, "conv1_w_scale")
    origin = [next(k for k, r in enumerate(old_rows) if np.array_equal(r, row)) for row in rows]
    twice = np.bincount(origin)[origin] == 2
    assert len(origin) == 12 and twice.sum() == 8
    assert np.array_equal(scale, np.where(twice, old_scale[origin] / 2, old_scale[origin]))


def test_translating_and_splitting_one_file_is_refused() -> None:
    model, _ = zoo.build("conv_relu_conv")
    for first, second in ((Split(), Translate()), (Translate(), Split())):
        once = rewrite(model, passes=[first]).model
        both = rewrite(once, passes=[second])
        assert both.model is once
        assert {e["reason"]["code"] for e in both.report["regions"]} == {"already_translated"}
    with pytest.raises(UserError, match="run each on the original"):
        make_passes(["split", "translate"])


@pytest.mark.parametrize(
    ("split", "code"),
    [
        (Split(0.05), "ratio"),
        (Split(0.0), "ratio"),
    ],
)
def test_refusals(split: Split, code: str) -> None:
    model, _ = zoo.build("conv_relu_conv")
    entries = rewrite(model, passes=[split]).report["regions"]
    assert next(e for e in entries if e["tensor"] == "relu1")["reason"]["code"] == code


def test_early_mode_says_which_step_is_shared() -> None:
    model, _ = zoo.build("per_tensor")
    reason = next(e for e in rewrite(model, passes=[Split(mode="early")]).report["regions"] if e["tensor"] == "relu1")
    assert reason["reason"]["code"] == "mode" and "early_weight" in reason["reason"]["message"]


def not_halved(model: onnx.ModelProto) -> None:
    """The producer's copies get the whole step."""
    for n in model.graph.node:
        if n.op_type == "DequantizeLinear" and n.output[0].startswith("conv1_w"):
            t = next(t for t in model.graph.initializer if t.name == n.input[1])
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * np.float32(2), t.name))


def called_translated(model: onnx.ModelProto) -> None:
    """The layout says that the copies hold what lies above X_clip."""
    for n in model.graph.node:
        for p in n.metadata_props:
            if p.key == "onnx_ocs.wide":
                p.value = json.dumps({k: v for k, v in json.loads(p.value).items() if k != "halved"})


def another_copy(model: onnx.ModelProto) -> None:
    """One copy is a little off: its channel's other half must not hide it."""
    for n in model.graph.node:
        if n.op_type == "DequantizeLinear" and n.output[0].startswith("conv1_w"):
            t = next(t for t in model.graph.initializer if t.name == n.input[1])
            scale = numpy_helper.to_array(t).copy()
            scale[-1] *= 1.2
            t.CopyFrom(numpy_helper.from_array(scale, t.name))


@pytest.mark.parametrize("damage", [not_halved, called_translated, another_copy])
def test_a_wrong_split_does_not_pass(damage: Callable[[onnx.ModelProto], None]) -> None:
    model, feed = zoo.build("conv_relu_conv")
    new = onnx.ModelProto()
    new.CopyFrom(rewrite(model, passes=[Split(0.5)]).model)
    assert verify(model, new, feed)["verification"]["verdict"] == "PASSED"
    damage(new)
    assert verify(model, new, feed)["verification"]["verdict"] == "FAILED"


def test_the_report_measures_the_coarser_step() -> None:
    """Each tensor's own error is that of twice the step in split channels."""
    original = onnx.load(DIGITS)
    context = Context(open_samples(CALIB, original), 32)
    new, results = run_passes(original, [Split(0.5)], context)
    regions = find_regions(Graph(original), infer_shapes(original))
    with np.load(CALIB) as z:
        pixels = z["pixels"][:32]
    exact = Session(expose(reference(original, regions), [r.tensor for r in regions])).run({"pixels": pixels})
    found = measure_layers(original, new, context)
    split = [e for e in results["split"].regions if e["status"] == "applied"]
    assert len(split) == 11
    for e in split:
        a, unit = exact[e["tensor"]].astype(np.float64), 1 + np.asarray(e["copies"])
        step = (e["scale"] * unit).reshape(1, -1, *[1] * (a.ndim - 2))
        own = np.clip(np.rint(a / step), 0, e["qmax"]) * step
        wanted = 10 * np.log10((a**2).sum() / ((a - own) ** 2).sum())
        measured = found[tuple(e["quantizers"])]
        assert measured["error"]["isolated_after_db"] == pytest.approx(wanted, abs=1e-3)
        assert measured["mass_saved"] > 0


def test_branches_are_fitted_behind_split_channels() -> None:
    result = rewrite(onnx.load(DIGITS), calib=CALIB, limit=64, passes=[Split(0.1), Compensate(linear=True)])
    assert result.verification is not None and result.verification.verdict == "PASSED"
    assert {e["status"] for e in result.report["compensations"]} >= {"applied"}
    assert any(e["status"] == "applied" for e in result.report["regions"])


def test_command_line(tmp_path: Path) -> None:
    args = ["rewrite", str(DIGITS), str(tmp_path / "o.onnx"), "--passes", "split", "--samples", "32"]
    done = CliRunner().invoke(app, [*args, "--calib", CALIB, "--ratio", "0.05", "--html", str(tmp_path / "r.html")])
    assert done.exit_code == 0 and "PASSED" in done.output, done.output
    for extra in (["--budget", "0.1"], ["--copies", "2"], ["--select", "error"]):
        with pytest.raises(UserError, match="'split' follows the paper's rule"):
            CliRunner().invoke(app, [*args, "--calib", CALIB, *extra], catch_exceptions=False)
