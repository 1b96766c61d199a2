"""What a verb shows: its report as files, JSON and a page; its progress and its log on stderr."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from onnx_ocs.errors import UserError
from onnx_ocs.report.format import readable

__all__ = [
    "Interrupted",
    "check_outputs",
    "console",
    "exit_if_missed",
    "publishing",
    "show_progress",
    "showing",
    "stage_page",
    "stage_reports",
    "start_logging",
]

if TYPE_CHECKING:
    from rich.console import Console

    from onnx_ocs.calibration.context import Progress
    from onnx_ocs.model.publishing import Transaction

SECONDS = 10.0  # between two lines about progress, where no bar can be shown
STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
REPORTS = ("--report", "--html")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; its argument is what had been published."""


def check_outputs(
    files: Mapping[str, Path | None],
    models: Iterable[Path | None] = (),
    calib: str | None = None,
    others: Iterable[Path | None] = (),
) -> None:
    """Fail early where a file cannot be written, or would destroy another one of this call.

    Args:
        files: what is written, by the option that names it; "OUT" for the model.
        models: models that are read.
        calib: the samples' source.
        others: other files that are read.

    Raises:
        UserError: a folder is missing, a name is taken, or the packages that make the page are missing.
    """
    from onnx_ocs.verbs.inputs import check_outputs

    through = [name for name, p in files.items() if p is not None and is_stdout(p)]
    if any(name not in REPORTS for name in through) or len(through) > 1:
        raise UserError(f"{' and '.join(through)}: one report can go to standard output, and nothing else")
    if files.get("--html") is not None:
        from onnx_ocs.report.html import check_html

        check_html()
    stats = files.get("--stats")
    read = ["--stats"] if stats is not None and stats.is_file() else []
    written = {name: p for name, p in files.items() if name not in (*through, *read)}
    check_outputs(written, models, calib, [*others, *(files[name] for name in read)])


@contextmanager
def publishing(*outputs: Path | None) -> Iterator[Transaction]:
    """All files of a call: none is in its place before `publish`, and what is not published is removed.

    Args:
        *outputs: where they go, so that no side file takes one of these names.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; it knows what had been published.
    """
    from onnx_ocs.model.publishing import Transaction

    check_stdout()
    transaction = Transaction(p for p in outputs if p is not None)
    try:
        with transaction:
            yield transaction
    except KeyboardInterrupt:  # also one that waited until all was cleaned up; typer would not say more than a number
        raise Interrupted(transaction.published) from None


def is_stdout(path: Path) -> bool:
    """Whether a report to this path is written through to standard output."""
    return str(path) in STDOUT


def stage_reports(
    transaction: Transaction, report: Path | None, html: Path | None, found: dict[str, Any], title: str
) -> None:
    """Stage the report as JSON, as a page, as both, or not at all; what goes to standard output is written there."""
    texts = []
    if report is not None:
        from onnx_ocs.report.report import to_json

        texts.append((report, to_json({**found, "title": title})))
    if html is not None:
        from onnx_ocs.report.html import to_html

        texts.append((html, to_html(found, title)))
    for path, text in texts:
        stage_page(transaction, path, text)


def stage_page(transaction: Transaction, path: Path, text: str) -> None:
    """Stage a report, or write it through to standard output."""
    if is_stdout(path):
        with showing():
            sys.stdout.write(text)
    else:
        transaction.file(path, text.encode())


def check_stdout() -> None:
    """Fail where there is no standard output.

    Raises:
        UserError: it is closed.
    """
    if sys.stdout is None or sys.stdout.closed:
        raise UserError("standard output is closed: nothing was written")


@contextmanager
def showing() -> Iterator[None]:
    """Print something, all of it.

    Raises:
        UserError: standard output is full, or nobody reads it any more.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as e:
        with suppress(OSError, ValueError):  # what is still in its buffer would fail again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"standard output cannot be written ({e.strerror}): nothing was written") from None


@contextmanager
def show_progress(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, a line every ten seconds in a log or a pipe."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        with _lines() as show:
            yield show


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


@contextmanager
def _lines() -> Iterator[Progress]:
    """A thread writes the lines: long work that says nothing for a while must not look dead."""
    now: list[str] = []
    start, stop = time.monotonic(), threading.Event()

    def show(what: str, done: int, total: int | None) -> None:
        now[:] = [f"{what}: {done}/{total}" if total else what]

    def write() -> None:
        while not stop.wait(SECONDS):
            for what in now:
                print(f"{what}, {timedelta(seconds=int(time.monotonic() - start))}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        stop.set()
        thread.join()


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time: a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Printable(logging.Formatter):
    """Names of a model go through here: none of them is obeyed by a terminal, none begins a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return str(readable(super().formatMessage(record)))


def start_logging(verbose: int) -> None:
    """Send the log of onnx_ocs to stderr: warnings; with 1 what was done, in short; with 2 every detail.

    Args:
        verbose: how often the user said `-v`.
    """
    log = logging.getLogger("onnx_ocs")
    for old in [h for h in log.handlers if isinstance(h, _Stderr)]:
        log.removeHandler(old)
    handler = _Stderr(sys.stderr)
    where = "%(name)s: " if verbose > 1 else ""
    handler.setFormatter(_Printable(f"%(levelname)s {where}%(message)s"))
    log.addHandler(handler)
    log.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])


def exit_if_missed(found: Mapping[str, Any]) -> None:
    """Exit with 3 where a target was missed.

    Args:
        found: a report, or what planning has found.
    """
    target = found.get("target")
    if target is not None and not target["reached"]:
        typer.echo(f"MISSED: {target['shortfall']}.", err=True)
        raise typer.Exit(3)


def console(*written: Path | None) -> Console:
    """What tables are printed on: standard output, or stderr where a report goes there.

    Args:
        *written: where reports go.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    file = sys.stderr if any(p is not None and is_stdout(p) for p in written) else sys.stdout
    return Plain(
        file=file,
        soft_wrap=not file.isatty(),
        width=None if file.isatty() else 160,
        highlight=False,
        markup=False,
    )
