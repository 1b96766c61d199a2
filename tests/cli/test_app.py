"""The command line: what the verbs print and write, exit codes, and that nothing wrong is ever left behind."""

import base64
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from misbehaved import Misbehaved, Model, constant, edit_array, weight_column
from onnx import helper

from onnx_ocs import api
from onnx_ocs.errors import PassError, VerificationError
from onnx_ocs.passes import DEFAULT, PASSES
from onnx_ocs.verbs import rewrite

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
FLOAT = ROOT / "models" / "digits.fp32.onnx"
NOTHING = ROOT / "tests" / "data" / "ort_cnn_l17_f8.onnx"
PROGRESS = re.compile(r"^.*, \d+:\d\d:\d\d\n", re.M)  # what a process says that takes longer than ten seconds

@pytest.fixture(scope="module")
def original() -> Model:
    return onnx.load(DIGITS)


@pytest.fixture(scope="module")
def rewritten(original) -> Model:
    return api.rewrite(original, calib=str(CALIB), passes=[p() for p in DEFAULT], limit=64, verify=False).model


# ---- the verbs ------------------------------------------------------------------------------------------------------


def command(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnx_ocs", *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_as_a_process(tmp_path):
    options = ("--calib", CALIB, "--float", FLOAT, "--samples", 32, "--passes", "translate")
    done = command("rewrite", DIGITS, "o.onnx", *options, cwd=tmp_path)
    assert (done.returncode, PROGRESS.sub("", done.stderr)) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("PASSED")
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"), full_check=True)

    done = command("rewrite", "nothing.onnx", "x.onnx", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: nothing.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["o.onnx"]

    done = command("verify", DIGITS, FLOAT, cwd=tmp_path)
    assert done.returncode == 2
    assert "FAILED" in (done.stdout + done.stderr).splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "args", [["--help"], ["-h"], ["--version"], ["inspect", "-h"], ["rewrite", "-h"], ["verify", "-h"]]
)
def test_help(run, args):
    code, out, err = run(*args)
    assert (code, err) == (0, "")
    assert out


def test_inspect(run, tmp_path):
    code, out, err = run("inspect", DIGITS, "--calib", CALIB, "--report", "r.json")
    assert (code, err) == (0, "")
    assert "/block1/inner/Relu_output_0" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "onnx_ocs.report/1"
    assert {r["status"] for r in report["regions"]} == {"candidate", "refused"}
    assert len(report["regions"]) == 13


def test_rewrite_and_verify(run, tmp_path):
    options = ("--calib", CALIB, "--float", FLOAT, "--samples", 64, "--select", "mass", "--ratio", "0.5")
    code, out, err = run("rewrite", DIGITS, "o.onnx", *options, "--report", "r.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("PASSED: 11 ")
    report = json.loads((tmp_path / "r.json").read_text())
    check_report(report)
    assert report["verification"]["verdict"] == "PASSED"
    assert report["quality"]["sqnr_after_db"] > report["quality"]["sqnr_before_db"] + 3

    code, out, err = run("verify", DIGITS, "o.onnx", "--report", "v.json", *options[:6])
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("PASSED")
    again = json.loads((tmp_path / "v.json").read_text())
    assert again["verification"]["verdict"] == "PASSED"
    assert again["quality"] == report["quality"]
    assert again["cost"] == report["cost"]

    code, _, _ = run("rewrite", "o.onnx", "twice.onnx")
    assert code == 0
    assert (tmp_path / "twice.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


def check_report(report: dict) -> None:
    """Every field that the contract names (design, section 5)."""
    assert report["schema"] == "onnx_ocs.report/1"
    tensors = [t.name for t in onnx.load(DIGITS).graph.input]
    tensors += [o for n in onnx.load(DIGITS).graph.node for o in n.output]
    for r in report["regions"]:
        assert r["status"] in ("applied", "refused")
        assert r["pass"] == "translate"
        assert r["tensor"] in tensors
        assert {"scale_before", "scale", "zero_point", "qmin", "qmax", "axis", "mode"} <= r.keys()
        if r["status"] == "applied":
            assert r["reason"] is None
            assert r["mode"] in ("early", "late")
            assert len(r["copies"]) in (16, 32, 64)
            assert r["consumers"]
        else:
            assert set(r["reason"]) == {"code", "message", "node"}
    assert isinstance(report["compensations"], list)
    kinds = ("macs", "params", "bytes", "nodes", "integer_kernels")
    assert {f"{k}_{when}" for k in kinds for when in ("before", "after")} <= report["cost"].keys()
    quality = "sqnr_before_db sqnr_after_db agreement_before agreement_after samples reference"
    assert set(quality.split()) <= report["quality"].keys()
    verification = report["verification"]
    assert {"verdict", "levels", "oracle", "io_unchanged", "checker"} <= verification.keys()
    assert [level["level"] for level in verification["levels"]] == ["disable_all", "enable_all"]
    assert all({"max_abs", "max_steps", "mismatch_fraction"} <= level.keys() for level in verification["levels"])
    assert {"onnxruntime", "onnx", "onnx_ocs", "cpu_flags", "seed"} <= report["environment"].keys()


def test_quiet(run):
    code, out, err = run("rewrite", DIGITS, "o.onnx", "-q")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1


def test_seeded(run, tmp_path):
    for name in ("a", "b"):
        assert run("rewrite", DIGITS, f"{name}.onnx", "--seed", 3, "-q")[0] == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("args", [[NOTHING], [DIGITS, "--ratio", "0"]], ids=["float8", "ratio 0"])
def test_nothing_to_rewrite(run, tmp_path, args):
    code, out, err = run("rewrite", args[0], "o.onnx", *args[1:])
    assert (code, err) == (0, "")
    assert "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == args[0].read_bytes()
    assert [f.name for f in tmp_path.iterdir()] == ["o.onnx"]


def test_external_data_stays_external(run, tmp_path, original):
    copy = Model()
    copy.CopyFrom(original)
    onnx.save(copy, tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    assert run("rewrite", "in.onnx", "o.onnx", "-q")[0] == 0
    assert (tmp_path / "o.data").is_file()
    assert run("verify", "in.onnx", "o.onnx", "-q")[0] == 0


# ---- the user's mistakes --------------------------------------------------------------------------------------------


def changed(edit: Callable[[Model], None]) -> Model:
    model = onnx.load(DIGITS)
    edit(model)
    return model


def set_scale(model: Model, kind: str, value: float) -> None:
    """Overwrite a scale of an activation ("QuantizeLinear") or of a weight ("DequantizeLinear")."""
    names = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == kind]
    node = nodes[3] if kind == "QuantizeLinear" else next(n for n in nodes if n.input[0] in names)
    edit_array(names[node.input[1]], lambda a: a.fill(value))


def custom_op(model: Model) -> None:
    model.opset_import.add(domain="my.ops", version=1)
    last = model.graph.node[-1]
    model.graph.node.append(helper.make_node("Mystery", ["before"], [last.output[0]], domain="my.ops"))
    last.output[0] = "before"


def no_reader(model: Model) -> None:
    model.graph.node[7].input[0] = "nowhere"


BAD_MODELS: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"this is not a model\n",
    "empty": lambda: b"",
    "truncated": lambda: DIGITS.read_bytes()[:40_000],
    "float": FLOAT.read_bytes,
    "custom op": lambda: changed(custom_op).SerializeToString(),
    "undefined tensor": lambda: changed(no_reader).SerializeToString(),
    "NaN scale": lambda: changed(lambda m: set_scale(m, "QuantizeLinear", np.nan)).SerializeToString(),
    "infinite scale": lambda: changed(lambda m: set_scale(m, "QuantizeLinear", np.inf)).SerializeToString(),
    "NaN weight scale": lambda: changed(lambda m: set_scale(m, "DequantizeLinear", np.nan)).SerializeToString(),
}
PIXELS = np.load(CALIB)["pixels"]
BAD_CALIBRATIONS: dict[str, dict[str, np.ndarray]] = {
    "key": {"image": PIXELS},
    "shape": {"pixels": PIXELS[:, :, :5]},
    "NaN": {"pixels": np.where(np.arange(8) == 3, np.nan, PIXELS).astype(np.float32)},
    "objects": {"pixels": np.array([{"a": 1}], object)},
    "type": {"pixels": np.array(["a", "b"])},
    "no samples": {"pixels": PIXELS[:0]},
    "no arrays": {},
}
BAD_OPTIONS: dict[str, list[str]] = {
    "calibration missing": ["--calib", "nothing.npz"],
    "calibration no .npz": ["--calib", str(DIGITS)],
    "calibration module": ["--calib", "no_such_module:samples"],
    "float model missing": ["--float", "nothing.onnx"],
    "float model missing, calibrated": ["--float", "nothing.onnx", "--calib", str(CALIB)],
    "float model of other inputs": ["--float", str(NOTHING), "--calib", str(CALIB)],
    "pass": ["--passes", "translate,polish"],
    "ratio negative": ["--ratio", "-1"],
    "ratio NaN": ["--ratio", "nan"],
    "ratio no number": ["--ratio", "much"],
    "copies": ["--copies", "0"],
    "mode": ["--mode", "eager"],
    "option": ["--no-such-option"],
    "report into a missing folder": ["--report", "no/r.json"],
    "report onto the output": ["--report", "o.onnx"],
    "report onto the input": ["--report", str(DIGITS)],
}


def assert_complaint(run, args: list, out: Path | None) -> None:
    """One line, exit code 1, nothing written; an output that was there before is untouched."""
    folder = out.parent if out is not None and out.parent.is_dir() else None
    for old in (None, b"what was there before"):
        if old is not None:
            if folder is None or out is None or out.exists():
                return
            out.write_bytes(old)
        before = folder and sorted(folder.iterdir())
        code, printed, err = run(*args)
        assert (code, printed) == (1, "")
        assert err.startswith("Error: ")
        assert len(err.splitlines()) == 1
        if folder is not None and out is not None:
            assert sorted(folder.iterdir()) == before
            assert old is None or out.read_bytes() == old


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(run, tmp_path, name):
    (tmp_path / "in.onnx").write_bytes(BAD_MODELS[name]())
    assert_complaint(run, ["rewrite", "in.onnx", "o.onnx"], tmp_path / "o.onnx")


@pytest.mark.parametrize("name", BAD_CALIBRATIONS)
def test_bad_calibration(run, tmp_path, name):
    np.savez(tmp_path / "c.npz", **BAD_CALIBRATIONS[name])
    assert_complaint(run, ["rewrite", DIGITS, "o.onnx", "--calib", "c.npz"], tmp_path / "o.onnx")


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_option(run, tmp_path, name):
    assert_complaint(run, ["rewrite", DIGITS, "o.onnx", *BAD_OPTIONS[name]], tmp_path / "o.onnx")


BAD_CALLS: list[list[Path | str]] = [
    ["rewrite", DIGITS],
    ["improve", DIGITS],
    ["rewrite", "nothing.onnx", "o.onnx"],
    ["rewrite", ".", "o.onnx"],
    ["inspect", FLOAT],
    ["verify", DIGITS, "nothing.onnx"],
    ["verify", FLOAT, DIGITS],
]


@pytest.mark.parametrize("args", BAD_CALLS, ids=lambda a: " ".join(Path(p).name or str(p) for p in a))
def test_bad_call(run, tmp_path, args):
    assert_complaint(run, args, tmp_path / "o.onnx")


def test_missing_external_data(run, tmp_path, original):
    copy = Model()
    copy.CopyFrom(original)
    onnx.save(copy, tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    (tmp_path / "in.data").unlink()
    assert_complaint(run, ["rewrite", "in.onnx", "o.onnx"], tmp_path / "o.onnx")


def test_output_folder_missing(run, tmp_path):
    assert_complaint(run, ["rewrite", DIGITS, "no/o.onnx"], tmp_path / "no" / "o.onnx")
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is a folder that not even root can write to")
def test_output_folder_not_writable(run):
    assert_complaint(run, ["rewrite", DIGITS, "/proc/o.onnx"], None)


def test_output_is_a_folder(run, tmp_path):
    (tmp_path / "o").mkdir()
    assert_complaint(run, ["rewrite", DIGITS, "o"], tmp_path / "o")


@pytest.mark.parametrize("name", ["in.onnx", "./in.onnx", "link.onnx"])
def test_output_is_the_input(run, tmp_path, name):
    (tmp_path / "in.onnx").write_bytes(DIGITS.read_bytes())
    (tmp_path / "link.onnx").symlink_to("in.onnx")
    assert_complaint(run, ["rewrite", "in.onnx", name], tmp_path / name)
    assert (tmp_path / "in.onnx").read_bytes() == DIGITS.read_bytes()


def test_disk_full(run, tmp_path, monkeypatch):
    """The old output survives a write that fails, and no temporary file stays."""
    (tmp_path / "o.onnx").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_complaint(run, ["rewrite", DIGITS, "o.onnx", "-q"], tmp_path / "o.onnx")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("o.onnx", b"old")]


# ---- verification that fails ----------------------------------------------------------------------------------------


def weight_column_of_the_head(m: Model) -> None:
    edit_array(constant(m, "/head/Gemm", 1), lambda a: a[:, -1].fill(0))


def weight_columns_mixed_up(m: Model) -> None:
    edit_array(constant(m, "/block3/second/Conv", 1), lambda a: np.copyto(a, np.roll(a, 1, axis=1)))


def weight_scale(m: Model) -> None:
    reader = next(
        n for n in m.graph.node if n.op_type == "DequantizeLinear" and "block1/first/Conv/weight" in n.input[0]
    )
    scale = next(t for t in m.graph.initializer if t.name == reader.input[1])
    edit_array(scale, lambda a: np.copyto(a, a[::-1].copy()))


def bias_not_shifted(m: Model) -> None:
    edit_array(constant(m, "/block1/first/Conv", 2), lambda a: a[-1:].fill(0))


def bias_of_the_head(m: Model) -> None:
    edit_array(constant(m, "/head/Gemm", 2), lambda a: np.add(a, abs(a).max(), out=a))


def late_shift(m: Model) -> None:
    sub = next(n for n in m.graph.node if n.op_type == "Sub")
    edit_array(next(t for t in m.graph.initializer if t.name == sub.input[1]), lambda a: a.__imul__(0.5))


def late_channels(m: Model) -> None:
    gather = next(n for n in m.graph.node if n.op_type == "Gather" and "block1/outer" in n.input[0])
    edit_array(
        next(t for t in m.graph.initializer if t.name == gather.input[1]), lambda a: np.copyto(a, a[::-1].copy())
    )


def scale_of_a_quantizer(m: Model) -> None:
    q = [n for n in m.graph.node if n.op_type == "QuantizeLinear"][4]
    edit_array(next(t for t in m.graph.initializer if t.name == q.input[1]), lambda a: np.multiply(a, 1.1, out=a))


def padding(m: Model) -> None:
    conv = next(n for n in m.graph.node if n.name == "/block2/second/Conv")
    next(a for a in conv.attribute if a.name == "pads").ints[:] = [2, 1, 0, 1]


def node_removed(m: Model) -> None:
    del m.graph.node[len(m.graph.node) // 2]


def output_renamed(m: Model) -> None:
    for n in m.graph.node:
        for k, o in enumerate(n.output):
            if o == m.graph.output[0].name:
                n.output[k] = "answer"
    m.graph.output[0].name = "answer"


def input_shape(m: Model) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def opset_added(m: Model) -> None:
    m.opset_import.add(domain="unused", version=1)


def layouts(m: Model) -> list[onnx.StringStringEntryProto]:
    return [p for n in m.graph.node for p in n.metadata_props if p.key == "onnx_ocs.wide"]


def layout_removed(m: Model) -> None:
    for n in m.graph.node:
        kept = [p for p in n.metadata_props if p.key != "onnx_ocs.wide"]
        del n.metadata_props[:]
        n.metadata_props.extend(kept)


def edit_layout(m: Model, key: str, edit: Callable[[np.ndarray], object], index: int = 2) -> None:
    prop = layouts(m)[index]
    entry = json.loads(prop.value)
    array = np.frombuffer(zlib.decompress(base64.b64decode(entry[key])), "<i4").copy()
    edit(array)
    entry[key] = base64.b64encode(zlib.compress(array.tobytes())).decode()
    prop.value = json.dumps(entry)


def layout_channel(m: Model) -> None:
    edit_layout(m, "origin", lambda a: a[-1:].fill((a[-1] + 1) % 16))


def layout_channel_of_the_last(m: Model) -> None:
    edit_layout(m, "origin", lambda a: a[-1:].fill((a[-1] + 1) % 32), index=-1)


def layout_level(m: Model) -> None:
    edit_layout(m, "level", lambda a: a[-1:].fill(2))


def layout_of_nobody(m: Model) -> None:
    layouts(m)[0].value = layouts(m)[0].value.replace('"original": "', '"original": "no')


def layout_garbage(m: Model) -> None:
    layouts(m)[0].value = "?"


def layout_incomplete(m: Model) -> None:
    layouts(m)[0].value = '{"original": "x"}'


CORRUPTIONS = [
    weight_column, weight_column_of_the_head, weight_columns_mixed_up, weight_scale, bias_not_shifted, bias_of_the_head,
    late_shift, late_channels, scale_of_a_quantizer, padding, node_removed, output_renamed, input_shape, opset_added,
    layout_removed, layout_channel, layout_channel_of_the_last, layout_level, layout_of_nobody, layout_garbage,
    layout_incomplete,
]  # fmt: skip


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda f: f.__name__)
def test_verification_can_fail(run, tmp_path, rewritten, corrupt):
    bad = Model()
    bad.CopyFrom(rewritten)
    corrupt(bad)
    assert bad != rewritten
    onnx.save(bad, tmp_path / "bad.onnx")
    code, out, err = run("verify", DIGITS, "bad.onnx", "-q", "--report", "r.json")
    assert code == 2
    assert "FAILED" in (out + err).splitlines()[-1]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verification"]["verdict"] == "FAILED"
    assert report["verification"]["failures"]


def test_verification_passes(run, tmp_path, rewritten):
    onnx.save(rewritten, tmp_path / "good.onnx")
    assert run("verify", DIGITS, "good.onnx", "-q")[0] == 0


# ---- passes that misbehave ------------------------------------------------------------------------------------------


def raises(model: Model) -> None:
    raise ZeroDivisionError("of course")


def unsorted_nodes(model: Model) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Misbehaved(raises), r"'misbehaved' failed.*translate.*ZeroDivisionError: of course"),
        (Misbehaved(unsorted_nodes), r"'misbehaved' left a model that onnx.checker rejects.*translate"),
        (Misbehaved(lambda m: None, stops=False), r"second run of the pass 'misbehaved'"),
    ],
    ids=["raises", "invalid model", "never done"],
)
def test_failing_pass(tmp_path, bad, message):
    before = DIGITS.read_bytes()
    translate = rewrite.make_passes(["translate"])
    with pytest.raises(PassError, match=message):
        api.rewrite(DIGITS, tmp_path / "o.onnx", passes=[*translate, bad])
    assert list(tmp_path.iterdir()) == []
    assert DIGITS.read_bytes() == before


