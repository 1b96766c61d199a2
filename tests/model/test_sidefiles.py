"""Side files (ONNX external data): nothing outside the folder, layouts kept, the old output whole at every moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model import files, publishing, sidefiles, tensors
from onnx_ocs.model.files import fingerprint
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.runtime import session as runtime
from onnx_ocs.verification import exact
from onnx_ocs.verification import verify as verification

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def outputs(path: Path) -> np.ndarray:
    pixels = np.linspace(0, 16, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    return np.asarray(
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]
    )


def external(folder: Path, name: str = "model.onnx", **layout: object) -> Path:
    folder.mkdir(exist_ok=True)
    options = {"location": "weights.bin", "size_threshold": 512} | layout
    onnx.save(onnx.load(DIGITS), folder / name, save_as_external_data=True, **options)
    return folder / name


def references(path: Path) -> dict[str, list[tuple[str, int, int]]]:
    """For each side file the tensors in it: name, offset, length."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for t in onnx.load(path, load_external_data=False).graph.initializer:
        if t.data_location == onnx.TensorProto.EXTERNAL:
            e = {e.key: e.value for e in t.external_data}
            assert set(e) == {"location", "offset", "length"}
            found.setdefault(e["location"], []).append((t.name, int(e["offset"]), int(e["length"])))
    return found


# ---- layouts --------------------------------------------------------------------------------------------------------


def test_one_file_stays_one_file(tmp_path: Path) -> None:
    source, inside, outside = external(tmp_path / "in"), tmp_path / "inside.onnx", tmp_path / "out" / "wide.onnx"
    outside.parent.mkdir()
    api.rewrite(DIGITS, inside)
    result = api.rewrite(source, outside)
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    assert sorted(p.name for p in outside.parent.iterdir()) == ["weights.bin", "wide.onnx"]
    assert set(references(outside)) == {"weights.bin"}
    assert np.array_equal(outputs(inside), outputs(outside))
    assert np.array_equal(outputs(source), outputs(DIGITS))
    small = [t for t in onnx.load(outside, load_external_data=False).graph.initializer if not t.external_data]
    assert max(len(t.raw_data) for t in small) < min(s for _, _, s in references(source)["weights.bin"])
    onnx.checker.check_model(outside, full_check=True)


def test_a_file_for_each_tensor_stays_that(tmp_path: Path) -> None:
    source = external(tmp_path / "in", all_tensors_to_one_file=False, location=None)
    before = references(source)
    assert len(before) > 3
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "wide.onnx"
    assert api.rewrite(source, out).changed
    after = references(out)
    assert all(len(v) == 1 for v in after.values()) and len(after) >= len(before)
    assert {p.name for p in out.parent.iterdir()} == {*after, "wide.onnx"}
    assert np.array_equal(outputs(out), outputs(out))
    assert tensors.values(files.load_model(out).graph.initializer[0]) is not None


def test_names_follow_the_model(tmp_path: Path) -> None:
    source = external(tmp_path / "in", location="model.onnx_data")
    out = source.with_name("wide.onnx")
    assert api.rewrite(source, out).changed
    assert set(references(out)) == {"wide.onnx_data"}
    other = external(tmp_path / "other")
    api.rewrite(other, other.with_name("wide.onnx"))
    assert set(references(other.with_name("wide.onnx"))) == {"wide.weights.bin"}  # weights.bin is the input's


def test_a_strangers_file_is_not_overwritten(tmp_path: Path) -> None:
    source, out = external(tmp_path / "in"), tmp_path / "out" / "wide.onnx"
    out.parent.mkdir()
    for name in ("weights.bin", "wide.weights.bin"):
        (out.parent / name).write_bytes(b"a stranger's")
    with pytest.raises(UserError, match=r"exists and is not wide\.onnx's"):
        api.rewrite(source, out)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == {
        "weights.bin": b"a stranger's",
        "wide.weights.bin": b"a stranger's",
    }


