"""Shards: fixed ranges of whole feeds, which any worker can read for itself.

A worker keeps what it has opened, and the place where it has stopped reading: shards that follow each other are read
in one go, whatever the source.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import onnx

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.execution.kept import kept

__all__ = ["SHARD", "Place", "place_of", "shards", "shipped"]

SHARD = 4  # feeds of a task: large enough to outweigh the way of its result, small enough for many workers


@dataclass(frozen=True)
class Place:
    """Where a worker reads samples.

    Attributes:
        source: as the user says it, files with their whole path.
        labels: whether samples carry their labels.
        limit: most samples.
        folder: where modules are looked for.
    """

    source: str
    labels: bool
    limit: int | None
    folder: str

    def feeds(self, model: onnx.ModelProto, model_hash: str, first: int, stop: int) -> Iterator[Feed]:
        """The feeds number `first` to `stop` - 1.

        Args:
            model: what they are for.
            model_hash: its `fingerprint`.
            first: number of the first feed.
            stop: number behind the last.
        """
        yield from kept((self, model_hash), lambda: _Readers(self, model)).feeds(first, stop)


class _Readers:
    """Open samples, as many as threads read them at once."""

    def __init__(self, place: Place, model: onnx.ModelProto) -> None:
        self._place, self._model = place, model
        self._idle: list[_Reader] = []
        self._lock = threading.Lock()

    def feeds(self, first: int, stop: int) -> Iterator[Feed]:
        reader = self._take(first)
        yield from reader.feeds(first, stop)
        self._idle.append(reader)  # one that failed is not read again

    def _take(self, first: int) -> _Reader:
        """The one that is nearest, or a new one."""
        with self._lock:
            if self._idle:
                nearest = max(self._idle, key=lambda r: (r.reaches(first), r.at))
                self._idle.remove(nearest)
                return nearest
        return _Reader(self._place, self._model)


class _Reader:
    """Samples, and how far they have been read: `at` is the number of the next feed."""

    def __init__(self, place: Place, model: onnx.ModelProto) -> None:
        if place.folder not in sys.path:
            sys.path.insert(0, place.folder)
        self._samples = open_samples(place.source, model, place.limit, place.labels)
        self._limit = place.limit
        self._rest: Iterator[Feed] = iter(())
        self.at = sys.maxsize

    def reaches(self, first: int) -> bool:
        """Whether reading on is the shortest way."""
        return self.at <= first <= self.at + SHARD

    def feeds(self, first: int, stop: int) -> Iterator[Feed]:
        if not self.reaches(first):
            self._rest, self.at = self._samples.part(first, sys.maxsize, BATCH, self._limit), first
        for feed in self._rest:
            self.at += 1
            if self.at > first:
                yield feed
            if self.at == stop:
                return


def place_of(samples: Samples, limit: int | None) -> Place | None:
    """Where workers read samples for themselves; None where they cannot, and must be given them.

    Args:
        samples: the samples.
        limit: most of them.
    """
    if samples.source is None:
        return None
    source, labels = samples.source
    return Place(source, labels, limit, str(Path.cwd()))


def shards(first: int, stop: int) -> list[tuple[int, int]]:
    """The ranges of feeds that are one task each; they do not depend on the number of workers."""
    ends = sorted({first, stop, *range(SHARD * (first // SHARD + 1), stop, SHARD)})
    return list(pairwise(ends))


def shipped(
    samples: Samples, limit: int | None, ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, list[Feed] | None]]:
    """The ranges with their feeds, for workers that cannot read them."""
    if not ranges:
        return
    feeds = samples.part(ranges[0][0], ranges[-1][1], BATCH, limit)
    for first, stop in ranges:
        yield first, stop, list(islice(feeds, stop - first))
