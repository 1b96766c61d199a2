"""The scripts in models/ that the README shows: the export pipeline, and the picture."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import onnx
import pytest

import onnx_ocs

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "models" / script), *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pipeline(tmp_path, monkeypatch):
    """From a torch module to a file that is better than the one it came from; the gate closes when asked for more."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    done = run("pipeline.py", tmp_path, "--gate", 0.5)
    assert done.returncode == 0, done.stdout + done.stderr
    gains = dict(re.findall(r"\| (\w+)\.onnx \| [\d.]+% \| ([\d.]+) dB \|", done.stdout))
    assert float(gains["wide"]) > float(gains["int8"]) + 0.5
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["verification"]["verdict"] == "PASSED"
    assert report["cost"]["macs_after"] <= 1.1 * report["cost"]["macs_before"] + 1
    again = onnx_ocs.verify(tmp_path / "int8.onnx", tmp_path / "wide.onnx")
    assert again["verification"]["verdict"] == "PASSED"
    before, after = (onnx.load(tmp_path / f"{name}.onnx") for name in ("float", "wide"))
    assert before.graph.input == after.graph.input
    assert gate_again(monkeypatch, tmp_path, 60) == 1 and gate_again(monkeypatch, tmp_path, 0.5) == 0


def gate_again(monkeypatch: pytest.MonkeyPatch, folder: Path, gate: float) -> int:
    """The script's exit code on the files that it has made: nothing is trained, quantized or rewritten again."""
    from models import pipeline

    monkeypatch.setattr(sys, "argv", ["pipeline.py", str(folder), "--gate", str(gate)])
    monkeypatch.setattr(pipeline, "train", lambda *_: None)
    monkeypatch.setattr(pipeline, "export", lambda *_: None)
    monkeypatch.setitem(pipeline.QUANTIZERS, "onnxruntime", lambda *_: None)
    monkeypatch.setattr(pipeline.onnx_ocs, "rewrite", lambda *_, **__: SimpleNamespace(changed=True, report={}))
    return pipeline.main()


@pytest.mark.slow
def test_pipeline_with_nncf(tmp_path):
    """The same behind another quantizer, where that is installed."""
    for package in ("torch", "sklearn", "nncf"):
        pytest.importorskip(package)
    done = run("pipeline.py", tmp_path, "--gate", 1, "--quantizer", "nncf")
    assert done.returncode == 0, done.stdout + done.stderr
    assert onnx.load(tmp_path / "int8.onnx").graph.node != onnx.load(tmp_path / "wide.onnx").graph.node
    again = onnx_ocs.verify(tmp_path / "int8.onnx", tmp_path / "wide.onnx")
    assert again["verification"]["verdict"] == "PASSED"


def test_picture(tmp_path, monkeypatch):
    """The committed picture and a fresh one, made with less effort, say the same, up to what the planner finds here."""
    out, rewrite = tmp_path / "p.svg", onnx_ocs.rewrite

    def quick(*args, options, **given):
        return rewrite(*args, options=replace(options, effort="quick"), limit=48, **given)

    monkeypatch.setattr(sys, "argv", ["picture.py", "--out", str(out)])
    monkeypatch.setattr(onnx_ocs, "rewrite", quick)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "models" / "picture.py"), run_name="__main__")
    assert end.value.code == 0
    texts = []
    for path in (ROOT / "models" / "picture.svg", out):
        root = ElementTree.parse(path).getroot()
        texts.append({t.text for t in root.iter("{http://www.w3.org/2000/svg}text")})
        assert path.stat().st_size < 30_000
    words = {"X_clip", "2 X_clip", "Q(a) + Q(relu(a - X_clip))", "old", "new", "activation a"}
    assert words <= texts[0] & texts[1]
