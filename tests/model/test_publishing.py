"""Publishing: all files or none, whatever fails, whoever else publishes, whenever a run is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model import files, publishing, tensors
from onnx_ocs.model.publishing import Transaction
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits.w8a2.onnx"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model.onnx"
    onnx.save(onnx.load(DIGITS), path, save_as_external_data=True, location="w.bin", size_threshold=512)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "wide.onnx"


@pytest.fixture(scope="module")
def wide() -> dict[float, onnx.ModelProto]:
    plain = files.load_model(DIGITS)
    return {ratio: run_passes(plain, [Translate(ratio)], Context())[0] for ratio in (0.2, 0.6)}


def staged(out: Path, source: Path, ratio: float) -> Transaction:
    """The source's rewrite, with a report, ready to be published."""
    transaction = Transaction()
    model, _ = run_passes(files.load_model(source), [Translate(ratio)], Context())
    transaction.model(model, out, source)
    transaction.file(out.with_name("r.json"), f"report of {ratio}".encode())
    return transaction


def published(out: Path, source: Path, ratio: float) -> dict[str, bytes]:
    with staged(out, source, ratio) as transaction:
        transaction.publish()
        assert set(transaction.published) == {out, out.with_name("r.json")}
    return contents(out.parent)


def test_nothing_is_there_before_and_nothing_is_left_after(source: Path, out: Path) -> None:
    with staged(out, source, 0.2) as transaction:
        assert not out.exists() and not transaction.published
        assert [p.name[:10] for p in out.parent.iterdir()] == [".onnx_ocs."]
    assert not contents(out.parent)
    assert set(published(out, source, 0.2)) == {"wide.onnx", "w.bin", "r.json"}
    assert [p.name for p in out.parent.iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "old"])
