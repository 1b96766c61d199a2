"""The tables' harness, on the committed network: what is scored, what it may look at, what is written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.evaluate import measure
from models.networks.zoo import find_network
from models.quantizers.registry import find_quantizer
from models.tables.bench import Bench, Rewrite, Setting, Subject, Table, column, plain, planned, spread, with_passes
from models.tables.metrics import Scores
from models.tables.price import flops_bit
from models.tables.tables import TABLES, main
from onnx_ocs.measurement.cost import cost
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the committed network as that of seed 0, so that none is trained; with fewer samples."""
    path = tmp_path_factory.mktemp("tables")
    (path / "digits-0").mkdir()
    for name in ("digits.fp32.onnx", "digits.test.npz"):
        shutil.copy(MODELS / name, path / "digits-0" / name)
    with np.load(MODELS / "digits.calib.npz") as z:
        np.savez(path / "digits-0" / "digits.calib.npz", pixels=z["pixels"][:64])
    return path


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return next(Bench(folder, 1).subjects(Setting(act_bits=2)))


def test_a_table_is_written_as_it_is_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--seeds", "1", "--folder", str(folder), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "cost.md").read_text(encoding="utf-8") == text
    assert (
        "\n    python -m models.tables cost --seeds 1\n" in text
        and "onnxruntime 1." in text[text.index("Versions: ") :]
    )
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    base, ocs, plus = (next(r for r in rows if r[0] == n) for n in ("plain", "OCS, k = 0.2", "OCS+, k = 0.2"))
    low = folder / "digits-0" / "digits.w4a4.onnx"
    own = measure(find_network("digits"), next(Bench(folder, 1).built("digits")), [low])[0]
    assert base[:4] == ["plain", f"{own.task:.2f}", "", f"{own.sqnr_db:.2f}"]
    spent = [[float(c.split(" ")[0].replace(",", "")) for c in row[6:]] for row in (ocs, plus)]
    assert all(b <= a for a, b in zip(*spent, strict=True))  # copies add up in front of depthwise layers
    assert float(plus[1]) - float(base[1]) == pytest.approx(float(plus[2]), abs=0.011)


class Told(Bench):
    """Scores by what a rewrite is called, the same two seeds everywhere."""

    def scores(self, setting: Setting, rewrites: Mapping[str, Rewrite]) -> dict[str, list[Scores]]:
        gain = {"plain": 0.0, "OCS, k = 0.5": -2.0, "OCS+, k = 0.5": 3.0}
        return {n: [Scores(v + gain.get(n, 5.0), 90.0, v / 10) for v in (80.0, 82.0)] for n in rewrites}

    def float_scores(self, network: str) -> list[Scores]:
        return [Scores(99.0, 100.0, None)] * 2


def test_detection_table() -> None:
    """Everything that was scored is shown, with the paper's figures and what sets them apart."""
    text = TABLES["detect"](Told(seeds=2)).markdown("python -m models.tables detect --seeds 2", Told(seeds=2))
    assert "over 2 seeds (what is on the pages)" in text.replace("\n", " ") and "99.00 ± 0.00" in text
    planned_row = next(line for line in text.splitlines() if line.startswith("| OCS+, k = 0.5, planned |"))
    assert planned_row.count("86.00 ± 1.41 | +5.00 ± 0.00") == 2
    for name in ("W8A5", "W8A4", "ort-percentile"):
        assert f"{name}: F, %" in text
        assert f"{name}, k = 0.5: OCS -2.00 points (standard error 0.00), +0.00 dB: as the paper says." in text
    assert "| 25.01 | 23.92 | 22.95 | 16.21 |" in text and "Not comparable:" in text


def test_the_seed_and_the_network_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(TABLES) == {"ocs", "trained", "k", "cost", "bits", "gelu", "saved", "nbc", "detect"}
    with pytest.raises(SystemExit):
        main(["table5"])
    assert "table5" in capsys.readouterr().err


def test_flops_bit_count_both_widths(folder: Path, tmp_path: Path) -> None:
    low = tmp_path / "w4a3.onnx"
    find_quantizer("lowbit", 4, 3)(MODELS / "digits.fp32.onnx", low, MODELS / "digits.calib.npz")
    model = onnx.load(low)
    edges = 64 * 9 * 16 + 32 * 10  # the stem, and the linear layer
    macs = cost(model, kernels=False).macs
    assert flops_bit(model, 4) == (macs - edges) * 4 * 3 + edges * 8 * 8


def test_rewrites_see_no_test_sample(subject: Subject, tmp_path: Path) -> None:
    """Without the test samples they are what they are with them."""
    assert subject.built.test is not None
    blind = replace(subject, built=replace(subject.built, test=None))
    quick = PlanOptions(budget=0.05, effort="quick")
    for rewrite in (with_passes(Split(0.1)), with_passes(Translate(0.1)), planned(quick)):
        seen, unseen = (rewrite(s).SerializeToString(deterministic=True) for s in (subject, blind))
        assert seen == unseen != plain(subject).SerializeToString(deterministic=True)


def test_a_rewrite_that_loses_is_kept(subject: Subject) -> None:
    """Half of the channels split: the command would leave the file as it is, the table shows the loss."""
    model = with_passes(Split(0.5))(subject)
    assert cost(model, kernels=False).macs > cost(plain(subject), kernels=False).macs


def test_gains_are_paired_by_seed() -> None:
    def scores(*values: float) -> list[Scores]:
        return [Scores(v, v, v / 10) for v in values]

    found = column({"plain": scores(90, 80, 70), "better": scores(91, 82, 73)}, "plain")
    assert found == {
        "plain": ("80.00 ± 10.00", "", "8.00 ± 1.00"),
        "better": ("82.00 ± 9.00", "+2.00 ± 1.00", "8.20 ± 0.90"),
    }
    assert spread([1.5]) == "1.50"


def test_markdown() -> None:
    table = Table("A title", "What.", [("Of it", ["a", "b"], [("1", "2")])], ["seen"], "| p |", "why.")
    text = table.markdown("python -m models.tables x", Bench(seeds=3))
    assert "# A title\n\n    python -m models.tables x\n\nWhat. Mean ± standard deviation over 3 seeds" in text
    assert "Of it:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nWhat is seen:\n\n- seen\n" in text
    assert "\n| p |\n\nNot comparable: why.\n\nVersions: python 3." in text
