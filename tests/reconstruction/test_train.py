"""Reconstruction: it computes what the file says, writes what it has trained, and mends a 2-bit model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.quantizers.registry import find_quantizer, label
from models.tables.metrics import first_output, score
from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass, run_passes

torch = pytest.importorskip("torch")
from models import reconstruct as module  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
FLOAT, CALIB = MODELS / "digits.fp32.onnx", MODELS / "digits.calib.npz"


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("low") / "w2a2.onnx"
    find_quantizer("lowbit", 2, 2)(FLOAT, path, CALIB)
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    with np.load(CALIB) as z:
        return z["pixels"]


def rewritten(*passes: Pass) -> Callable[[Path], onnx.ModelProto]:
    return lambda path: run_passes(onnx.load(path), passes, Context())[0]


@pytest.mark.parametrize(
    "make",
    [rewritten(), rewritten(Split(0.5)), rewritten(Translate(0.5)), rewritten(Translate(0.5, 1, "early"))],
    ids=["plain", "split", "translate", "early"],
)
def test_torch_and_file_agree(make: Callable[[Path], onnx.ModelProto], pixels: np.ndarray, tmp_path: Path) -> None:
    """Before the first step, and after some, what is trained is what the file computes.

    At 8 bits, where a rounding that falls to the other side does not change the answer.
    """
    find_quantizer("lowbit", 3, 8)(FLOAT, tmp_path / "low.onnx", CALIB)
    model = make(tmp_path / "low.onnx")
    for turn in range(2):
        onnx.save(model, tmp_path / "m.onnx")
        wanted = first_output(tmp_path / "m.onnx", {"pixels": pixels[:32]})
        with torch.no_grad():
            got = module._Trainable(model).run({"pixels": torch.from_numpy(pixels[:32])}).numpy()
        assert np.abs(got - wanted).max() < 0.01 * np.abs(wanted).max(), turn
        if turn == 0:
            before = model.SerializeToString(deterministic=True)
            module.reconstruct(model, FLOAT, {"pixels": pixels}, steps=3)
            assert model.SerializeToString(deterministic=True) != before


def test_it_mends_what_two_bits_destroy(low: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    """On the samples it was given, in few steps; the same steps give the same bytes, and the graph stays."""
    samples = {"pixels": pixels}
    reference = first_output(FLOAT, samples)
    files = []
    for k in range(2):
        model = onnx.load(low)
        module.reconstruct(model, FLOAT, samples, steps=40)
        files.append(tmp_path / f"{k}.onnx")
        files[-1].write_bytes(model.SerializeToString(deterministic=True))
    assert files[0].read_bytes() == files[1].read_bytes()
    before, after = (score(first_output(p, samples), reference, None, "top1") for p in (low, files[0]))
    assert after.agreement > before.agreement + 20 and after.sqnr_db > before.sqnr_db + 1
    old, new = onnx.load(low).graph, onnx.load(files[0]).graph
    assert [n.SerializeToString() for n in old.node] == [n.SerializeToString() for n in new.node]
    weights = [t for t in new.initializer if t.name.endswith("weight_quantized") and "head" not in t.name]
    arrays = [onnx.numpy_helper.to_array(t) for t in weights if "stem" not in t.name]
    assert len(arrays) == 12 and all({*np.unique(a)} <= {-1, 0, 1} for a in arrays)


def test_unknown_operators_are_named(low: Path) -> None:
    model = onnx.load(low)
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Sigmoid"
    with pytest.raises(UserError, match="Sigmoid"):
        module.reconstruct(model, FLOAT, {"pixels": np.zeros((1, 1, 8, 8), np.float32)}, steps=1)


def test_name_and_missing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert label("reconstructed", 2, 2) == "w2a2.reconstructed"
    monkeypatch.setattr("models.quantizers.registry.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install torch"):
        find_quantizer("reconstructed", 2, 2)
