"""Calibration samples: from files, or from the user's own code, to feeds that onnxruntime takes.

How an array of an .npz becomes feeds, where the model's input has the shape (B, d1, ...):

    same rank, or unknown shape, B dynamic    array[i : i + batch_size]
    same rank, B fixed                        array[i : i + B]; what is left over is dropped with a warning
    one rank more (a sample axis in front)    array[i], one sample at a time

Files of a folder are read one at a time and joined where their rows agree; test sets and functions give ready feeds.
"""

from __future__ import annotations

import difflib
import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_ocs.calibration.labels import Feed, labels_in
from onnx_ocs.calibration.reading import (
    blame,
    check_declared,
    checksum,
    first_of,
    npz_files,
    read_sets,
    set_folders,
    user_feeds,
    user_function,
)
from onnx_ocs.errors import UserError

__all__ = ["InputSpec", "Reader", "Samples", "Source", "input_specs", "open_samples", "random_samples"]

_LOG = logging.getLogger("onnx_ocs.calibration")
_Shape = tuple[int | None, ...]
_Feed = dict[str, NDArray[Any]]
_Feeds = Iterator[tuple[int, _Feed]]  # with the number of samples in each
REPEAT = "give the same samples at every reading (a fixed seed, a fixed order, a new reader)"
MOST_VALUES = 1 << 28  # of a random sample
_Raw = Iterator[tuple[str, object]]  # unchecked, each with its place for messages


@dataclass(frozen=True)
class InputSpec:
    """An input of the model; None in ``shape`` is a dynamic dimension, None for all of it an unknown shape."""

    name: str
    dtype: np.dtype[Any]
    shape: _Shape | None


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """Return the graph inputs that are not initializers, in order; UserError for one that is not a tensor."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    specs = []
    for value in (value for value in model.graph.input if value.name not in constants):
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            raise UserError(f"input '{value.name}' of the model is not a typed tensor: give a model that takes tensors")
        dims = (dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        specs.append(InputSpec(value.name, dtype, tuple(dims) if tensor.HasField("shape") else None))
    return specs


class Samples:
    """Samples that can be read again and again; ``feeds`` is called with a batch size and a limit at every reading."""

    def __init__(self, label: str, feeds: Callable[[int, int], _Feeds], count: int | None = None) -> None:
        self._label, self._feeds, self._count = label, feeds, count

    @property
    def description(self) -> str:
        """One line such as "calib.npz, 256 samples"; the number is left out until it is known."""
        return self._label if self._count is None else f"{self._label}, {self._count} sample{'s' * (self._count != 1)}"

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

    def batches(self, batch_size: int = 8, limit: int | None = None) -> Iterator[_Feed]:
        """Yield feeds of up to ``batch_size`` samples, until ``limit`` are given; UserError for what does not fit.

        A feed that cannot be cut (fixed batch, ready feed) is given whole: the last one may reach beyond the limit.
        """
        if batch_size < 1 or (limit is not None and limit < 1):
            raise UserError(f"batch size and sample limit must be 1 or more: change {batch_size} and {limit}")
        given = 0
        for size, feed in self._feeds(batch_size, limit or sys.maxsize):
            yield feed
            given += size
            if given >= (limit or sys.maxsize):
                return
        if not given:
            raise UserError(f"{self._label} gives no feed: give a sample, or as many as a fixed batch needs")
        self._count = given


class Reader(Protocol):
    """What onnxruntime's CalibrationDataReader can do."""

    def get_next(self) -> Any:
        """The next feed, None at the end."""
        ...


Source = str | Path | Samples | Reader | Mapping[str, NDArray[Any]] | Iterable[Mapping[str, NDArray[Any]]]


