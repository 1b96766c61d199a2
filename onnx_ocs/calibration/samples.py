"""Calibration samples: from files, or from the user's own code, to feeds that onnxruntime takes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import onnx
from numpy.typing import NDArray

from onnx_ocs.calibration.declared import Declared, Feeds, Raw
from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.labels import labels_of
from onnx_ocs.calibration.reading import (
    blame,
    first_of,
    npz_files,
    read_sets,
    set_folders,
    told,
    user_feeds,
    user_function,
)
from onnx_ocs.errors import UserError

__all__ = ["Access", "Reader", "Samples", "Source", "open_samples"]


class Access(NamedTuple):
    """How to get at the middle of samples, by batch size and limit.

    Attributes:
        after: the feeds from a number on.
        number: how many feeds there are; None where only reading tells.
    """

    after: Callable[[int, int, int], Feeds]
    number: Callable[[int, int], int | None]


class Samples:
    """Samples that can be read again and again; ``feeds`` is called with a batch size and a limit at every reading.

    Attributes:
        source: what another process opens them from, and whether with labels; None where only this one has them.
    """

    def __init__(
        self,
        label: str,
        feeds: Callable[[int, int], Feeds],
        count: int | None = None,
        source: tuple[str, bool] | None = None,
        access: Access | None = None,
    ) -> None:
        self._label, self._feeds, self._count = label, feeds, count
        self.source, self._access = source, access

    @property
    def description(self) -> str:
        """One line such as "calib.npz, 256 samples"; the number is left out until it is known."""
        return self.described()

    def described(self, limit: int | None = None) -> str:
        """The same, with the number of samples that a limit leaves."""
        if self._count is None:
            return self._label
        n = self.count(limit)
        return f"{self._label}, {n} sample{'s' * (n != 1)}"

    def count(self, limit: int | None = None) -> int:
        """Return the number of samples, at most ``limit``; where it is not known yet, so many are read through once."""
        if self._count is None:
            total = 0
            for size, _ in self._feeds(1, limit or sys.maxsize):
                total += size
                if limit is not None and total >= limit:  # there may be no end
                    return limit
            self._count = total
        return self._count if limit is None else min(self._count, limit)

    def batches(self, batch_size: int = 8, limit: int | None = None) -> Iterator[Feed]:
        """Yield feeds of up to ``batch_size`` samples, until ``limit`` are given; UserError for what does not fit.

        A feed that cannot be cut (fixed batch, ready feed) is given whole: the last one may reach beyond the limit.
        """
        if batch_size < 1 or (limit is not None and limit < 1):
            raise UserError(f"batch size and sample limit must be 1 or more: change {batch_size} and {limit}")
        given = 0
        for size, feed in self._feeds(batch_size, limit or sys.maxsize):
            yield Feed(feed, size, labels_of(feed))
            given += size
            if given >= (limit or sys.maxsize):
                return
        if not given:
            raise UserError(f"{self._label} gives no feed: give a sample, or as many as a fixed batch needs")
        self._count = given

    def number(self, batch_size: int, limit: int | None = None) -> int:
        """How many feeds `batches` gives; what tells it by itself is not read."""
        told = None if self._access is None else self._access.number(batch_size, limit or sys.maxsize)
        return sum(1 for _ in self.batches(batch_size, limit)) if told is None else told

    def part(self, first: int, stop: int, batch_size: int, limit: int | None = None) -> Iterator[Feed]:
        """The feeds number `first` to `stop` - 1 of `batches`; those before are skipped unread where that can be."""
        if self._access is None:
            yield from itertools.islice(self.batches(batch_size, limit), first, stop)
            return
        for size, feed in itertools.islice(self._access.after(batch_size, limit or sys.maxsize, first), stop - first):
            yield Feed(feed, size, labels_of(feed))


class Reader(Protocol):
    """What onnxruntime's CalibrationDataReader can do."""

    def get_next(self) -> Any:
        """The next feed, None at the end."""
        ...


Source = str | Path | Samples | Reader | Mapping[str, NDArray[Any]] | Iterable[Mapping[str, NDArray[Any]]]


def _objects(source: object, inputs: Declared, limit: int | None) -> Samples:
    """Samples from what a program has at hand instead of a file."""
    if isinstance(source, Mapping):
        return Samples("calibration arrays", partial(inputs.chunks, [source]))
    reader = getattr(source, "get_next", None)
    if reader is None and not isinstance(source, Iterable):
        raise UserError(f"calibration samples cannot be read from a {type(source).__name__}: give arrays or feed dicts")
    feeds: Iterable[object] = iter(reader, None) if reader else source  # type: ignore[assignment]
    if isinstance(feeds, Iterator):  # can be read once only
        with blame("the calibration data reader failed", "mend it, or give feed dicts"):
            feeds = first_of(feeds, limit)

    def raw(first: int) -> Raw:
        for index, feed in itertools.islice(enumerate(feeds), first, None):
            yield f"feed {index} of the calibration data", feed

    return Samples("calibration feeds", partial(inputs.ready, raw))


def open_samples(source: Source, model: onnx.ModelProto, limit: int | None = None, labels: bool = False) -> Samples:
    """Open calibration samples and check the first feed; UserError for what cannot be read or does not fit.

    Args:
        source: an .npz (keys are input names, the first axis is the sample); a folder of such files; a folder of ONNX
            ``test_data_set_*`` folders, or one of these; or ``package.module:function``, which **runs the user's own
            code**: imported with the current directory on ``sys.path``, the function is called without arguments, or
            with the slice of the feeds that are wanted where it has a parameter ``shard``, at every reading, and
            returns an iterable of feeds or an onnxruntime CalibrationDataReader.  In a program also such a reader or
            iterable itself (one that can be read only once is kept in memory), a dict of arrays as an .npz holds them,
            or Samples.
        model: the model that the samples are for.
        limit: how many samples are wanted; no more are kept of what can be read only once.
        labels: whether feeds carry what else the source has for the samples (`onnx_ocs.calibration.labels`).
    """
    if isinstance(source, Samples):
        return source
    inputs = Declared(model, labels)
    if not isinstance(source, str | Path):
        samples = _objects(source, inputs, limit)
        next(samples.batches())
        return samples
    path = Path(source).resolve()
    files, folders = npz_files(path), set_folders(path)
    parts = files or folders
    label = path.name if parts == [path] else f"{path.name} ({len(parts)} parts)"
    place = str(path), labels
    if files:
        access = Access(partial(inputs.after, files), lambda b, n: len(inputs.starts(files, b, n)))
        samples = Samples(label, partial(inputs.chunks, files), None, place, access)
    elif folders:
        ready = partial(inputs.ready, partial(read_sets, folders, inputs.names))
        access = Access(ready, lambda _, n: len(folders) if n == sys.maxsize else None)
        samples = Samples(label, ready, None, place, access)
    elif not path.exists() and (function := user_function(str(source))):
        ready = partial(inputs.ready, partial(user_feeds, str(source), *function))
        access = Access(ready, lambda _, n: told(str(source), *function) if n == sys.maxsize else None)
        samples = Samples(str(source), ready, None, (str(source), labels), access)
    else:
        problem = "holds no samples" if path.exists() else "does not exist"
        raise UserError(f"'{source}' {problem}: give an .npz, a folder of .npz or test data sets, or module:function")
    next(samples.batches())
    if files == [path]:
        samples.count()  # already read whole
    return samples
