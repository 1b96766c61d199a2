"""What a verb shows: its report as files, JSON and a page; its progress and its log on stderr."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from onnx_ocs.errors import UserError

__all__ = ["check_outputs", "console", "exit_if_missed", "show_progress", "start_logging", "write_outputs"]

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int | None], None]
SECONDS = 10.0  # between two lines about progress, where no bar can be shown


def check_outputs(files: Mapping[str, Path | None], *others: Path | str | None) -> None:
    """Fail early where a file cannot be written, or would overwrite another one of this call.

    Args:
        files: by the option that names it.
        others: the other files of this call.

    Raises:
        UserError: a folder is missing, a name is taken, or the packages that make the page are missing.
    """
    taken = list(others)
    for option, path in files.items():
        if path is None:
            continue
        if option == "--html":
            from onnx_ocs.report.html import check_html

            check_html()
        from onnx_ocs.model.files import check_writable

        check_writable(path)
        for other in taken:
            if other is not None and Path(other).resolve() == path.resolve():
                raise UserError(f"{option} {path} is the same file as {other}: give it another name")
        taken.append(path)


def write_outputs(report: Path | None, html: Path | None, found: dict[str, Any], title: str) -> None:
    """Write the report as JSON, as a page, as both, or not at all."""
    from onnx_ocs.model.files import write_text

    if report is not None:
        from onnx_ocs.report.report import to_json

        write_text(report, to_json(found))
    if html is not None:
        from onnx_ocs.report.html import to_html

        write_text(html, to_html(found, title))


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
    handler.setFormatter(logging.Formatter(f"%(levelname)s {where}%(message)s"))
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


def console() -> Console:
    """What tables are printed on."""
    from rich.console import Console

    return Console(
        soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160, highlight=False, markup=False
    )