def test_failing_pass_on_the_command_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(PASSES, "misbehaved", Misbehaved)
    monkeypatch.setattr(Misbehaved, "run", lambda *_: raises(Model()))
    assert_complaint(run, ["rewrite", DIGITS, "o.onnx", "--passes", "translate,misbehaved"], tmp_path / "o.onnx")


def test_unverified_file_is_not_left_behind(run, tmp_path, monkeypatch):
    monkeypatch.setitem(PASSES, "misbehaved", Misbehaved)
    (tmp_path / "old.onnx").write_bytes(b"old")
    for out in ("o.onnx", "old.onnx"):
        code, printed, err = run("rewrite", DIGITS, out, "--passes", "translate,misbehaved", "--report", "r.json")
        assert code == 2
        assert "FAILED" in (printed + err).splitlines()[-1]
        assert f"{out} was not written" in err
        assert "Traceback" not in err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["old.onnx", "r.json"]
    assert (tmp_path / "old.onnx").read_bytes() == b"old"
    assert json.loads((tmp_path / "r.json").read_text())["verification"]["verdict"] == "FAILED"

    with pytest.raises(VerificationError):
        api.rewrite(DIGITS, tmp_path / "x.onnx", passes=rewrite.make_passes(["translate", "misbehaved"]))
    assert not (tmp_path / "x.onnx").exists()
