"""What a verb shows: its report as files, JSON and a page, and on the terminal a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ocs.errors import UserError

__all__ = ["check_outputs", "console", "progress_bar", "write_outputs"]

if TYPE_CHECKING:
    from rich.console import Console


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
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
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


def console() -> Console:
    """What tables are printed on."""
    from rich.console import Console

    return Console(
        soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160, highlight=False, markup=False
    )