def test_nothing_to_rewrite(tmp_path: Path) -> None:
    source, out = external(tmp_path / "in"), tmp_path / "out.onnx"
    result = api.rewrite(source, out, passes=[])
    assert not result.changed
    assert np.array_equal(outputs(out), outputs(DIGITS))


def test_inside_and_outside_are_the_same_model(tmp_path: Path) -> None:
    inside, _ = run_passes(files.load_model(DIGITS), [Translate()], Context())
    outside, _ = run_passes(files.load_model(external(tmp_path)), [Translate()], Context())
    assert any(tensors.is_taken(t) for t in outside.graph.initializer)
    assert [n.SerializeToString() for n in inside.graph.node] == [n.SerializeToString() for n in outside.graph.node]
    theirs = {t.name: t for t in outside.graph.initializer}
    for t in inside.graph.initializer:
        assert np.array_equal(tensors.values(t), tensors.values(theirs[t.name]))
        assert tensors.inlined(theirs[t.name]).raw_data == t.raw_data


def test_a_plan_knows_the_side_file(tmp_path: Path) -> None:
    here, there = external(tmp_path / "a"), external(tmp_path / "b")
    assert fingerprint(files.load_model(here)) == fingerprint(files.load_model(there))
    data = bytearray((there.parent / "weights.bin").read_bytes())
    data[50] ^= 1
    (there.parent / "weights.bin").write_bytes(data)
    assert fingerprint(files.load_model(here)) != fingerprint(files.load_model(there))


