"""Progress and log on stderr, files that cannot be written, the exit code of a missed target."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import typer
from warm import QUICK

from onnx_ocs.cli import outputs
from onnx_ocs.errors import UserError
from onnx_ocs.model import publishing

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
LINE = re.compile(r"^(.+?)(?:: (\d+)/(\d+))?, (\d+:\d\d:\d\d)$")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(outputs, "SECONDS", 0.05)
    with outputs.show_progress(False) as progress:
        time.sleep(0.2)  # nothing has begun: nothing is said
        assert capsys.readouterr().err == ""
        progress("calibrating", 3, 512)
        time.sleep(0.3)
        progress("verifying", 0, None)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    found = [m.groups() for m in map(LINE.match, lines) if m is not None]
    assert len(found) == len(lines)
    assert ("calibrating", "3", "512", "0:00:00") in found
    assert found[-1][:3] == ("verifying", None, None)
    assert len(lines) >= 4  # also while the work says nothing
    time.sleep(0.15)
    assert capsys.readouterr().err == "", "the lines go on after the work"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert outputs.SECONDS == 10.0
    with outputs.show_progress(False) as progress:
        progress("calibrating", 512, 512)
    assert capsys.readouterr().err == ""


def test_lines_stop_when_the_work_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(outputs, "SECONDS", 0.05)
    with pytest.raises(UserError), outputs.show_progress(False) as progress:
        progress("calibrating", 0, 512)
        raise UserError("no")
    capsys.readouterr()
    time.sleep(0.15)
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(outputs, "SECONDS", 0.01)
    with outputs.show_progress(True) as progress:
        progress("calibrating", 3, 512)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with outputs.show_progress(False) as progress:
        progress("calibrating", 3, 512)
        progress("calibrating", 5, 512)
        time.sleep(0.2)
    assert "calibrating" in shown.getvalue() and "5/512" in shown.getvalue()
    assert not any(LINE.match(line) for line in shown.getvalue().splitlines())


@pytest.mark.parametrize(
    ("verbose", "wanted"),
    [
        (0, "WARNING beware\n"),
        (1, "INFO done\nWARNING beware\n"),
        (2, "DEBUG onnx_ocs.x: detail\nINFO onnx_ocs.x: done\nWARNING onnx_ocs.x: beware\n"),
        (5, "DEBUG onnx_ocs.x: detail\nINFO onnx_ocs.x: done\nWARNING onnx_ocs.x: beware\n"),
    ],
)
def test_log(capsys: pytest.CaptureFixture[str], verbose: int, wanted: str) -> None:
    outputs.start_logging(0)
    outputs.start_logging(verbose)  # a second call takes the place of the first
    mine = logging.getLogger("onnx_ocs.x")
    mine.debug("detail")
    mine.info("done")
    mine.warning("beware")
    logging.getLogger("another").info("not ours")
    assert capsys.readouterr().err == wanted


def test_log_and_bar_share_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log line goes through what the bar has put in the place of stderr, so that they do not garble each other."""
    outputs.start_logging(1)
    caught = io.StringIO()
    monkeypatch.setattr(sys, "stderr", caught)
    logging.getLogger("onnx_ocs.x").info("done")
    assert caught.getvalue() == "INFO done\n"


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [([], [], logging.WARNING), (["-v"], [], logging.INFO), (["-vv"], [], logging.DEBUG), ([], ["-vv"], logging.DEBUG),
     (["--verbose"], ["-q"], logging.INFO), ([], ["--verbose"], logging.INFO)],
)  # fmt: skip
def test_verbose_before_or_after_the_verb(run, log, before: list[str], after: list[str], level: int) -> None:
    assert run(*before, "rewrite", "nothing.onnx", "x.onnx", *after)[0] == 1
    assert log.level == level


def test_missed_target() -> None:
    outputs.exit_if_missed({})
    outputs.exit_if_missed({"target": None})
    outputs.exit_if_missed({"target": {"reached": True}})
    with pytest.raises(typer.Exit) as stop:
        outputs.exit_if_missed({"target": {"reached": False, "shortfall": "the target was missed: so much"}})
    assert stop.value.exit_code == 3


def test_files_that_would_overwrite_each_other(tmp_path: Path) -> None:
    a = tmp_path / "a.json"
    outputs.check_outputs({"--report": a, "--html": None}, [DIGITS, None])
    with pytest.raises(UserError, match=r"--report .* is the same file as"):
        outputs.check_outputs({"--report": a}, [tmp_path / "." / "a.json"])
    with pytest.raises(UserError, match=r"--html .* is the same file as"):
        outputs.check_outputs({"--report": a, "--html": a})


def test_statistics_that_are_there_are_read(tmp_path: Path) -> None:
    stats = tmp_path / "s.npz"
    stats.write_bytes(b"counted before")
    outputs.check_outputs({"OUT": tmp_path / "o.onnx", "--stats": stats})
    with pytest.raises(UserError, match=r"--report .* is the same file as .*s\.npz"):
        outputs.check_outputs({"--report": stats, "--stats": stats})


