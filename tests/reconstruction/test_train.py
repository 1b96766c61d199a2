"""Refinement with gradients: what is written is what was trained, ties hold, nothing else changes or gets worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from reference import initializer
from zoo import build, execute

from models.quantizers.registry import find_quantizer, label
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction.train import Effort, parse_refine, refine
from onnx_ocs.records.layouts import read_scales
from onnx_ocs.records.weights import digest, read_refitted

pytest.importorskip("torch")
MODELS = Path(__file__).resolve().parents[2] / "models"
FLOAT, CALIB, LOW = MODELS / "digits.fp32.onnx", MODELS / "digits.calib.npz", MODELS / "digits.w8a2.onnx"


def pixels() -> np.ndarray:
    with np.load(CALIB) as z:
        return z["pixels"]


def noise(model: onnx.ModelProto, feed: dict[str, np.ndarray], wanted: np.ndarray) -> float:
    return float(((execute(model, feed)[0] - wanted) ** 2).sum() / (wanted**2).sum())


def translated() -> onnx.ModelProto:
    return run_passes(onnx.load(LOW), [Translate(0.5, 1, "early")], Context())[0]


@pytest.mark.parametrize("make", [lambda: onnx.load(LOW), translated], ids=["plain", "translated"])
def test_it_gets_closer_to_the_float_model(make: Any) -> None:
    """On samples that it has not seen, in few steps; the same steps give the same bytes; the report says so."""
    model, floats = make(), onnx.load(FLOAT)
    seen, unseen = pixels()[:192], {"pixels": pixels()[192:]}
    ticks: list[tuple[str, int, int | None]] = []

    def run() -> tuple[onnx.ModelProto, Any]:
        samples = open_samples({"pixels": seen}, model)
        return refine(model, samples, floats, steps=24, seed=1, progress=lambda *t: ticks.append(t))

    new, done = run()
    assert new.SerializeToString(deterministic=True) == run()[0].SerializeToString(deterministic=True)
    assert ticks[-1][1:] == (24, 24) and len(ticks) == 48
    target = execute(floats, unseen)[0]
    assert noise(new, unseen, target) < 0.85 * noise(model, unseen, target)
    (before, after) = done.errors["logits"]
    assert after < before and done.best and done.layers == 14 and done.samples == (168, 24)
    assert done.as_dict()["errors"]["logits"] == {"before": before, "after": after}
    declared = read_refitted(new)
    assert len(declared) == 14
    for r in declared.values():
        assert digest(initializer(new, r.weight.name)) == r.weight.digest
    assert (done.rescaled > 0) == bool(read_scales(new))


def test_it_mends_what_two_bits_destroy(tmp_path: Path) -> None:
    find_quantizer("lowbit", 2, 2)(FLOAT, tmp_path / "low.onnx", CALIB)
    model, floats, feed = onnx.load(tmp_path / "low.onnx"), onnx.load(FLOAT), {"pixels": pixels()}
    new, _ = refine(model, open_samples(feed, model), floats, steps=40)
    target = execute(floats, feed)[0]
    same = [np.mean(execute(m, feed)[0].argmax(1) == target.argmax(1)) for m in (model, new)]
    assert same[1] > same[0] + 0.2 and noise(new, feed, target) < 0.8 * noise(model, feed, target)
    arrays = [numpy_helper.to_array(t) for t in new.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    inner = [a for a in arrays if a.ndim == 4 and np.abs(a).max() < 4]
    assert len(inner) == 12 and all({*np.unique(a)} == {-1, 0, 1} for a in inner)


def test_never_worse() -> None:
    """A model that cannot be better comes back as it is: its own answers are the target."""
    model = onnx.load(LOW)
    new, done = refine(model, open_samples({"pixels": pixels()[:32]}, model), model, steps=3)
    assert new is model and done.best == 0 and done.note and done.errors["logits"] == (pytest.approx(0, abs=1e-12),) * 2
    few, done = refine(model, open_samples({"pixels": pixels()[:4]}, model), model, steps=3)
    assert few is model and done.steps == 0 and "fewer than" in done.note


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(LOW)
    samples = open_samples({"pixels": pixels()[:32]}, model)
    strange = onnx.load(LOW)
    next(n for n in strange.graph.node if n.op_type == "Relu").op_type = "Sin"
    before = strange.SerializeToString(deterministic=True)
    with pytest.raises(UserError, match="operator Sin"):
        refine(strange, samples, model, steps=1)
    assert strange.SerializeToString(deterministic=True) == before
    monkeypatch.setattr("onnx_ocs.reconstruction.train.stand_in", lambda _: None)
    with pytest.raises(UserError, match="--float"):
        refine(translated(), samples, None, steps=1)
    with pytest.raises(UserError, match="steps or of minutes"):
        refine(model, samples, model)
    monkeypatch.setattr("onnx_ocs.reconstruction.train.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'onnx-ocs\[refine\]'"):
        refine(model, samples, model, steps=1)


def test_a_fixed_batch_and_a_budget_of_time() -> None:
    """Feeds that cannot be put together are run one by one; minutes become steps."""
    model, feed = build("fixed_batch")
    rng = np.random.default_rng(0)
    feeds = [{k: rng.normal(size=v.shape).astype(v.dtype) for k, v in feed.items()} for _ in range(10)]
    samples = Samples("made", lambda _size, _limit: ((2, f) for f in feeds))
    _, done = refine(model, samples, None, minutes=0.02)
    assert done.steps >= 10 and sum(done.samples) == 10


@pytest.mark.parametrize(
    ("text", "effort"),
    [
        ("400", Effort(steps=400)),
        ("3m", Effort(minutes=3)),
        ("1.5 min", Effort(minutes=1.5)),
        ("2h", Effort(minutes=120)),
    ],
)
def test_the_option(text: str, effort: Effort) -> None:
    assert parse_refine(text) == effort


@pytest.mark.parametrize("text", ["", "0", "x", "1.5", "-3", "3s", "0m"])
def test_the_option_refuses(text: str) -> None:
    with pytest.raises(UserError, match="--refine"):
        parse_refine(text)


def test_the_quantizer_that_refines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert label("reconstructed", 2, 2) == "w2a2.reconstructed"
    monkeypatch.setattr("models.quantizers.registry.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'onnx-ocs\[refine\]'"):
        find_quantizer("reconstructed", 2, 2)
