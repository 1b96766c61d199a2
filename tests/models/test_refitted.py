"""The tables on reconstructed weights: what is done in a row, what is kept, what is said of it; and given networks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.tables import recipes as module
from models.tables import refitted as tables
from models.tables.bench import Bench, Setting
from models.tables.given import Given, name_in
from models.tables.recipes import Fit, Recipe, fits
from models.tables.refitted import REFITTED, refitted
from models.tables.tables import main
from onnx_ocs.errors import UserError
from onnx_ocs.records.history import history

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed network in a folder of its own, with few samples."""
    path = tmp_path_factory.mktemp("given")
    shutil.copy(MODELS / "digits.fp32.onnx", path / "small.fp32.onnx")
    for kind, count in (("calib", 64), ("test", 90)):
        with np.load(MODELS / f"digits.{kind}.npz") as z:
            np.savez(path / f"small.{kind}.npz", **{k: v[:count] for k, v in z.items()})
    return path


@pytest.fixture(scope="module")
def bench(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(tmp_path_factory.mktemp("work"), 2, given)


def test_each_seed_draws_other_samples(given: Path, bench: Given) -> None:
    with np.load(given / "small.calib.npz") as z:
        pool = {x.tobytes() for x in z["pixels"]}
    drawn = []
    for built in bench.built("small"):
        with np.load(built.calib) as z:
            drawn.append({x.tobytes() for x in z["pixels"]})
        assert built.float_model.parent == given
    assert all(len(d) == 32 and d < pool for d in drawn) and drawn[0] != drawn[1]
    assert name_in(given) == "small"


def test_a_row(bench: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, then the fit: figures are those of the file that is kept, and it is not made twice."""
    setting = Setting("small", act_bits=2)
    row = Recipe("OCS+", 0.5, early=True, fitted=True)
    one = Given(bench.folder, 1, bench.given)
    found = fits(one, setting, [Recipe(), row])
    plain, fit = found[Recipe()][0], found[row][0]
    assert row.title == "OCS+, k = 0.5, early, reconstructed"
    assert plain.macs == plain.latency == 1.0 and plain.nodes == 0
    assert fit.macs > 1.1 and fit.sqnr_db is not None and plain.sqnr_db is not None and fit.sqnr_db > plain.sqnr_db + 1
    (path,) = bench.folder.glob("small-0/*OCS+*.onnx")
    assert [e["pass"] for e in history(onnx.load(path))] == ["translate", "reconstruct"]
    monkeypatch.setattr(module, "evaluate", None)
    assert fits(one, setting, [Recipe(), row]) == found


def _told(_bench: Bench, _setting: Setting, recipes: Sequence[Recipe]) -> dict[Recipe, list[Fit]]:
    """Made-up figures: a fit brings 5 points, copies 2 more for a fifth of the time."""
    found = {}
    for r in recipes:
        gain = 5 * r.fitted + 2 * bool(r.copies)
        time = 1.2 if r.copies else 1.0
        found[r] = [Fit(v + gain, 90.0, v / 10 + gain, time, time, 3, time, 7.0) for v in (80.0, 82.0)]
    return found


class Told(Given):
    def float_scores(self, network: str) -> list[module.Scores]:
        return [module.Scores(99.0, 100.0, None)] * 2


def test_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains are counted from the reconstructed file, and divided by the time that they cost."""
    monkeypatch.setattr(tables, "fits", _told)
    bench = Told(seeds=2)
    text = refitted("bits", bench, "small").markdown("python -m models.tables bits", bench)
    assert "small (not part of this repository), W4A4 (float: 99.00 ± 0.00 %)" in text
    assert (
        "| OCS+, k = 0.5, reconstructed | 88.00 ± 1.41 | +2.00 ± 0.00 | 15.10 ± 0.14 | x 1.20 | x 1.20 | "
        "x 1.20 ± 0.00 | 7 |"
    ) in text
    assert (
        "- small, W3A3: `OCS+, k = 0.5, reconstructed` on `reconstructed`: +2.00 points (standard error 0.00), "
        "+2.00 dB for +20 % time, +1.00 dB per tenth of the time."
    ) in text
    assert "`OCS+, k = 0.5` on `as quantized`: +2.00 points" in text
    assert "| 26.42 | 59.14 | 48.49 | 41.17 |" in text and "Not comparable:" in text
    assert "| top-1, % |" in text
    found = refitted("detect", replace(bench, metric="objects"), "small").markdown("", bench)
    assert "small (not part of this repository), ort-minmax, W8A8" in found and "| objects found, % |" in found
    few = refitted("bits", bench, "small", bits=["W3A3", "W2A2"]).parts
    assert [caption.split(", ")[1].split(" (")[0] for caption, _, _ in few] == ["W3A3", "W2A2"]
    refined = refitted("bits", bench, "small", 300).markdown("", bench)
    assert "| OCS+, k = 0.5, reconstructed, refined (300 steps) |" in refined
    (_, _, rows), *_ = refitted("bits", bench, "small", without=["planned", "reconstructed"]).parts
    assert [r[0] for r in rows] == ["as quantized", "OCS+, k = 0.5", "reconstructed"], "what others are held against"


def test_mistakes(tmp_path: Path, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, said in (
        (["trained", "--reconstruct"], "--reconstruct trained: choose from bits, "),
        (
            ["bits", "--given", str(given)],
            "--given, --refine, --without and --bits are of the tables with --reconstruct",
        ),
        (["bits", "--reconstruct", "--bits", "W8A8"], "--bits W8A8: choose from W4A4, W3A3, W2A2"),
        (["bits", "--reconstruct", "--given", str(tmp_path)], "holds 0 files NAME.fp32.onnx"),
    ):
        assert main([*args, "--out", str(tmp_path)]) == 1
        assert said in capsys.readouterr().err
    (tmp_path / "a.fp32.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"there is no file .*a\.calib\.npz"):
        name_in(tmp_path)
    assert set(REFITTED) == {"bits", "ocs", "k", "cost", "saved", "gelu", "detect", "nbc"}
