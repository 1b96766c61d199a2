"""The files that a verb writes beside a model: its report, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_ocs.errors import UserError

__all__ = ["check_outputs", "write_outputs"]


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
            from onnx_ocs.html import check_html

            check_html()
        from onnx_ocs.io import check_writable

        check_writable(path)
        for other in taken:
            if other is not None and Path(other).resolve() == path.resolve():
                raise UserError(f"{option} {path} is the same file as {other}: give it another name")
        taken.append(path)


def write_outputs(report: Path | None, html: Path | None, found: dict[str, Any], title: str) -> None:
    """Write the report as JSON, as a page, as both, or not at all."""
    from onnx_ocs.io import write_text

    if report is not None:
        from onnx_ocs.report import to_json

        write_text(report, to_json(found))
    if html is not None:
        from onnx_ocs.html import to_html

        write_text(html, to_html(found, title))
