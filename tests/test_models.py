"""The package models/: registry, command line, quantizers, metrics, and the networks trained here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import __main__ as command
from models.evaluate import measure
from models.metrics import METRICS, first_output
from models.quantizers import QUANTIZERS, find_quantizer, label, read_samples
from models.zoo import NETWORKS, Built, Network, find_network
from onnx_ocs.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DIGITS = Built.at(ROOT / "models", "digits")


@pytest.fixture
def cli(monkeypatch, capsys):
    """`python -m models ARGS` in this process: exit code, stdout, stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["models", *map(str, args)])
        return (command.main(), *capsys.readouterr())

    return call


def test_registry():
    for name, network in NETWORKS.items():
        assert name == network.name and network.metric in METRICS
        assert (ROOT / "models" / f"{network.module}.py").exists()
        assert network.source == "trained here" or re.fullmatch(r"[\w-]+==[\d.]+", network.source)
        assert network.title and network.licence


def test_list(cli):
    code, out, _ = cli("list")
    assert code == 0
    assert all(re.search(rf"^{n} ", out, re.M) for n in NETWORKS)


@pytest.mark.parametrize("as_script", [["-m", "models", "list"], ["models/evaluate.py", "models/digits.w8a2.onnx"]])
def test_from_the_shell(as_script):
    done = subprocess.run([sys.executable, *as_script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["build", "lenet"], "there is no network 'lenet'; choose from digits"),
        (["build", "digits", "--quantizer", "magic"], "there is no quantizer 'magic'; choose from ort-minmax"),
        (["build", "digits", "--quantizer", "ort-minmax", "--act-bits", 4], "--act-bits 4: ort-minmax makes 8 bits"),
        (["build", "digits", "--quantizer", "lowbit", "--weight-bits", 1], "--weight-bits 1: choose 2 to 8"),
        (["build", "digits", "--act-bits", 4], "add --quantizer lowbit"),
    ],
)
def test_mistakes(cli, tmp_path, args, said):
    code, out, err = cli(*args, "--out", tmp_path / "new")
    assert code == 1 and not out
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_missing_package(tmp_path):
    """One message with the commands to paste; nothing is written."""
    network = Network("x", "x", "no-such-package==1.0", "MIT", "top1", "x", ("no-such-code", "onnx"))
    assert network.missing() == ["no-such-package==1.0", "no-such-code"]
    with pytest.raises(UserError, match=r"pip install no-such-code && pip install --no-deps no-such-package==1\.0$"):
        network.build(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_wrong_version_is_missing():
    network = Network("x", "x", "onnx==0.0.1", "MIT", "top1", "x")
    assert network.missing() == ["onnx==0.0.1"]


@pytest.mark.parametrize("name", [n for n in QUANTIZERS if n != "reconstructed"])  # see test_reconstruct.py
def test_quantizers(name, tmp_path):
    """Each makes a QDQ model with int8 weights per channel that still knows its digits; twice the same bytes."""
    act_bits = 4 if name == "lowbit" else 8
    files = [tmp_path / f"{k}.{label(name, 8, act_bits)}.onnx" for k in range(2)]
    for path in files:
        find_quantizer(name, 8, act_bits)(DIGITS.float_model, path, DIGITS.calib)
    assert files[0].read_bytes() == files[1].read_bytes()
    graph = onnx.load(files[0]).graph
    stored = {t.name: t for t in graph.initializer}
    weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    weights = [n for n in weights if stored[n.input[0]].data_type == onnx.TensorProto.INT8]
    assert sum(len(stored[n.input[1]].dims) == 1 for n in weights) >= 12
    (scores,) = measure(find_network("digits"), DIGITS, files[:1])
    assert scores.task > 98 and scores.agreement > 99
    assert 20 < scores.sqnr_db < 60


def test_bits_count(tmp_path):
    """Fewer bits, less quality."""
    found = []
    for weights, activations in ((8, 8), (4, 4), (3, 3)):
        path = tmp_path / f"{label('lowbit', weights, activations)}.onnx"
        find_quantizer("lowbit", weights, activations)(DIGITS.float_model, path, DIGITS.calib)
        found.append(path)
    eight, four, three = (s.sqnr_db for s in measure(find_network("digits"), DIGITS, found))
    assert eight > four + 3 > three + 6


def test_not_to_be_quantized(tmp_path):
    """What lowbit refuses is the user's to mend: one sentence."""
    model = onnx.load(DIGITS.float_model)
    model.opset_import[0].version = 11
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(UserError, match=r"lowbit does not quantize old\.onnx: opset 11"):
        find_quantizer("lowbit")(tmp_path / "old.onnx", tmp_path / "out.onnx", DIGITS.calib)
    with pytest.raises(UserError, match=r"b\.npz has no samples for the model's input pixels"):
        np.savez(tmp_path / "b.npz", other=np.zeros(3))
        read_samples(model, tmp_path / "b.npz")


def test_scores():
    """The committed example, and the float network against itself."""
    low = DIGITS.float_model.with_name("digits.w8a2.onnx")
    same, other = measure(find_network("digits"), DIGITS, [DIGITS.float_model, low])
    assert same.agreement == 100 and same.sqnr_db is None
    assert round(same.task, 2) == 98.67
    assert 85 < other.agreement < 99 and 5 < other.sqnr_db < 11
    with np.load(DIGITS.test) as z:
        reference, output = (first_output(p, dict(z)) for p in (DIGITS.float_model, low))
    noise = np.sum((reference - output) ** 2)
    assert other.sqnr_db == pytest.approx(10 * np.log10(np.sum(reference**2) / noise))


def test_evaluate_elsewhere(tmp_path):
    """Without the network's files it says how to make them."""
    shutil.copy(DIGITS.float_model, tmp_path)
    args = [sys.executable, "models/evaluate.py", "--folder", str(tmp_path), "models/digits.w8a2.onnx"]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"python -m models build digits --out {tmp_path}" in done.stderr