@pytest.mark.parametrize("call", ["link", "replace"])
def test_what_fails_is_taken_back(
    call: str, fresh: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename in turn fails: model, side file and report are all old, or (links) all new."""
    new = published(out, source, 0.6)
    for p in out.parent.iterdir():
        p.unlink()
    old = {} if fresh else published(out, source, 0.2)
    owner = os if call == "link" else Path
    genuine = getattr(owner, call)
    for turn in range(20):
        left = turn

        def failing(*a: object, **k: object) -> object:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(5, "Input/output error")
            return genuine(*a, **k)

        with staged(out, source, 0.6) as transaction, monkeypatch.context() as m:
            m.setattr(owner, call, failing)
            try:
                transaction.publish()
            except UserError as e:
                assert "Input/output error" in str(e) and not transaction.published
                assert contents(out.parent).items() >= old.items()
                continue
            finally:
                m.undo()
        break
    assert left >= 0 or call == "link"
    if call == "replace":
        assert turn >= 4 and contents(out.parent) == new


def test_two_publish_at_the_same_moment(source: Path, out: Path) -> None:
    """However they meet: model, side file and report are all of one run."""
    whole = []
    for ratio in (0.2, 0.6):
        whole.append(published(out, source, ratio))
    assert whole[0] != whole[1]
    for turn in range(8):
        if turn % 2:
            for p in out.parent.iterdir():
                p.unlink()
        both = [staged(out, source, ratio) for ratio in (0.2, 0.6)]
        start, failed = threading.Barrier(2), list[BaseException]()

        def publish(transaction: Transaction, start=start, failed=failed) -> None:
            start.wait()
            try:
                transaction.publish()
            except UserError as e:
                failed.append(e)

        threads = [threading.Thread(target=publish, args=(t,)) for t in both]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for t in both:
            t.close()
        assert contents(out.parent) in whole
        assert len(failed) < 2
        files.load_model(out)


def test_a_strangers_side_file_that_came_meanwhile(source: Path, out: Path) -> None:
    with staged(out, source, 0.2) as transaction:
        (out.parent / "w.bin").write_bytes(b"a stranger's")
        with pytest.raises(UserError, match="has come meanwhile"):
            transaction.publish()
    assert contents(out.parent) == {"w.bin": b"a stranger's"}


def test_names_are_given_once(source: Path, out: Path) -> None:
    with staged(out, source, 0.2) as transaction:
        with pytest.raises(UserError, match="is written twice"):
            transaction.file(out.parent / "." / "r.json", b"")
        with pytest.raises(UserError, match="is a side file of the model"):
            transaction.file(out.parent / "w.bin", b"")
    with Transaction([out.parent / "w.bin"]) as transaction:  # known before: the side file gets another name
        transaction.model(files.load_model(source), out, source)
        transaction.file(out.parent / "w.bin", b"a report")
        transaction.publish()
    assert set(contents(out.parent)) == {"wide.onnx", "w.bin", "wide.w.bin"}


def test_what_is_discarded(source: Path, out: Path) -> None:
    with staged(out, source, 0.2) as transaction:
        transaction.discard(out)
        transaction.discard(out)
        transaction.publish()
    assert set(contents(out.parent)) == {"r.json"}
    with staged(out, source, 0.2) as transaction:
        transaction.discard(out)
        transaction.model(files.load_model(source), out, source)
        transaction.publish()
    assert set(contents(out.parent)) == {"r.json", "wide.onnx", "w.bin"}


def test_something_else_has_come_to_the_place(out: Path) -> None:
    with Transaction() as transaction:
        transaction.file(out, b"new")
        out.symlink_to("elsewhere")
        with pytest.raises(UserError, match="is a symbolic link"):
            transaction.publish()
    assert [p.name for p in out.parent.iterdir()] == ["wide.onnx"] and out.is_symlink()


KILLED = """
import os, sys
from pathlib import Path
from onnx_ocs.calibration.context import Context
from onnx_ocs.model import files, publishing
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
source, out, turn, ratio = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
model, _ = run_passes(files.load_model(source), [Translate(ratio)], Context())
replace = Path.replace
def counting(self, target):
    global turn
    turn -= 1
    if turn < 0:
        os.kill(os.getpid(), 9)
    return replace(self, target)
with publishing.Transaction() as t:
    t.model(model, out, source)
    Path.replace = counting
    t.publish()
"""


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "old"])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_killed_run_is_finished_by_the_next_one(turn: int, fresh: bool, source: Path, out: Path) -> None:
    """kill -9 at each rename: the model is the old or the new one, and the next run leaves nothing of it."""
    new = published(out, source, 0.6)
    del new["r.json"]
    for p in out.parent.iterdir():
        p.unlink()
    old = {} if fresh else published(out, source, 0.2)
    old.pop("r.json", None)
    done = subprocess.run([sys.executable, "-c", KILLED, source, out, str(turn), "0.6"], check=False)
    assert done.returncode == (0 if turn == 3 else -9)
    if turn or not fresh:
        loaded = files.load_model(out)
        for t in tensors.all_tensors(loaded):
            tensors.values(t)
    files.write_bytes(out.parent / "other", b"")  # another run in this folder
    found = contents(out.parent)
    assert found.pop("other") == b""
    found.pop("r.json", None)
    if turn == 0 and fresh:  # nobody knows whether the model was moved away: the next one at its place does
        published(out, source, 0.6)
        files.write_bytes(out.parent / "other", b"")
        found = {k: v for k, v in contents(out.parent).items() if k not in ("other", "r.json")}
    assert found == (new if turn or fresh else old)


def test_inline_models_follow_the_limit(out: Path, wide, monkeypatch: pytest.MonkeyPatch) -> None:
    files.save_model(wide[0.2], out)
    assert set(contents(out.parent)) == {"wide.onnx"}
    monkeypatch.setattr(publishing, "PROTOBUF_LIMIT", 60_000)
    files.save_model(wide[0.6], out)
    assert set(contents(out.parent)) == {"wide.onnx", "wide.onnx.data"}
