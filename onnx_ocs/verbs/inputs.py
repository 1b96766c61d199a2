"""What a verb reads: all its files, so that no output takes the place of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnx_ocs.calibration.reading import is_sample_of, sample_files
from onnx_ocs.errors import UserError
from onnx_ocs.model.destinations import check_apart, check_writable, model_files

__all__ = ["check_outputs"]


def check_outputs(
    outputs: Mapping[str, Path | str | None],
    models: Iterable[Any] = (),
    calib: Any = None,
    others: Iterable[Path | None] = (),
) -> None:
    """Fail early where an output cannot be written, or would destroy what is read or another output.

    Args:
        outputs: by what each is called; None is left out.
        models: models, those that are paths with their side files.
        calib: the calibration samples' source.
        others: other files that are read.

    Raises:
        UserError: a folder is missing, something is no regular file, or two are the same file.
    """
    written = {name: Path(path) for name, path in outputs.items() if path is not None}
    inputs = [f for m in models if isinstance(m, (str, Path)) for f in model_files(m)]
    inputs += [p for p in others if p is not None]
    if isinstance(calib, (str, Path)):
        inputs += sample_files(calib)
    for name, path in written.items():
        check_writable(path)
        if isinstance(calib, (str, Path)) and is_sample_of(calib, path) and not path.exists():
            raise UserError(f"{name} {path} would be one of the samples in {calib}: give it another folder")
    check_apart(written, inputs)
    old = written.get("OUT")
    if old is not None:  # its side files are replaced with it, by nothing else
        check_apart({n: p for n, p in written.items() if n != "OUT"}, model_files(old)[1:])