def test_models_beyond_protobufs_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limits lowered: an inline model gets a side file, sessions get the weights handed over."""
    monkeypatch.setattr(publishing, "PROTOBUF_LIMIT", 60_000)
    monkeypatch.setattr(runtime, "PROTOBUF_LIMIT", 60_000)
    out = tmp_path / "out.onnx"
    result = api.rewrite(DIGITS, out)
    assert result.verification is not None and result.verification.verdict == "PASSED"
    assert result.report["cost"]["integer_kernels_before"] == 8
    assert set(references(out)) == {"out.onnx.data"}
    monkeypatch.undo()
    api.rewrite(DIGITS, tmp_path / "inside.onnx")
    assert np.array_equal(outputs(out), outputs(tmp_path / "inside.onnx"))


# ---- what is wrong is told ------------------------------------------------------------------------------------------


def test_the_output_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    source, out = external(tmp_path / "in"), tmp_path / "out" / "wide.onnx"
    (source.parent / "sub").mkdir()
    (source.parent / "weights.bin").rename(source.parent / "sub" / "weights.bin")
    model = onnx.load(source, load_external_data=False)
    for t in model.graph.initializer:
        for e in t.external_data:
            e.value = "sub/weights.bin" if e.key == "location" else e.value
    source.write_bytes(model.SerializeToString())
    out.parent.mkdir()
    api.rewrite(source, out)
    assert (out.parent / "sub" / "weights.bin").is_file()  # the layout is kept
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2" / "sub").symlink_to(elsewhere)
    with pytest.raises(UserError, match="exists and is not"):
        api.rewrite(source, tmp_path / "out2" / "wide.onnx")
    assert not [*elsewhere.iterdir()]


# ---- the old output is whole ----------------------------------------------------------------------------------------


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    source, out = external(tmp_path / "in"), tmp_path / "out" / "wide.onnx"
    out.parent.mkdir()
    api.rewrite(source, out)
    first = {p.name: p.read_bytes() for p in out.parent.iterdir()}
    api.rewrite(source, out)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == first


def test_no_links_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = external(tmp_path / "in"), tmp_path / "out" / "wide.onnx"
    out.parent.mkdir()
    api.rewrite(source, out)
    expected = outputs(out)

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(publishing.os, "link", none)
    api.rewrite(source, out)
    assert np.array_equal(outputs(out), expected)


class Stopped(BaseException):
    """Where a process was killed."""


CALLS = ["fsync", "link", "replace", "write", "copy_file_range", "chmod", "mkdir", "rename", "open"]


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, onnx.ModelProto, np.ndarray]:
    """The example with a side file, the same translated, and what that computes."""
    folder = tmp_path_factory.mktemp("translated")
    source = external(folder / "in")
    model, _ = run_passes(files.load_model(source), [Translate()], Context())
    files.save_model(model, folder / "new.onnx", source)
    return source, model, outputs(folder / "new.onnx")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stopped()], ids=["full", "killed"])
@pytest.mark.parametrize("call", CALLS)
def test_the_old_output_is_whole_after(
    call: str,
    error: BaseException,
    translated: tuple[Path, onnx.ModelProto, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each call in turn fails, for the first, second, ... time: the output is the old one or the new one."""
    (source, model, new), out = translated, tmp_path / "out" / "wide.onnx"
    out.parent.mkdir()
    files.save_model(files.load_model(source), out, source)
    old = outputs(out)
    assert not np.array_equal(old, new)
    owner = Path if call in ("replace", "chmod", "mkdir", "rename", "open") else sidefiles.os
    genuine = getattr(owner, call)
    seen = 0
    for turn in range(100):
        left = turn

        def failing(*a: object, **k: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise error
            return genuine(*a, **k)

        with monkeypatch.context() as m:
            m.setattr(owner, call, failing)
            try:
                files.save_model(model, out, source)
            except (UserError, Stopped):
                seen += 1
        found = outputs(out)
        assert np.array_equal(found, old) or np.array_equal(found, new)
        if isinstance(error, OSError) and call != "replace":  # and what was begun is taken back
            assert sorted(p.name for p in out.parent.iterdir()) == ["weights.bin", "wide.onnx"]
        if left >= 0:
            break
    assert np.array_equal(outputs(out), new)
    assert seen or call in ("copy_file_range", "link")


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """kill -9 at random moments of the real command line: the output is the old one or the new one."""
    source, out = external(tmp_path / "in"), tmp_path / "out" / "wide.onnx"
    out.parent.mkdir()
    files.save_model(files.load_model(source), out, source)
    old, program = outputs(out), (
        "import sys\nfrom onnx_ocs.model import files\nfrom onnx_ocs.calibration.context import Context\n"
        "from onnx_ocs.passmanager import run_passes\n"
        "from onnx_ocs.passes import Translate\nfrom pathlib import Path\n"
        "s, o = map(Path, sys.argv[1:])\nm, _ = run_passes(files.load_model(s), [Translate()], Context())\n"
        "print('ready', flush=True)\nwhile True:\n    files.save_model(m, o, s)\n"
    )  # fmt: skip
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(3):
        p = subprocess.Popen([sys.executable, "-c", program, source, out], stdout=subprocess.PIPE)
        assert p.stdout is not None and p.stdout.readline()
        time.sleep(0.002 + 0.05 * rng.random())
        p.send_signal(signal.SIGKILL)
        p.wait()
        p.stdout.close()
        answers.append(outputs(out))
    model, _ = run_passes(files.load_model(source), [Translate()], Context())
    files.save_model(model, tmp_path / "new.onnx", source)
    new = outputs(tmp_path / "new.onnx")
    assert all(np.array_equal(a, old) or np.array_equal(a, new) for a in answers)


def test_large_models_are_verified_on_one_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = external(tmp_path / "in")
    small = api.rewrite(source, tmp_path / "small.onnx").verification
    monkeypatch.setattr(verification, "LARGE", 1000)
    monkeypatch.setattr(exact, "LARGE", 1000)
    large = api.rewrite(source, tmp_path / "large.onnx").verification
    assert small is not None and large is not None
    assert small.verdict == large.verdict == "PASSED"
    assert 0 < large.exact.values < small.exact.values / 2
    assert any("one sample" in n for n in large.notes) and not any("one sample" in n for n in small.notes)
