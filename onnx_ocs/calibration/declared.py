"""What a model takes: feeds and files of samples are checked against it, converted and cut.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_ocs.calibration.feed import Feed, rows_are_samples, samples_in
from onnx_ocs.calibration.labels import labels_in
from onnx_ocs.calibration.layout import BEGIN, Part, Start, starts
from onnx_ocs.calibration.reading import blame, check_declared, checksum, read_blocks
from onnx_ocs.errors import UserError

__all__ = ["Declared", "Feeds", "InputSpec", "Raw", "input_specs"]

_LOG = logging.getLogger("onnx_ocs.calibration")
Shape = tuple[int | None, ...]
Sizes = tuple[int, ...]
Feeds = Iterator[tuple[int, dict[str, NDArray[Any]]]]  # with the number of samples in each
REPEAT = "give the same samples at every reading (a fixed seed, a fixed order, a new reader)"
Raw = Iterator[tuple[str, object]]  # unchecked, each with its place for messages


@dataclass(frozen=True)
class InputSpec:
    """An input of the model; None in ``shape`` is a dynamic dimension, None for all of it an unknown shape."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape | None


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


class Declared:
    """What the model takes: checks, converts and cuts what is to be fed to it."""

    def __init__(self, model: onnx.ModelProto, labels: bool = False) -> None:
        self.specs, self.labels = input_specs(model), labels
        self.names = [spec.name for spec in self.specs]
        self._said: set[str] = set()
        self._seen: list[int] = []  # a checksum of every feed of the first reading
        self._whole = False  # whether that was read to its end
        self._rows = rows_are_samples(model)  # else a ready feed is one sample
        if not self.specs:
            raise UserError("the model has no inputs, so no samples can be fed to it: give a model with an input")

    def say(self, message: str, level: int = logging.INFO) -> None:
        """Log something once for all feeds."""
        if message not in self._said:
            self._said.add(message)
            _LOG.log(level, "%s", message)

    def take(self, feed: object, where: str, first: int = 0) -> dict[str, NDArray[Any]]:
        """Check the names, types and values of one feed (or one .npz, or what comes behind its first samples).

        What is safe to cast is cast.
        """
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
            result[spec.name] = self.convert(spec, np.asarray(value), where, first)
        if extra and not self.labels:
            self.say(f"ignored arrays that the model does not take: {extra}")
        return result

    def convert(self, spec: InputSpec, array: NDArray[Any], where: str, first: int = 0) -> NDArray[Any]:
        """Cast the values of one input where that is safe, and check them."""
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
            sample = first + np.argwhere(~np.isfinite(np.atleast_1d(array)))[0, 0]
            raise UserError(f"{place} has NaN or infinity in sample {sample}: mend or remove that sample")
        return array

    def ready(self, raw: Callable[[int], Raw], _batch: int = 0, _limit: int = 0, first: int = 0) -> Feeds:
        """Feeds that are given as they are; only a reading from the first on is compared with the one before."""
        turn = 0
        for turn, (where, feed) in enumerate(raw(first), 1):
            arrays = self.take(feed, where)
            for spec in self.specs:
                _check_shape(spec, arrays[spec.name].shape, spec.shape, where)
            if not first:
                self._same_as_before(turn, checksum(arrays), where)
            size = samples_in(arrays) if self._rows else 1
            named = labels_in(cast(Mapping[str, Any], feed), self.names) if self.labels else {}
            yield size, Feed(arrays, size, named)
        if first:
            return
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
        if not isinstance(part, Path):
            yield from self._rows_of(part, "the calibration data", 0)
            return
        where = f"'{part}'"
        problem, advice = f"{where} is no sound .npz", "write it with numpy.savez, a plain array for each input"
        with blame(problem, advice):
            check_declared(part, None if self.labels else self.names)
            blocks = read_blocks(part, None if self.labels else self.names)
        first = 0
        while True:
            with blame(problem, advice):
                block = next(blocks, None)
            if block is None:
                return
            for kind, row in self._rows_of(block, where, first):
                first += 1
                yield kind, row
            del block, row  # before the next one comes

    def _rows_of(
        self, part: Mapping[str, Any], where: str, first: int
    ) -> Iterator[tuple[Any, list[NDArray[Any]]]]:
        """The samples of arrays that are at hand, `first` of whose file come before them."""
        arrays = self.take(part, where, first)
        totals = {name: len(np.atleast_1d(array)) for name, array in arrays.items()}
        if len(set(totals.values())) > 1:
            raise UserError(f"{where} has different numbers of samples, {totals}: give every input as many")
        rows = next(iter(totals.values()))
        labels = labels_in(part, self.names, rows) if self.labels else {}
        kind = self._kind({k: a.shape for k, a in arrays.items()}, {k: a.shape for k, a in labels.items()}, where)
        for index in range(rows):
            yield kind, [value[index : index + 1].copy() for value in (*arrays.values(), *labels.values())]

    def _kind(self, shapes: Mapping[str, Sizes], labels: Mapping[str, Sizes], where: str) -> tuple[Any, ...]:
        """What samples must have in common to go into one feed: the fixed batch or 0, how inputs are cut, labels."""
        cuts, sizes = [], set()
        for spec in self.specs:
            found = shapes[spec.name]
            shape = (None,) * len(found) if spec.shape is None else spec.shape
            extra = len(found) > len(shape)
            _check_shape(spec, found, (None, *shape[0 if extra else 1 :]), where)
            sizes.add(1 if extra else shape[0] or 0)
            cuts.append((extra, found[1:]))
        if len(sizes - {0}) > 1:
            raise UserError(f"{where} has inputs of different batches, {sizes}: put a sample axis before every array")
        return max(sizes), cuts, [(name, shape[1:]) for name, shape in labels.items()]

    def starts(self, files: Sequence[Path], batch_size: int, limit: int) -> list[Start]:
        """Where every feed of .npz files begins, told by what they declare."""
        parts = []
        for path in files:
            with blame(f"'{path}' is no sound .npz", "write it with numpy.savez, a plain array for each input"):
                shapes = check_declared(path)
                rows = next(iter(shapes[self.names[0]]), 1)
                named = {k: v or (1,) for k, v in shapes.items() if self.labels and k not in self.names}
                kept = {k: v for k, v in named.items() if v[0] == rows}
                parts.append(Part(self._kind(shapes, kept, f"'{path}'"), rows))
        return list(starts(parts, batch_size, limit))

    def after(self, files: Sequence[Path], batch_size: int, limit: int, first: int) -> Feeds:
        """The feeds of .npz files from a number on; files before are not read."""
        found = self.starts(files, batch_size, limit)
        if first < len(found):
            feeds = self.chunks(files[found[first].part :], batch_size, limit, found[first])
            yield from itertools.islice(feeds, len(found) - first)

    def chunks(
        self, parts: Sequence[Path | Mapping[str, Any]], batch_size: int, limit: int, start: Start = BEGIN
    ) -> Feeds:
        """Feeds of the samples of .npz files or their likes, joined where they are of one kind."""
        given, every = start.given, itertools.chain.from_iterable(map(self.rows, parts))
        rows = itertools.islice(every, start.row, None)
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
                yield len(part), Feed(feed, len(part), labels)
                if given >= limit:
                    return


def _check_shape(spec: InputSpec, found: Sizes, shape: Shape | None, where: str) -> None:
    wanted = found if shape is None else shape
    if len(found) != len(wanted) or any(b not in (None, a) for a, b in zip(found, wanted, strict=True)):
        text = str(wanted).replace("None", "any")
        raise UserError(f"input '{spec.name}' takes {text}, but {where} has {found}: reshape it, samples on axis 0")
