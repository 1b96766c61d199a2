"""Shards: fixed ranges of whole feeds, which any worker can read for itself.

A worker keeps what it has opened, and the place where it has stopped reading: shards that follow each other are read
in one go, whatever the source.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import onnx

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.execution.kept import kept

__all__ = ["Place", "Shard", "place_of", "shards"]

NEAR = 8  # feeds that are rather read in passing than skipped


@dataclass(frozen=True)
class Place:
    """Where a worker reads samples.

    Attributes:
        source: as the user says it, files with their whole path.
        labels: whether samples carry their labels.
        limit: most samples.
        batch: samples of a feed.
        folder: where modules are looked for.
    """

    source: str
    labels: bool
    limit: int | None
    batch: int
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
        self._place = place
        self._rest: Iterator[Feed] = iter(())
        self.at = sys.maxsize

    def reaches(self, first: int) -> bool:
        """Whether reading on is the shortest way."""
        return self.at <= first <= self.at + NEAR

    def _part(self, first: int) -> Iterator[Feed]:
        return self._samples.part(first, sys.maxsize, self._place.batch, self._place.limit)

    def feeds(self, first: int, stop: int) -> Iterator[Feed]:
        if not self.reaches(first):
            self._rest, self.at = self._part(first), first
        for feed in self._rest:
            self.at += 1
            if self.at > first:
                yield feed
            if self.at == stop:
                return


@dataclass(frozen=True)
class Shard:
    """A range of whole feeds.

    Attributes:
        first: number of the first feed.
        stop: number behind the last.
        feeds: the feeds, where workers cannot read them; None where they can.
    """

    first: int
    stop: int
    feeds: tuple[Feed, ...] | None = None

    def read(self, place: Place | None, model: onnx.ModelProto, model_hash: str) -> Iterator[Feed]:
        """The feeds, from where they are.

        Args:
            place: where the samples are; None where the shard brings them.
            model: what they are for.
            model_hash: its `fingerprint`.
        """
        if self.feeds is None:
            assert place is not None
            return place.feeds(model, model_hash, self.first, self.stop)
        return iter(self.feeds)


def place_of(samples: Samples, limit: int | None, batch: int) -> Place | None:
    """Where workers read samples for themselves; None where they cannot, and must be given them.

    Args:
        samples: the samples.
        limit: most of them.
        batch: samples of a feed.
    """
    if samples.source is None:
        return None
    source, labels = samples.source
    return Place(source, labels, limit, batch, str(Path.cwd()))


def shards(samples: Samples, limit: int | None, batch: int, first: int, stop: int, size: int) -> Iterator[Shard]:
    """What is one task each; it does not depend on the number of workers.

    Args:
        samples: the samples.
        limit: most of them.
        batch: samples of a feed.
        first: number of the first feed.
        stop: number behind the last.
        size: feeds of a task.
    """
    ends = sorted({first, stop, *range(size * (first // size + 1), stop, size)})
    if samples.source is not None:
        yield from (Shard(a, b) for a, b in pairwise(ends))
        return
    feeds = samples.part(first, stop, batch, limit)
    for a, b in pairwise(ends):
        yield Shard(a, b, tuple(islice(feeds, b - a)))
