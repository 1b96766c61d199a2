"""Files of calibration samples: which they are, and what is in them."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import os
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_ocs.errors import UserError

__all__ = [
    "blame",
    "check_declared",
    "checksum",
    "first_of",
    "imported",
    "is_sample_of",
    "npz_files",
    "read_blocks",
    "read_sets",
    "sample_files",
    "set_folders",
    "told",
    "user_feeds",
    "user_function",
]

_LOG = logging.getLogger(__name__)
BLOCK = 1 << 24  # bytes of an .npz that are read at a time
FUNCTION = re.compile(r"([^\W\d][\w.]*):([^\W\d]\w*)")


@contextmanager
def blame(problem: str, advice: str) -> Iterator[None]:
    """Whatever goes wrong inside is the user's to mend."""
    try:
        yield
    except UserError:
        raise
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


def memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return 1 << 36


def check_declared(path: Path, names: Collection[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Look at what the arrays of an .npz say of their sizes, before anything of that size is allocated.

    Args:
        path: the file.
        names: the arrays that are to be read; None for all.

    Returns:
        Their shapes.

    Raises:
        UserError: an array is larger than what is stored of it, or all are larger than the machine's memory.
    """
    total, shapes = 0, {}
    with ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            with archive.open(member) as f:
                shape, _, dtype = _header(f)
            size = 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
            if size > member.file_size:
                raise UserError(
                    f"'{path}' is damaged: the array '{name}' says {size:,} bytes, {member.file_size:,} are stored"
                )
            total += size
            shapes[name] = shape
    if total > (most := memory()):
        raise UserError(f"'{path}' needs {total:,} bytes, this machine has {most:,}: split it into several .npz")
    return shapes


def _header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored column by column, and type of an array that is about to be read."""
    first = np.lib.format.read_magic(f) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(f)
    return found


def read_blocks(path: Path, names: Collection[str] | None) -> Iterator[dict[str, NDArray[Any] | None]]:
    """The arrays of an .npz, some rows of all at a time, so that its size does not matter; a small one at once.

    Args:
        path: the file.
        names: the arrays that are read, the others being None; None: all.
    """
    with np.load(path, allow_pickle=False) as archive:
        found = list(archive)
        read = [n for n in found if names is None or n in names]
        nothing = dict.fromkeys(found)
    with ZipFile(path) as members, ExitStack() as stack:
        files = {n: stack.enter_context(members.open(n + ".npy")) for n in read if n + ".npy" in members.namelist()}
        heads = {n: _header(f) for n, f in files.items()}
        rows = {shape[0] if shape else 0 for shape, _, _ in heads.values()}
        each = {n: math.prod(shape[1:]) * dtype.itemsize for n, (shape, _, dtype) in heads.items()}
        large = sum(each.values()) * max(rows, default=0) > BLOCK
        plain = len(files) == len(read) and not any(turned or t.hasobject for _, turned, t in heads.values())
        if large and plain and len(rows) == 1:
            (left,), most = rows, max(1, BLOCK // max(sum(each.values()), 1))
            while left:
                size = min(most, left)
                left -= size
                blocks = {n: f.read(size * each[n]) for n, f in files.items()}
                yield nothing | {
                    n: np.frombuffer(b, heads[n][2]).reshape(size, *heads[n][0][1:]) for n, b in blocks.items()
                }
            return
    with np.load(path, allow_pickle=False) as archive:
        whole = {n: archive[n] for n in read}
    yield nothing | whole


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


def read_sets(folders: Sequence[Path], names: list[str], first: int = 0) -> Iterator[tuple[str, object]]:
    """Read the inputs: a tensor goes to the input of its name, the others to the inputs left over, in order."""
    for folder in sorted(folders, key=lambda path: (len(path.name), path.name))[first:]:
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


def imported(source: str, module: str, attribute: str, advice: str) -> Any:
    """A name of the user's own module, which is looked for from the current folder on.

    Raises:
        UserError: it cannot be imported, or is not there.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with blame(f"{source} failed", advice):
        importlib.invalidate_caches()
        return getattr(importlib.import_module(module), attribute)


ADVICE = (
    "in a module found from here, name a function without arguments, or of a `shard`, that returns feed dicts or a "
    "reader"
)


def _called(source: str, module: str, attribute: str, first: int) -> tuple[Any, int]:
    """What the user's function returns, and the number of the first feed in it.

    One that takes a `shard` is told which feeds are wanted, a slice of their numbers, and gives no others.
    """
    function = imported(source, module, attribute, ADVICE)
    shards = inspect.isfunction(function) and "shard" in inspect.signature(function).parameters
    return (function(shard=slice(first, None)), first) if shards else (function(), 0)


def user_feeds(source: str, module: str, attribute: str, first: int = 0) -> Iterator[tuple[str, object]]:
    """Call the user's function, which gives feeds or a reader of feeds.

    Args:
        source: what the user calls it.
        module: its module.
        attribute: its name.
        first: number of the first feed that is wanted.
    """
    with blame(f"{source} failed", ADVICE):
        result, begin = _called(source, module, attribute, first)
        reader = getattr(result, "get_next", None)
        for index, feed in enumerate(iter(reader, None) if reader else result, begin):
            if index >= first:
                yield f"feed {index} of {source}", feed


def told(source: str, module: str, attribute: str) -> int | None:
    """How many feeds the user's function gives, where what it returns has a length; None where it has none."""
    with blame(f"{source} failed", ADVICE):
        result, _ = _called(source, module, attribute, 0)
        return len(result) if isinstance(result, Sized) else None


def checksum(feed: Mapping[str, NDArray[Any]]) -> int:
    """Of all values, to know them again."""
    found = 0
    for array in feed.values():
        data = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        found = zlib.crc32(data, found)
    return found


def first_of(feeds: Iterator[object], limit: int | None) -> list[object]:
    """So many samples of what may have no end."""
    kept, given = list[object](), 0
    for feed in feeds:
        kept.append(feed)
        first = next(iter(feed.values()), None) if isinstance(feed, Mapping) else None
        given += max(1, len(first)) if isinstance(first, np.ndarray) and first.ndim else 1
        if limit is not None and given >= limit:
            break
    return kept
