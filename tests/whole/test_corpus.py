"""Real exporter files (tests/data): each is rewritten and checked, and runs wherever the original does."""

import json
import sys
from pathlib import Path

import onnx
import pytest
import tally

from onnx_ocs.passes.translate import Translate

DATA = Path(__file__).resolve().parents[1] / "data"
FILES = sorted(DATA.glob("*.onnx"))
TOOLS = {"aimet", "brevitas", "modelopt", "nncf", "ort", "pt2e", "quark"}
NOTHING = {  # no activation on a uniform grid
    "modelopt_convnexttanh_l17_fp8",
    "modelopt_gemm_l17_int4rtn",
    "nncf_mlp_d21_wcint4sym",
    "ort_cnn_l17_f8",
}
EARLY = {"brevitas_cnn_leg_w4a4", "modelopt_cnn_l17_int8", "nncf_cnn_l17_default", "ort_cnn_l13_u8s8pc"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_rewrite(path):
    record = tally.examine(path, Translate())
    assert record.violations == []
    assert record.verdict == ("unchanged" if path.stem in NOTHING else "PASSED")
    assert not record.others, "a layer reads these, yet they are refused for no reason of principle"
    if path.stem in EARLY:
        assert record.applied["early"] >= 2


@pytest.mark.parametrize("options", [{"mode": "late", "ratio": 1.0, "copies": 2}, {"mode": "early"}], ids=str)
@pytest.mark.parametrize(
    "stem",
    ["ort_cnn_l17_contribqdq", "nncf_hswish_l17_default", "quark_cnn_l17_xint8", "brevitas_mbv2_leg_w8a8i32bias"],
)
def test_rewrite_with_options(stem, options):
    record = tally.examine(DATA / f"{stem}.onnx", Translate(**options))
    assert record.violations == []
    assert set(record.applied) <= {options["mode"], "carried"}


def test_choice_of_files():
    listed = [line.split("|")[1].strip() for line in (DATA / "README.md").read_text().splitlines() if ".onnx |" in line]
    assert listed == [*dict.fromkeys(listed)]
    assert set(listed) == {f.name for f in FILES}
    assert {f.name.split("_")[0] for f in FILES} == TOOLS
    assert sum(f.stat().st_size for f in FILES) < 2.5e6


def test_violations_are_seen():
    old = onnx.load(DATA / "nncf_cnn_l17_default.onnx")
    feed = tally.feed_for(DATA / "nncf_cnn_l17_default.onnx", old)
    assert feed is not None
    new = onnx.ModelProto()
    new.CopyFrom(old)
    assert tally.violations(old, new, feed, tuple(tally.LEVELS)) == []
    del new.graph.node[3]
    new.opset_import.add(domain="unused", version=1)
    wrong = " ".join(tally.violations(old, new, feed, tuple(tally.LEVELS)))
    for expected in ("opset imports changed", "onnx.checker", "ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        assert expected in wrong


def test_tally(tmp_path, monkeypatch, capsys):
    for stem in ("ort_cnn_l17_f8", "nncf_gemm_l17_fastbcoff"):
        (tmp_path / f"{stem}.onnx").write_bytes((DATA / f"{stem}.onnx").read_bytes())
    out = tmp_path / "tally.json"
    monkeypatch.setattr(sys, "argv", ["tally.py", str(tmp_path), "--no-optimized", "--json", str(out)])
    assert tally.main() == 0
    result = json.loads(out.read_text())["tally"]
    assert json.loads(capsys.readouterr().out) == result
    assert result["files"] == 2
    assert result["verdicts"] == {"unchanged": 1, "PASSED": 1}
    assert result["feeding"] == {"applied": 2, "principle": 10}

    (tmp_path / "float.onnx").write_bytes(b"not a model")
    assert tally.main() == 1