class _Declared:
    """What the model takes: checks, converts and cuts what is to be fed to it."""

    def __init__(self, model: onnx.ModelProto, labels: bool = False) -> None:
        self.specs, self.labels = input_specs(model), labels
        self.names = [spec.name for spec in self.specs]
        self._said: set[str] = set()
        self._seen: list[int] = []  # a checksum of every feed of the first reading
        self._whole = False  # whether that was read to its end
        if not self.specs:
            raise UserError("the model has no inputs, so no samples can be fed to it: give a model with an input")

    def say(self, message: str, level: int = logging.INFO) -> None:
        if message not in self._said:  # once for all feeds
            self._said.add(message)
            _LOG.log(level, "%s", message)

    def take(self, feed: object, where: str) -> _Feed:
        """Check the names, types and values of one feed (or one .npz), and cast what is safe to cast."""
        if not isinstance(feed, Mapping):
            raise UserError(f"{where} is a {type(feed).__name__}: give dicts of input name to numpy array")
        result, extra = {}, [name for name in feed if name not in self.names]
        for spec in self.specs:
            if spec.name not in feed:
                close = difflib.get_close_matches(spec.name, map(str, extra), n=1)
                advice = f"rename '{close[0]}' to '{spec.name}'" if close else f"add '{spec.name}'"
                raise UserError(f"{where} lacks input '{spec.name}', it has {list(feed)} for {self.names}: {advice}")
            if not isinstance(value := feed[spec.name], np.ndarray | np.generic):
                raise UserError(f"'{spec.name}' in {where} is a {type(value).__name__}: give a numpy array")
            if isinstance(value, np.ma.MaskedArray):
                raise UserError(f"'{spec.name}' in {where} is a masked array: fill what is masked, or leave it out")
            result[spec.name] = self.convert(spec, np.asarray(value), where)
        if extra and not self.labels:
            self.say(f"ignored arrays that the model does not take: {extra}")
        return result

    def convert(self, spec: InputSpec, array: NDArray[Any], where: str) -> NDArray[Any]:
        want, have, place = spec.dtype, array.dtype, f"input '{spec.name}' in {where}"
        if array.ndim and not len(array):
            raise UserError(f"{place} has no samples, its shape being {array.shape}: give at least one")
        safe = want == have or (want.hasobject and have.kind == "U") or (have.kind == "f" and want in ("f4", "f8"))
        if want.kind in "iu" and have.kind in "iu" and array.size:
            safe = np.iinfo(want).min <= int(array.min()) and int(array.max()) <= np.iinfo(want).max
        if not safe:
            raise UserError(f"{place} is {have}, no safe cast to the model's {want}: save it as {want}")
        if want != have:
            self.say(f"input '{spec.name}': cast from {have} to {want}")
            with np.errstate(over="ignore"):
                array = array.astype(want)
        if want.kind in "fc" and not np.isfinite(array).all():
            sample = np.argwhere(~np.isfinite(np.atleast_1d(array)))[0, 0]
            raise UserError(f"{place} has NaN or infinity in sample {sample}: mend or remove that sample")
        return array

    def ready(self, raw: Callable[[], _Raw], *_: int) -> _Feeds:
        turn = 0
        for turn, (where, feed) in enumerate(raw(), 1):
            arrays = self.take(feed, where)
            for spec in self.specs:
                _check_shape(spec, arrays[spec.name], spec.shape, where)
            self._same_as_before(turn, checksum(arrays), where)
            size = next((len(array) for array in arrays.values() if array.ndim), 1)
            yield size, Feed(arrays, labels_in(cast(Mapping[str, Any], feed), self.names)) if self.labels else arrays
        if turn < len(self._seen):
            raise UserError(f"the samples ended after {turn} feeds, and there were {len(self._seen)} before: {REPEAT}")
        self._whole = True

    def _same_as_before(self, turn: int, checksum: int, where: str) -> None:
        """Everything is measured on the same samples, or comparisons would say nothing."""
        if turn > len(self._seen) and not self._whole:
            self._seen.append(checksum)
        elif turn > len(self._seen) or self._seen[turn - 1] != checksum:
            raise UserError(f"{where} is not what it was when it was read before: {REPEAT}")

    def rows(self, part: Path | Mapping[str, Any]) -> Iterator[tuple[Any, list[NDArray[Any]]]]:
        """Yield the samples of one .npz (or its like), each with its kind: only one kind goes into one feed.

        Labels stand behind the inputs, and are part of the kind.
        """
        where, loaded = "the calibration data", part
        if isinstance(part, Path):
            where = f"'{part}'"
            sound = blame(f"{where} is no sound .npz", "write it with numpy.savez, a plain array for each input")
            with sound, np.load(part, allow_pickle=False) as archive:
                check_declared(part, None if self.labels else self.names)
                read = {name for name in archive if self.labels or name in self.names}
                loaded = {name: archive[name] if name in read else None for name in archive}
        arrays = self.take(loaded, where)
        totals = {name: len(np.atleast_1d(array)) for name, array in arrays.items()}
        if len(set(totals.values())) > 1:
            raise UserError(f"{where} has different numbers of samples, {totals}: give every input as many")
        cuts, sizes = [], set()
        for spec, array in zip(self.specs, arrays.values(), strict=True):
            shape = (None,) * array.ndim if spec.shape is None else spec.shape
            extra = array.ndim > len(shape)
            _check_shape(spec, array, (None, *shape[0 if extra else 1 :]), where)
            sizes.add(1 if extra else shape[0] or 0)
            cuts.append((extra, array.shape[1:]))
        if len(sizes - {0}) > 1:
            raise UserError(f"{where} has inputs of different batches, {sizes}: put a sample axis before every array")
        labels = labels_in(cast(Mapping[str, Any], loaded), self.names, len(array)) if self.labels else {}
        kind = max(sizes), cuts, [(name, value.shape[1:]) for name, value in labels.items()]
        for index in range(len(array)):
            yield kind, [value[index : index + 1].copy() for value in (*arrays.values(), *labels.values())]

    def chunks(self, parts: Sequence[Path | Mapping[str, Any]], batch_size: int, limit: int) -> _Feeds:
        given, rows = 0, itertools.chain.from_iterable(map(self.rows, parts))
        for (batch, cuts, named), group in itertools.groupby(rows, key=lambda row: row[0]):
            while part := [row for _, row in itertools.islice(group, batch or min(batch_size, limit - given))]:
                if len(part) < (batch or 1):
                    self.say(f"{len(part)} samples left over are dropped: a batch is fixed to {batch}", logging.WARNING)
                    break
                given += len(part)
                joined = [np.concatenate(arrays) for arrays in zip(*part, strict=True)]
                pairs = zip(self.specs, joined, cuts, strict=False)
                feed = {spec.name: array[0, ...] if extra else array for spec, array, (extra, _) in pairs}
                labels = {name: array for (name, _), array in zip(named, joined[len(cuts) :], strict=True)}
                yield len(part), Feed(feed, labels) if self.labels else feed


