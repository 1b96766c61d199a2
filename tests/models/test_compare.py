"""The comparison with other quantizers: its harness, on the committed network, with onnxruntime's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.quantizers.peers import PEERS, Reader, ends
from models.tables import compare as module
from models.tables.compare import Task, main
from models.tables.metrics import evaluate, first_output
from models.tables.rows import Row, table
from onnx_ocs import verify

MODELS = Path(__file__).resolve().parents[2] / "models"
FLOAT, TEST = MODELS / "digits.fp32.onnx", MODELS / "digits.test.npz"
NAME = "onnxruntime, percentile 99.9"
QUICK = ("--only", "percentile 99", "--chain", "default", "--chain", "translate")


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few calibration samples."""
    path = tmp_path_factory.mktemp("calib") / "calib.npz"
    with np.load(MODELS / "digits.calib.npz") as z:
        np.savez(path, pixels=z["pixels"][:48])
    return path


@pytest.fixture(scope="module")
def done(calib: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one quantizer's comparison."""
    folder = tmp_path_factory.mktemp("compare")
    assert main([str(FLOAT), str(calib), str(TEST), *QUICK, "--folder", str(folder)]) == 0
    return folder


def rows(folder: Path) -> dict[str, Row]:
    """The kept rows by chain."""
    found = [Row(**json.loads(p.read_text(encoding="utf-8"))) for p in folder.glob("*.json")]
    return {r.chain: r for r in found}


def test_figures(done: Path) -> None:
    """What stands in the table is what the files do on the test samples."""
    found = rows(done)
    assert set(found) == {"", "default", "translate"} and found["translate"].verdict == "PASSED"
    with np.load(TEST) as z:
        samples = dict(z)
    reference = first_output(FLOAT, samples)
    for chain, row in found.items():
        path = done / f"onnxruntime_percentile_99.9{'.' * bool(chain)}{chain}.onnx"
        scores = evaluate(path, reference, samples, "top1")
        assert (row.task, row.sqnr_db) == (scores.task, scores.sqnr_db)
        assert row.seconds is not None and row.seconds > 0
    free = found["default"]
    assert (free.macs, free.verdict, free.kernels) == (0.0, "PASSED", found[""].kernels)
    assert free.sqnr_db is not None and free.sqnr_db > (found[""].sqnr_db or 0)
    wide = found["translate"]
    assert wide.sqnr_db is not None and wide.sqnr_db > (found[""].sqnr_db or 0)
    assert 0 <= wide.macs <= 0.1 + 1e-9 and wide.latency is not None and wide.kernels == found[""].kernels
    before, after = (done / f"onnxruntime_percentile_99.9{end}.onnx" for end in ("", ".translate"))
    assert verify(before, after)["verification"]["verdict"] == "PASSED"


def test_nothing_is_done_twice(
    done: Path, calib: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("it was there")

    monkeypatch.setattr(module.onnx_ocs, "rewrite", fail)
    monkeypatch.setattr(module, "find_quantizer", fail)
    assert main([str(FLOAT), str(calib), str(TEST), *QUICK, "--folder", str(done)]) == 0
    out = capsys.readouterr().out
    found = rows(done)
    assert f"| {NAME} (" in out and f"| {found['translate'].sqnr_db:.2f} dB |" in out
    assert "Worse than before, by SQNR: none (of 2 rewrites)." in out
    assert re.search(rf"Best pair, by SQNR: {NAME} \(\S+\) followed by `(default|translate)`: ", out)
    assert main([str(FLOAT), str(calib), str(TEST), *QUICK, "--folder", str(done), "--budget", "0.2"]) == 1
    assert "other files or options" in capsys.readouterr().err


def test_without_labels(calib: Path, tmp_path: Path) -> None:
    """The answers of the float network take their place, and the column says so."""
    with np.load(TEST) as z:
        samples = {"pixels": z["pixels"]}
    np.savez(tmp_path / "test.npz", **samples)
    task = Task(FLOAT, calib, tmp_path / "test.npz")
    (row,) = module.compare(task, tmp_path / "folder", [NAME], {}, ("",))
    path = tmp_path / "folder" / "onnxruntime_percentile_99.9.onnx"
    assert row.task == evaluate(path, first_output(FLOAT, samples), samples, "top1").agreement
    assert "| same answer as float | SQNR |" in table([row], task.figure())
    assert "| top-1 | SQNR |" in table([row], Task(FLOAT, calib, TEST).figure())


def test_not_installed(calib: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    assert main([str(FLOAT), str(calib), str(TEST), "--only", "NNCF, fast"]) == 0
    assert "not installed: `pip install nncf`" in capsys.readouterr().out


def test_a_quantizer_that_fails(calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    assert main([str(FLOAT), str(calib), str(TEST), "--only", "NNCF, fast", "--python", f"nncf={broken}"]) == 0
    assert "fails: out of luck" in capsys.readouterr().out


def test_few_bits(calib: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Those that make them do; others say so, and are not started; another folder is wanted for other bits."""
    folder, few = tmp_path / "folder", ("--bits", "W4A4", "--chain", "default", "--folder", str(tmp_path / "folder"))
    only = ("--only", "lowbit", "--only", "percentile 99", "--only", "NNCF, fast", "--python", "nncf=nowhere")
    assert main([str(FLOAT), str(calib), str(TEST), *few, *only]) == 0
    out = capsys.readouterr().out
    assert "ort-percentile makes 8 bits only" in out
    assert "| NNCF, fast bias correction |  | makes W8A8 only |" in out
    found = rows(folder)
    assert found["default"].verdict == "PASSED" and (found["default"].sqnr_db or 0) > (found[""].sqnr_db or 0)
    weights = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load(folder / "models_lowbit.py_least_squares.onnx").graph.initializer
        if t.name.endswith("weight_quantized")
    }
    assert {int(np.abs(w).max()) for w in weights.values()} == {7, 127}  # 127: the first and the last layer
    assert main([str(FLOAT), str(calib), str(TEST), "--folder", str(folder), "--only", "lowbit"]) == 1
    assert "other files or options" in capsys.readouterr().err


def test_bits_reach_the_peers(calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nshift; cp "$2" "$3"\necho "$1, $5, $6"\n', encoding="utf-8")
    python.chmod(0o755)
    args = (str(FLOAT), str(calib), str(TEST), "--only", "AIMET, AdaRound", "--python", f"aimet_onnx={python}")
    assert main([*args, "--bits", "W4A8"]) == 0
    assert "| AIMET, AdaRound (AIMET, AdaRound, 4, 8) |" in capsys.readouterr().out


def test_ends_of_a_network() -> None:
    """Outputs, and what the first and the last layer read; where that is only moved, what it is moved from."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Gemm", ["c", "w2"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    on = dict.fromkeys(("x", "w0", "a", "w1", "b", "w2", "y"), SimpleNamespace(enabled=True))
    assert ends(model, {**on, "c": SimpleNamespace(enabled=False)}) == ["y", "x", "w0", "b", "w2"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--only", "nobody"), "no quantizer's name has nobody"),
        (("--python", "other=python"), "--python other: choose from aimet_onnx, "),
    ],
)
def test_mistakes(args: tuple[str, ...], said: str, calib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FLOAT), str(calib), str(TEST), *args]) == 1
    assert said in capsys.readouterr().err
    assert main([str(FLOAT), str(calib / "none"), str(TEST), *args]) == 1


def test_worse_is_said() -> None:
    better = Row("a (1)", "translate", task=90.0, sqnr_db=21.0, macs=0.1, verdict="PASSED")
    worse = Row("b (2)", "translate", task=95.0, sqnr_db=19.0, macs=0.05, latency=1.25, verdict="PASSED")
    said = table([Row("a (1)", "", sqnr_db=20.0), better, Row("b (2)", "", sqnr_db=30.0), worse], "top-1")
    assert "Worse than before, by SQNR: b (2) with `translate`: 30.00 dB → 19.00 dB (of 2 rewrites)." in said
    assert "Best pair, by SQNR: a (1) followed by `translate`: 90.00 %, 21.00 dB for +10.0 % multiply" in said


def test_who_beats_whom_is_said() -> None:
    """The plain file, rewritten for free, against every other project's file as it is, in quality and CPU time."""
    ours = [
        Row("onnxruntime, min-max (1)", "", task=90.0, sqnr_db=20.0, seconds=2.0),
        Row("onnxruntime, min-max (1)", "default", task=91.0, sqnr_db=25.0, verdict="PASSED", seconds=10.0),
    ]
    rivals = [
        Row("Quark, AdaRound (2)", "", task=91.5, sqnr_db=26.0, seconds=24.0),
        Row("Quark, AdaRound (2)", "default", task=91.5, sqnr_db=27.0, seconds=9.0),
        Row("AIMET, AdaRound (3)", "", task=90.0, sqnr_db=22.0, seconds=6.0),
        Row("NNCF", "", said="fails: out of luck"),
        Row("models/lowbit.py (4)", "", sqnr_db=40.0, seconds=1.0),
    ]
    lines = table([*ours, *rivals], "top-1").splitlines()
    start = lines.index("onnxruntime, min-max (1) and `default` (25.00 dB, 12 s) against")
    assert lines[start + 2 :] == [
        "- Quark, AdaRound (2): WORSE, -1.00 dB, -0.50 points, x 0.50 of its CPU time",
        "- AIMET, AdaRound (3): better, +3.00 dB, +1.00 points, x 2.00 of its CPU time",
    ]


def test_samples_reach_the_peers(calib: Path) -> None:
    """In order, all of them, in both forms, and as often as asked for."""
    reader = Reader(calib, 7)
    with np.load(calib) as z:
        pixels = z["pixels"]
    once = list(iter(reader.get_next, None))
    reader.rewind()
    for feeds in (once, list(reader), list(iter(reader.get_next, None))):
        assert np.array_equal(np.concatenate([f["pixels"] for f in feeds]), pixels)
    assert {p.module for p in PEERS.values()} >= {"nncf", "aimet_onnx", "quark"}
