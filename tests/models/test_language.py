"""The language table: a decoder, its text, its judge, and a whole table of a network that is made in a second."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_ocs
from models.tables import language, massive
from models.tables.language import Job, Run, lines, markdown, where
from models.tables.perplexity import judge, keep_logits
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Translate
from onnx_ocs.planning.plan import Plan

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
tokenizers = pytest.importorskip("tokenizers")

from models.data.prose import manual, read_wikitext, windows  # noqa: E402
from models.networks.decoder import Decoder, Shape  # noqa: E402
from models.networks.training import export  # noqa: E402
from models.quantizers.linear import linear_layers  # noqa: E402

SHAPE = Shape(layers=2, width=32, inner=48, words=64, heads=4, groups=2, tokens=16)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """A random decoder with a massive channel, its samples, and both quantized files."""
    job = Job(tmp_path_factory.mktemp("tiny"), network="tiny", options=("--quiet", "--no-verify"))
    torch.manual_seed(0)
    network = Decoder(SHAPE).eval()
    with torch.no_grad():
        network.token_embd.weight *= 0.2
        for block in network.blk:
            for layer in (block.attn_v, block.attn_output, block.ffn_gate, block.ffn_up, block.ffn_down):
                layer.weight *= 4
        network.blk[0].ffn_down.weight[3] *= 30
    built = job.built
    export(network, {"input_ids": torch.zeros(2, 16, dtype=torch.int64)}, "logits", built.float_model)
    ids = np.random.default_rng(0).integers(0, SHAPE.words, (24, 16))
    np.savez(built.calib, input_ids=ids[:16])
    np.savez(built.test, input_ids=ids[16:])
    for bits in ("W8A8", "W4A8"):
        job.quantized(bits)
    return job


def test_a_token_does_not_see_later_ones():
    network, ids = Decoder(SHAPE).eval(), torch.arange(32).reshape(2, 16)
    changed = ids.clone()
    changed[:, 9] = 5
    with torch.no_grad():
        one, other = network(ids), network(changed)
    assert torch.equal(one[:, :9], other[:, :9]) and not torch.equal(one[:, 9:], other[:, 9:])


def test_only_the_linear_layers_are_quantized(job):
    floats = onnx.load(job.built.float_model)
    assert len(linear_layers(floats)) == 14  # seven a block: neither the head nor attention between tokens
    for bits, stored in (("W8A8", 127), ("W4A8", 7)):
        graph = onnx.load(job.quantized(bits)).graph
        quantized = [n for n in graph.node if n.op_type == "QuantizeLinear"]
        assert len(quantized) == 8  # what the norms, attention and the gates give: four a block
        weights = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
        assert len(weights) == 14
        largest = [int(np.abs(onnx.numpy_helper.to_array(t)).max()) for t in weights]
        assert min(largest) <= stored and sum(m > stored for m in largest) in (0, 3)  # lowbit: 8 bits at the edge


def test_judge(job, tmp_path):
    """Perplexity by hand; the float network agrees with itself; a quantized one less."""
    ids = job.ids()
    keep_logits(job.built.float_model, ids, tmp_path / "logits.npy")
    logits = np.load(tmp_path / "logits.npy").astype(np.float64)
    assert logits.shape == (8, 16, SHAPE.words)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    told = [p[w, t, ids[w, t + 1]] for w in range(8) for t in range(15)]
    same = judge(job.built.float_model, ids, tmp_path / "logits.npy")
    assert same.perplexity == pytest.approx(np.exp(-np.mean(np.log(told))))
    assert (same.agreement, same.sqnr_db) == (100, None)
    low = judge(job.quantized("W4A8"), ids, tmp_path / "logits.npy")
    assert 40 < low.agreement < 100 and 5 < low.sqnr_db < 60


def test_rows(job, monkeypatch):
    """The float network, a quantized one and a rewrite by the command line; nothing is done twice."""
    found = lines(job, ["W4A8: as quantized", "W4A8: reconstruct"])
    assert [(x.bits, x.chain) for x in found] == [("float", ""), ("W4A8", "as quantized"), ("W4A8", "reconstruct")]
    assert found[2].run.code == 0 and found[2].run.cpu > 0.5 and 5e7 < found[2].run.memory < 4e9
    assert found[2].fluency.sqnr_db > found[1].fluency.sqnr_db
    assert found[2].applied.endswith("layers fitted") and found[2].macs == 0

    def again(*_args: object) -> Run:
        raise AssertionError("done twice")

    monkeypatch.setattr(language, "spawn", again)
    assert lines(job, ["W4A8: as quantized", "W4A8: reconstruct"]) == found
    text = markdown(job, found, where(job, 2))
    assert "| W4A8 | reconstruct | " in text and f"({8 * 15} predictions)" in text
    assert sum(row.startswith("| `") for row in text.splitlines()) == 3


def test_where_few_values_are_large(job):
    """What the first block adds to one channel is found in the residual stream from there on."""
    found = where(job)
    assert len(found) == 9 and all("Add" not in p.tensor for p in found[:8])
    assert [p.levels for p in found[:8]] == sorted(p.levels for p in found[:8])
    assert "Add" in found[8].tensor and found[8].channel == 3
    assert all(p.copies == int(np.ceil(p.largest / p.usual)) - 1 and p.largest >= p.usual for p in found)


def test_a_plan_of_copies_by_hand(job, tmp_path):
    """A step divided by 8, and the copies that its channels need: a plan that the rewriter applies."""
    name = "/blk.1/Mul_5_output_0"
    paths = [job.quantized("W8A8"), job.built.float_model, job.built.calib, tmp_path / "plan.json"]
    assert massive.main([*map(str, paths), f"{name}:8"]) == 0
    (planned,) = json.loads(paths[3].read_text())["regions"]
    assert planned["tensor"] == name and max(planned["copies"]) <= 8 and sum(planned["copies"]) > 0
    passes = (Translate(plan=Plan.read(paths[3])),)
    done = onnx_ocs.rewrite(paths[0], tmp_path / "out.onnx", passes=passes, verify=False)
    assert done.changed
    assert massive.main([*map(str, paths), "nowhere:8"]) == 1


def test_a_row_that_fails_says_why(job, tmp_path):
    bad = Job(tmp_path, network="tiny", options=("--samples", "0"))
    for name in ("tiny.fp32.onnx", "tiny.calib.npz", "tiny.test.npz", "tiny.w8a8.onnx"):
        (tmp_path / name).symlink_to(job.folder / name)
    (line,) = (x for x in lines(bad, ["W8A8: default"]) if x.bits == "W8A8")
    assert line.fluency is None and line.run.code != 0 and "samples" in line.cells()[-1]


def test_wikitext(tmp_path):
    """The marks of word splitting are undone."""
    text = ' = = Head = = \n \n It is 5 @.@ 5 km , well @-@ known ( 2 @,@ 000 ) ; he said " no " and does n\'t go .\n'
    (tmp_path / "valid.txt.xz").write_bytes(lzma.compress(text.encode()))
    said = '= = Head = =\nIt is 5.5 km, well-known (2,000); he said "no" and doesn\'t go.'
    assert read_wikitext(tmp_path / "valid.txt.xz").replace("does n't", "doesn't") == said
    with pytest.raises(UserError, match="there is no file"):
        read_wikitext(tmp_path / "test.txt.xz")


def test_windows():
    """Cut without gaps, spread evenly; too little text is refused."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(100)}, unk_token="0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    text = " ".join(map(str, range(100)))
    assert windows(text, tokenizer, 10, 3).tolist() == [list(range(k, k + 10)) for k in (0, 30, 60)]
    with pytest.raises(UserError, match="10 windows of 10 tokens, and 11 are asked for"):
        windows(text, tokenizer, 10, 11)
    assert manual(False) != manual(True) and len(manual(False)) > 50_000


def test_mistakes(capsys):
    assert language.main([str(Path("nowhere")), "--only", "W8A8: magic"]) == 1
    assert "there is no row 'W8A8: magic'; choose from" in capsys.readouterr().err


def test_the_package(tmp_path):
    """Where it is installed: the tokenizer gives a text back."""
    pytest.importorskip("gguf")
    from models.networks.zoo import find_network

    if missing := find_network("smollm2").missing():
        pytest.skip(f"not installed: {missing}")
    from models.networks.smollm2 import read_tokenizer

    tokenizer = read_tokenizer()
    text = "In 2004 it's 5.5 km, well-known — “naïve”."
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert json.loads(tokenizer.to_str())["model"]["type"] == "BPE"
