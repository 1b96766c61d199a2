"""Files of calibration samples: which they are, and what is in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_ocs.errors import UserError

__all__ = ["blame", "is_sample_of", "npz_files", "read_sets", "sample_files", "set_folders", "user_function"]

_LOG = logging.getLogger(__name__)
FUNCTION = re.compile(r"([^\W\d][\w.]*):([^\W\d]\w*)")


@contextmanager
def blame(problem: str, advice: str) -> Iterator[None]:
    """Whatever goes wrong inside is the user's to mend."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise UserError(f"{problem} ({type(error).__name__}: {error}): {advice}") from error


def _regular(paths: Iterator[Path]) -> list[Path]:
    """The files among them, sorted; reading a pipe would wait for a writer."""
    found = sorted(paths, key=lambda path: (len(path.name), path.name))
    for path in found:
        if not path.is_file():
            _LOG.warning("skipped %s: it is not a file", path)
    return [path for path in found if path.is_file()]


def npz_files(path: Path) -> list[Path]:
    """The .npz itself, or those of a folder."""
    if path.is_file() and path.suffix == ".npz":
        return [path]
    return sorted(_regular(path.glob("*.npz")))


def set_folders(path: Path) -> list[Path]:
    """The ONNX test set itself, or those of a folder."""
    return [path] if any(path.glob("input_*.pb")) else list(path.glob("test_data_set_*/"))


def user_function(source: str) -> tuple[str, str] | None:
    """Module and name of `package.module:function`; None for anything else."""
    found = FUNCTION.fullmatch(source)
    return None if found is None else (found.group(1), found.group(2))


def sample_files(source: str | Path) -> list[Path]:
    """All files that are read for a source of the command line."""
    path = Path(source).resolve()
    files = npz_files(path)
    if not files:
        files = [f for folder in set_folders(path) for f in folder.glob("*.pb")]
    if not path.exists() and (function := user_function(str(source))):
        base = Path(*function[0].split("."))
        files = [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    return files


def is_sample_of(source: str | Path, path: Path) -> bool:
    """Whether a new file would be taken for a sample of a folder."""
    folder = Path(source).resolve()
    return folder.is_dir() and path.suffix == ".npz" and path.resolve().parent == folder


def read_sets(folders: Sequence[Path], names: list[str]) -> Iterator[tuple[str, object]]:
    """Read the inputs: a tensor goes to the input of its name, the others to the inputs left over, in order."""
    for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):
        feed: dict[str, NDArray[Any]] = {}
        others: dict[str, NDArray[Any]] = {}
        for path in _regular(folder.glob("input_*.pb")):
            with blame(f"'{path}' is not a readable TensorProto", "write it with onnx.save_tensor"):
                tensor = onnx.load_tensor(path)
                array: NDArray[Any] = np.asarray(onnx.numpy_helper.to_array(tensor, str(folder)))
            named = tensor.name in names
            (feed if named else others)[tensor.name if named else path.name] = array
        feed |= zip([name for name in names if name not in feed], others.values(), strict=False)
        yield f"'{folder}'", feed
