"""The picture of quality against time: which rows are drawn, and which nothing beats."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from models.tables.pareto import Point, best, main, of_comparison, of_tables
from models.tables.recipes import Fit
from models.tables.rows import Row


def test_the_best() -> None:
    a, b, c, d = Point("a", 1.0, 10.0), Point("b", 1.0, 12.0), Point("c", 1.2, 11.0), Point("d", 1.3, 14.0)
    assert best([d, c, b, a]) == [b, d]


def test_rows_of_tables(tmp_path: Path) -> None:
    """The mean over the seeds; other bits and other networks are not in it."""
    for seed, sqnr in ((0, 10.0), (1, 12.0)):
        folder = tmp_path / f"net-{seed}"
        folder.mkdir()
        for name in ("net.w2a2.OCS+_k=0.5_reconstructed", "net.w4a4.asquantized"):
            fit = Fit(90.0, 90.0, sqnr, 1.1, 1.1, 2, 1.0 + seed, 3.0)
            (folder / f"{name}.json").write_text(json.dumps(asdict(fit)), encoding="utf-8")
    assert of_tables(tmp_path, "net", "w2a2") == [Point("OCS+, k=0.5, reconstructed", 1.5, 11.0)]
    out = tmp_path / "x.svg"
    assert main([str(tmp_path), "--network", "net", "--bits", "w2a2", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<svg") and "OCS+, k=0.5, reconstructed: 11.0 dB, x 1.50" in text and "W2A2" in text


def test_rows_of_a_comparison(tmp_path: Path) -> None:
    """Times are made ones to the same file: a rewrite's is against its own quantizer's."""
    rows = [
        Row("onnxruntime, min-max (1)", "", sqnr_db=20.0),
        Row("NNCF (2)", "", sqnr_db=16.0, latency=1.5),
        Row("NNCF (2)", "default", sqnr_db=25.0, latency=1.2, verdict="PASSED"),
        Row("AIMET (3)", "", sqnr_db=30.0),  # onnxruntime does not load it with integer kernels
        Row("Quark", "", said="fails"),
    ]
    for k, row in enumerate(rows):
        (tmp_path / f"{k}.json").write_text(json.dumps(asdict(row)), encoding="utf-8")
    assert of_comparison(tmp_path) == [
        Point("onnxruntime, min-max (1)", 1.0, 20.0),
        Point("NNCF (2)", 1.5, 16.0),
        Point("NNCF (2), then default", pytest.approx(1.8), 25.0),
    ]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "x.svg")]
    assert main([str(tmp_path), *out]) == 1
    assert "say --network and --bits" in capsys.readouterr().err
    assert main([str(tmp_path), "--network", "a", "--bits", "w2a2", *out]) == 1
    assert "no kept row" in capsys.readouterr().err
