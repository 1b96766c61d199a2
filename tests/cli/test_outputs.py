"""Progress and log on stderr, files that cannot be written, the exit code of a missed target."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from pathlib import Path

import pytest
import typer

from onnx_ocs.cli import outputs
from onnx_ocs.errors import UserError

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
    outputs.check_outputs({"--report": a, "--html": None}, DIGITS, None)
    with pytest.raises(UserError, match=r"--report .* is the same file as"):
        outputs.check_outputs({"--report": a}, tmp_path / "." / "a.json")
    with pytest.raises(UserError, match=r"--html .* is the same file as"):
        outputs.check_outputs({"--report": a, "--html": a})
