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

import onnx_ocs
from models import __main__ as command
from models.data.text import sentences
from models.evaluate import measure
from models.networks.zoo import NETWORKS, Built, Network, find_network
from models.quantizers.registry import QUANTIZERS, find_quantizer, label, read_samples
from models.tables.metrics import METRICS, edit_distance, first_output, read_line
from onnx_ocs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
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
        assert (ROOT / "models" / "networks" / f"{network.module}.py").exists()
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


@pytest.mark.parametrize("name", [n for n in QUANTIZERS if n != "reconstructed"])  # see reconstruction/test_train.py
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gelus", "layers"), [("convgelu", 5, 6), ("vit", 3, 14)])
def test_networks_with_gelu(name, gelus, layers, tmp_path, monkeypatch):
    """At both opsets the quantized tensors behind a GELU are found; the same seed gives the same bytes."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from models.networks import gelu

    monkeypatch.setitem(gelu.EPOCHS, name, 2)
    built = [find_network(name).build(tmp_path / str(k), seed) for k, seed in enumerate((0, 0))]
    assert built[0].float_model.read_bytes() == built[1].float_model.read_bytes()
    (scores,) = measure(find_network(name), built[0], [built[0].float_model])
    assert scores.task > 15  # two epochs: better than chance
    for source, op in ((built[0].float_model, "Erf"), (tmp_path / "0" / f"{name}.opset20.onnx", "Gelu")):
        float_model = onnx.load(source)
        assert sum(n.op_type == op for n in float_model.graph.node) == gelus
        low = tmp_path / f"{op}.onnx"
        find_quantizer("lowbit", act_bits=4)(source, low, built[0].calib)
        regions = onnx_ocs.inspect(low, calib=built[0].calib)["regions"]
        assert len(regions) == layers
        behind = [r for r in regions if "gelu" in r["tensor"].lower() or re.match(r"/\d+/(Mul_1|MaxPool)", r["tensor"])]
        assert len(behind) >= gelus - 1
        assert {(r["status"], r["mode"]) for r in behind} == {("candidate", "late")}


def test_text_metrics():
    """Strings of classes with known answers."""
    one_hot = np.eye(4)[[[0, 1, 1, 0, 1, 2, 3, 0]]]
    assert read_line(one_hot[0]) == [1, 1, 2, 3]
    assert [edit_distance(a, b) for a, b in (("", "abc"), ("abc", "abc"), ("kitten", "sitting"))] == [3, 0, 3]
    characters = METRICS["characters"]
    assert characters.score(one_hot, np.array([[1, 1, 2, 3, 0, 0]])) == 100
    assert characters.score(one_hot, np.array([[1, 2, 2, 2, 0, 0]])) == 50
    assert characters.agree(one_hot, one_hot) == 100 and characters.agree(one_hot, one_hot[:, ::-1]) == 0


def test_detection():
    """A page of two lines, maps that show one, both, something else too, and one blob."""
    pytest.importorskip("scipy")
    from models.data.detection import lines

    metric, maps = METRICS["lines"], np.zeros((4, 1, 40, 60))
    labels = np.array([[[5, 4, 45, 14], [5, 24, 45, 34], [-1, -1, -1, -1]]])
    maps[:, 0, 7:11, 8:42] = 0.9
    maps[1:, 0, 27:31, 8:42] = 0.9
    maps[2, 0, 20:38, 52:58] = 0.9
    maps[3, 0, 7:31, 8:42] = 0.9
    assert [metric.score(maps[k : k + 1], labels) for k in range(4)] == pytest.approx([200 / 3, 100, 80, 0])
    left, top, right, bottom = lines(maps[0, 0])[0]
    assert (left, top) == pytest.approx((8 - 1.6 * 136 / 76, 7 - 1.6 * 136 / 76))
    assert (right - 42, bottom - 11) == pytest.approx((8 - left, 7 - top))
    assert metric.score(maps[1:2] * 0.5, labels) == 0  # above TEXT, below LINE
    assert metric.score(np.concatenate([maps[:1], maps[1:2]]), np.concatenate([labels, labels])) == pytest.approx(
        600 / 7
    )
    assert metric.agree(maps, maps) == 100 and metric.agree(maps * 0.2, maps) == 0


def test_objects_are_found() -> None:
    """An object counts from a score of 0.3 on, in any box; the agreement is on the best one."""
    metric, output = METRICS["objects"], np.zeros((2, 3, 7))
    output[0, 1, 4:] = 0.5, 0.8, 0.4  # scores 0.4 and 0.2
    output[1, 2, 4:] = 0.5, 0.4, 0.5  # scores 0.2 and 0.25
    assert metric.score is not None
    assert [metric.score(output, np.array(k)) for k in ((0, 1), (1, 1))] == [50, 0]
    other = output.copy()
    other[1, 0, 4:] = 1, 1, 0
    assert (metric.agree(output, output), metric.agree(output, other)) == (100, 50)


def test_neighbours():
    angles, labels = np.array([0.0, 0.1, 1.5, 1.6, 3.0, 0.2]), np.array([0, 0, 1, 1, 2, 2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    metric = METRICS["neighbour"]
    assert metric.score(vectors, labels) == pytest.approx(100 * 4 / 6)
    assert metric.agree(vectors, 3 * vectors) == pytest.approx(100)
    assert metric.agree(vectors, vectors[::-1]) < 60


def test_rendered_lines():
    """The seed decides what is drawn, and ink lies where the boxes say."""
    pytest.importorskip("matplotlib")
    from models.data.lines import page, picture, words

    rng = np.random.default_rng
    assert words("one two three four five six", rng(0), 9) in ("one two", "two three", "three", "four five")
    a, b, c = (np.asarray(picture("some words", rng(k))) for k in (1, 1, 2))
    assert np.array_equal(a, b) and a.shape != c.shape
    image, boxes = page(["Some words on a page.", "And some more of them."] * 4, (320, 240), rng(0))
    pixels = np.asarray(image, float).mean(axis=2)
    assert len(boxes) >= 3
    ink = np.abs(pixels - np.median(pixels)) > 60
    inside = np.zeros_like(ink)
    for left, top, right, bottom in boxes:
        assert ink[top:bottom, left:right].any()
        inside[top - 2 : bottom + 2, left - 2 : right + 2] = True
    assert ink[inside].sum() > 0.98 * ink.sum()


def test_sentences():
    """Same seed, same text; each topic gives as many."""
    texts, topics = sentences(0)
    assert (texts, topics) == sentences(0) != sentences(1)
    assert len(set(texts)) == len(texts) > 100
    assert set(np.unique(topics, return_counts=True)[1]) == {6}


@pytest.mark.slow
def test_pretrained(tmp_path):
    """Where the package is installed: it reads, quantized too, and onnx_ocs finds what to widen."""
    network = find_network("ppocr_cls")
    if network.missing():
        pytest.skip(f"not installed: {network.missing()}")
    built = network.build(tmp_path)
    low = tmp_path / "low.onnx"
    find_quantizer("lowbit")(built.float_model, low, built.calib)
    scores = measure(network, built, [built.float_model, low])
    assert min(s.task for s in scores) > 90
    assert sum(r["status"] == "candidate" for r in onnx_ocs.inspect(low)["regions"]) > 40


@pytest.mark.slow
def test_rewriting(cli, tmp_path, monkeypatch):
    """A row of the table, on the committed network."""

    def build(_self: Network, folder: Path, _seed: int) -> Built:
        folder.mkdir()
        for path in (DIGITS.float_model, DIGITS.calib, DIGITS.test):
            shutil.copy(path, folder)
        return Built.at(folder, "digits")

    monkeypatch.setattr(Network, "build", build)
    code, out, _ = cli("rewrite", "digits", "--act-bits", 2, "--budget", 0.1, "--out", tmp_path / "new")
    row = out.splitlines()[-1]
    name, verdict = r"\| digits, w8a2 \| 0\.2 MB, top-1 98\.67 % \| 94\.00 % · ", r"\d+ of 13 \| PASSED, \d+ s \|"
    assert code == 0 and re.search(name + r".* % \| x \d\.\d\d \| " + verdict, row)
    before, after = (float(v) for v in re.findall(r"([\d.]+) dB", row))
    assert after > before + 0.5
    assert 0 < float(re.search(r"\+([\d.]+) %", row)[1]) <= 10
