"""Rewritten files in OpenVINO: they are as close to onnxruntime there as their originals are, in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_ocs
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.runtime.cpu import may_saturate
from onnx_ocs.runtime.session import Session
from onnx_ocs.targets.openvino import RULES

ROOT = Path(__file__).resolve().parents[2]
DATA, DIGITS = ROOT / "tests" / "data", ROOT / "models" / "digits.w8a2.onnx"
FORMS: dict[str, list[Any]] = {
    "early": [Translate(0.5, 1, "early", runtime="openvino")],
    "late": [Translate(0.5, 2, "late", runtime="openvino")],
    "auto": [Translate(0.5, 2, runtime="openvino")],
    "split": [Split(0.5)],
    "fitted": [Reconstruct()],
    "branches": [Compensate()],
}
# uint8 with a residual sum; depthwise layers; a step for each channel; signed
FILES = ["ort_cnn_l13_u8s8pc", "nncf_mbv2_l17_pt", "nncf_hswish_l17_default", "aimet_leaky_l17_w8a8signed"]
CALIBRATED = ("fitted", "branches")  # long work, on the first file
CASES = [(n, f) for n in FILES for f in FORMS if f not in CALIBRATED or n == FILES[0]]
WORSE, EXACT = 1.0, 60.0  # dB below the original's; what float arithmetic leaves
SATURATED = 20.0  # dB of an original: less is what saturation in its kernels leaves, and no figure to hold others to


def samples(model: onnx.ModelProto, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    found = {}
    for i in model.graph.input:
        dims = [d.dim_value or 1 for d in i.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        found[i.name] = (rng.laplace(size=(count, *dims[1:])) * 2).astype(dtype)
    return found


def agreement_db(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> float:
    """SQNR of OpenVINO's first output against onnxruntime's, all samples together."""
    ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")
    compiled = ov.Core().compile_model(ov.Core().read_model(model.SerializeToString()), "CPU",
                                       {"INFERENCE_PRECISION_HINT": "f32"})  # fmt: skip
    session = Session(model, "disable_all")
    signal = noise = 0.0
    for k in range(len(next(iter(feeds.values())))):
        feed = {name: v[k : k + 1] for name, v in feeds.items()}
        want = session.run(feed)[session.outputs[0]].astype(np.float64)
        got = np.asarray(compiled(feed)[0]).astype(np.float64)
        signal, noise = signal + float((want**2).sum()), noise + float(((want - got) ** 2).sum())
    return float(10 * np.log10(signal / noise)) if noise > 0 else np.inf


@pytest.mark.parametrize(("name", "form"), CASES)
def test_vendored_files(name: str, form: str) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")
    model = onnx.load(DATA / f"{name}.onnx")
    feeds = samples(model, 32)
    calib = samples(model, 16) if form in CALIBRATED else None
    new = onnx_ocs.rewrite(model, passes=FORMS[form], calib=calib, verify=False)
    if not new.changed:
        pytest.skip("nothing is rewritten")
    if may_saturate() and form == "fitted":
        pytest.skip("integer kernels saturate on this CPU, other weights at other places")
    before, after = agreement_db(model, feeds), agreement_db(new.model, feeds)
    if may_saturate() and before < SATURATED:
        pytest.skip(f"integer kernels saturate on this CPU: the original is {before:.1f} dB from onnxruntime")
    assert after >= min(before - WORSE, EXACT), (before, after)


def test_the_example() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")
    model = onnx.load(DIGITS)
    with np.load(ROOT / "models" / "digits.calib.npz") as data:
        feeds = {k: data[k][:64] for k in data.files}
    before = agreement_db(model, feeds)
    for passes in (FORMS["early"], FORMS["late"], FORMS["auto"]):
        after = agreement_db(onnx_ocs.rewrite(model, passes=passes, verify=False).model, feeds)
        assert after >= min(before - WORSE, EXACT), (before, after)


def test_its_rules() -> None:
    """What the measurements above and those of `docs/targets.md` ask for."""
    assert RULES.floats and RULES.align == 8 and RULES.activations == {"int8", "uint8"}