def _check_shape(spec: InputSpec, array: NDArray[Any], shape: _Shape | None, where: str) -> None:
    found, wanted = array.shape, array.shape if shape is None else shape
    if len(found) != len(wanted) or any(b not in (None, a) for a, b in zip(found, wanted, strict=True)):
        text = str(wanted).replace("None", "any")
        raise UserError(f"input '{spec.name}' takes {text}, but {where} has {found}: reshape it, samples on axis 0")


def _objects(source: object, inputs: _Declared, limit: int | None) -> Samples:
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

    def raw() -> _Raw:
        for index, feed in enumerate(feeds):
            yield f"feed {index} of the calibration data", feed

    return Samples("calibration feeds", partial(inputs.ready, raw))


def open_samples(source: Source, model: onnx.ModelProto, limit: int | None = None, labels: bool = False) -> Samples:
    """Open calibration samples and check the first feed; UserError for what cannot be read or does not fit.

    Args:
        source: an .npz (keys are input names, the first axis is the sample); a folder of such files; a folder of ONNX
            ``test_data_set_*`` folders, or one of these; or ``package.module:function``, which **runs the user's own
            code**: imported with the current directory on ``sys.path``, the function is called without arguments at
            every reading, and returns an iterable of feeds or an onnxruntime CalibrationDataReader.  In a program
            also such a reader or iterable itself (one that can be read only once is kept in memory), a dict of arrays
            as an .npz holds them, or Samples.
        model: the model that the samples are for.
        limit: how many samples are wanted; no more are kept of what can be read only once.
        labels: whether feeds carry what else the source has for the samples (`onnx_ocs.calibration.labels`).
    """
    if isinstance(source, Samples):
        return source
    inputs = _Declared(model, labels)
    if not isinstance(source, str | Path):
        samples = _objects(source, inputs, limit)
        next(samples.batches())
        return samples
    path = Path(source).resolve()
    files, folders = npz_files(path), set_folders(path)
    parts = files or folders
    label = path.name if parts == [path] else f"{path.name} ({len(parts)} parts)"
    if files:
        samples = Samples(label, partial(inputs.chunks, files))
    elif folders:
        samples = Samples(label, partial(inputs.ready, partial(read_sets, folders, inputs.names)))
    elif not path.exists() and (function := user_function(str(source))):
        samples = Samples(str(source), partial(inputs.ready, partial(user_feeds, str(source), *function)))
    else:
        problem = "holds no samples" if path.exists() else "does not exist"
        raise UserError(f"'{source}' {problem}: give an .npz, a folder of .npz or test data sets, or module:function")
    next(samples.batches())
    if files == [path]:
        samples.count()  # already read whole
    return samples


def random_samples(
    model: onnx.ModelProto, count: int, seed: int, ranges: Mapping[str, tuple[float, float]] | None = None
) -> Samples:
    """Make seeded random samples: floats ~ N(0, 1), integers and booleans in {0, 1}; UserError for any other type.

    A float input with a known range (low, high) gets values that fill it: normal, four deviations wide.

    A dynamic first dimension is 1, others 16; with a fixed first, B, a feed counts as B samples (``count`` rounded up).
    """
    shapes = {}
    for spec in _Declared(model).specs:
        if spec.shape is None or spec.dtype.kind not in "fiub" or count < 1:
            raise UserError(f"{count} random samples cannot be made for {spec}: give samples, or a count of 1 or more")
        shapes[spec] = [dim or (16 if axis else 1) for axis, dim in enumerate(spec.shape)]
        if math.prod(shapes[spec]) > MOST_VALUES:
            raise UserError(f"{spec} is too large to be filled with random samples: give samples, or --no-verify")
    size = next((shape[0] for shape in shapes.values() if shape), 1)

    def feeds(*__: int) -> _Feeds:
        rng = np.random.default_rng(seed)
        for _ in range(0, count, size):
            drawn = {spec: np.asarray(rng.standard_normal(shape)) for spec, shape in shapes.items()}
            for spec in drawn:
                if spec.dtype.kind == "f" and ranges is not None and spec.name in ranges:
                    low, high = ranges[spec.name]
                    drawn[spec] = drawn[spec] * (high - low) / 4 + (low + high) / 2
            yield size, {s.name: (x if s.dtype.kind == "f" else x > 0).astype(s.dtype) for s, x in drawn.items()}

    return Samples(f"random inputs (seed {seed})", feeds, len(range(0, count, size)) * size)