def test_what_goes_to_standard_output() -> None:
    for name in ("-", "/dev/stdout"):
        outputs.check_outputs({"--report": Path(name)})
        assert outputs.is_stdout(Path(name))
    with pytest.raises(UserError, match="--report and --html: one report can go"):
        outputs.check_outputs({"--report": Path("-"), "--html": Path("/dev/stdout")})
    with pytest.raises(UserError, match="OUT: one report can go"):
        outputs.check_outputs({"OUT": Path("/dev/stdout")})


def test_a_report_through_standard_output(run, tmp_path: Path) -> None:
    code, out, err = run("inspect", DIGITS, "--report", "-")
    assert code == 0 and json.loads(out)["verb"] == "inspect"
    assert "Quantized activations" in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "device"])
def test_no_file_of_any_verb_is_anything_else(kind: str, run, tmp_path: Path) -> None:
    path = {"device": Path("/dev/full")}.get(kind, tmp_path / kind)
    makers = {"pipe": os.mkfifo, "folder": Path.mkdir, "link": lambda p: p.symlink_to("nowhere")}
    makers.get(kind, lambda _: None)(path)
    before = path.lstat()
    rewrite, plan = ("rewrite", DIGITS, "o.onnx"), ("plan", DIGITS, "--calib", CALIB)
    for words in (
        rewrite[:2], (*rewrite, "--report"), (*rewrite, "--html"), (*rewrite, "--calib", CALIB, "--stats"),
        (*plan, "-o"), (*plan, "-o", "p.json", "--html"), (*plan, "-o", "p.json", "--stats"),
        ("inspect", DIGITS, "--report"), ("inspect", DIGITS, "--html"),
        ("verify", DIGITS, DIGITS, "--report"), ("verify", DIGITS, DIGITS, "--html"),
        (*rewrite, "--plan"), (*rewrite, "--calib", CALIB, "--float"), (*rewrite, "--calib"), ("inspect",),  # read
    ):  # fmt: skip
        code, out, err = run(*words, path)
        assert (code, out, len(err.splitlines())) == (1, "", 1), words
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert [p.name for p in tmp_path.iterdir()] == ([] if kind == "device" else [kind])


# ---- standard output that fails -------------------------------------------------------------------------------------


def rewriting(folder: Path, *more: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """A run in a process, with the shell's redirections."""
    words = [*QUICK, "rewrite", str(DIGITS), "o.onnx", "--report", "r.json", *more]
    return subprocess.run(f"{shlex.join(words)} {shell}", shell=True, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("shell", "why"),
    [(">&-", "standard output is closed"), ("> /dev/full", "No space left"), ("| true", "Broken pipe")],
    ids=["closed", "full", "broken"],
)
def test_standard_output_fails(shell: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "o.onnx").write_bytes(b"old")
    done = rewriting(tmp_path, "-q", shell=shell)
    assert why in done.stderr and done.stderr.rstrip().endswith("nothing was written")
    assert len(done.stderr.splitlines()) == 1
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("o.onnx", b"old")]


def test_a_page_that_fails_leaves_the_old_state(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the page is staged, the last of all: model and report are not published either."""
    for name in ("o.onnx", "r.json", "r.html"):
        (tmp_path / name).write_bytes(b"old")
    genuine = publishing.Transaction.file

    def full(self: publishing.Transaction, path: Path, data: bytes) -> None:
        if str(path) == "r.html":
            raise UserError(f"{path}: cannot be written: No space left on device")
        genuine(self, path, data)

    monkeypatch.setattr(publishing.Transaction, "file", full)
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--report", "r.json", "--html", "r.html")
    assert (code, out) == (1, "") and "r.html: cannot be written" in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict.fromkeys(("o.onnx", "r.json", "r.html"), b"old")


# ---- names that a terminal would obey -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["\x1b[31m\x1b]0;t\x07\x1b[2J\r", "\u202e\x9b", "long" * 500], ids=["ansi", "bidi", "long"]
)
def test_names_on_the_terminal(prefix: str, run, tmp_path: Path) -> None:
    m = onnx.load(DIGITS)
    names = {o: prefix + o for n in m.graph.node for o in n.output if o not in {v.name for v in m.graph.output}}
    for n in m.graph.node:
        n.name = prefix + n.name
        for part in (n.input, n.output):
            part[:] = [names.get(x, x) for x in part]
    del m.graph.value_info[:]
    onnx.save(m, tmp_path / "in.onnx")
    for words in (["inspect", "in.onnx"], ["rewrite", "in.onnx", "o.onnx", "-vv"], ["verify", "in.onnx", "in.onnx"]):
        code, out, err = run(*words)
        assert code in (0, 2)
        assert not {c for c in out + err if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c == "\u202e"} - {"\n"}
        assert max(map(len, (out + err).splitlines())) < 1000
    bad = onnx.load(DIGITS)
    bad.graph.node[7].input[0] = prefix + "nowhere"
    onnx.save(bad, tmp_path / "bad.onnx")
    code, out, err = run("rewrite", "bad.onnx", "o.onnx")
    assert (code, out, len(err.splitlines())) == (1, "", 1) and err.isprintable() is False and err.strip().isprintable()


def test_the_log_is_one_line_a_record(log, capsys: pytest.CaptureFixture[str]) -> None:
    outputs.start_logging(1)
    log.info("a %s b", "\x1b[2J\nERROR forged")
    assert capsys.readouterr().err == "INFO a \\x1b[2J\\nERROR forged b\n"
