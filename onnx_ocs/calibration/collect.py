"""Calibration: the statistics of every candidate tensor, counted by this process or by workers.

Counts are integers over ranges that are powers of two, and how a feed is counted depends on its number alone.  So the
sum does not depend on who counted which feeds, nor on the order of adding.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.feed import Feed, one_sample
from onnx_ocs.calibration.origin import Origin, Range
from onnx_ocs.calibration.reading import checksum
from onnx_ocs.calibration.shards import Place, Shard, place_of, shards
from onnx_ocs.calibration.statistics import SAMPLED, Statistics
from onnx_ocs.calibration.stream import BATCH, Activations, stream
from onnx_ocs.errors import UserError
from onnx_ocs.execution.engine import Engine
from onnx_ocs.execution.kept import kept
from onnx_ocs.execution.stored import Stored
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["ALL", "calibrate", "counted_before"]

_LOG = logging.getLogger("onnx_ocs.calibration")
SHARD = 4  # feeds of a task: large enough to outweigh the way of its result, small enough for many workers
ALL, SCREENED = "all", "screened"  # which tensors are counted whose step alone can change


def calibrate(
    model: onnx.ModelProto,
    regions: Sequence[Quantized],
    context: Context,
    model_hash: str,
    steps: Collection[int] = (),
    counted: str = SCREENED,
    part: Range | None = None,
    apart: bool = False,
) -> Statistics:
    """One streaming pass over the samples; the result does not depend on who computes it.

    Args:
        model: the QDQ model.
        regions: all its regions.
        context: the samples, the engine, and whom to tell about progress.
        model_hash: what the statistics are tied to.
        steps: indices of regions that no layer with a weight reads and that are counted all the same.
        counted: which these are, `ALL` or `SCREENED`.
        part: the feeds to count; None: all.
        apart: whether these are counted by channel, where they could get copies that are folded back.

    Raises:
        UserError: the model does not run on the samples, or workers were lost.
    """
    statistics = Statistics(model_hash, regions, steps, apart)
    if context.samples is None or (not statistics.regions and part is None):
        return statistics
    feeds = context.samples.number(BATCH, context.limit)
    settings = {
        "--samples": context.limit, "--float": _ceilings(regions), "batch": BATCH, "values": SAMPLED, "steps": counted,
        "apart": apart,
    }  # fmt: skip
    origin = Origin(model_hash, settings, feeds)
    part = (0, feeds) if part is None else part
    if context.engine is not None and part[0] < part[1]:
        return _by_workers(context.engine, model, context, statistics, origin, part, apart)
    wanted = [regions[k] for k in statistics.regions]
    activations = Activations(model, regions, wanted)
    probe = _probe(model, activations, next(context.samples.part(0, 1, BATCH, context.limit)))
    mine = None if part == (0, feeds) else context.samples.part(*part, BATCH, context.limit)
    for turn, first, batch in stream(model, regions, wanted, context, activations, mine):
        statistics.add(regions, batch, part[0] + turn, first)
    statistics.origin = replace(origin, parts=(part,) if part[0] < part[1] else (), probe=probe)
    return statistics


def counted_before(
    path: Path,
    model_hash: str,
    regions: Sequence[Quantized],
    steps: Callable[[], Collection[int]],
    apart: bool = False,
) -> Statistics:
    """Statistics from a file, as `calibrate` would make them now.

    Args:
        path: the file.
        model_hash: what they must be tied to.
        regions: all regions of the model.
        steps: finds the regions that no layer with a weight reads and that are wanted all the same.
        apart: whether these are wanted by channel, as far as they were counted so.

    Raises:
        UserError: no such file, of another model or float model, or of some shards only.
    """
    found = Statistics.load(path, model_hash, regions)
    if found.origin is None:
        return found.only(found.regions, regions, apart)
    if missing := found.origin.missing:
        raise UserError(f"{path}: feed {missing[0][0]} of {found.origin.feeds} is missing: merge it with all shards")
    if found.origin.settings.get("--float") != _ceilings(regions):
        raise UserError(f"{path}: made with another --float, which bounds other activations: calibrate again")
    return found.only(steps() if found.origin.settings.get("steps") == ALL else found.regions, regions, apart)


def _by_workers(
    engine: Engine,
    model: onnx.ModelProto,
    context: Context,
    empty: Statistics,
    origin: Origin,
    part: Range,
    apart: bool,
) -> Statistics:
    """The same by workers, each a few feeds at a time."""
    samples = context.samples
    assert samples is not None
    place = place_of(samples, context.limit, BATCH)
    stored = engine.store(model, origin.model)
    job = _Job(stored, tuple(sorted(context.bounded.items())), tuple(empty.regions), apart, place)
    sample = None if place else one_sample(model, next(samples.part(0, 1, BATCH, context.limit)))
    tasks = ((job, origin, s, sample) for s in shards(samples, context.limit, BATCH, *part, SHARD))
    total = part[1] - part[0]
    context.progress("calibrating", 0, total)
    found, done = empty, 0
    for _, counted in engine.each(_count, tasks):
        found.merge(counted, ("one worker's statistics", "another's"))
        found.origin = found.origin or counted.origin
        assert counted.origin is not None
        done += sum(b - a for a, b in counted.origin.parts)
        context.progress("calibrating", done, total)
        _LOG.debug("calibrated on %d samples", found.samples)
    _LOG.info("calibrated %d tensors on %d samples by workers", len(found.regions), found.samples)
    return found


def _ceilings(regions: Sequence[Quantized]) -> str:
    """A word for the bounds that were taken for part of the float model: another float model may have others."""
    found = [f"{r.ceiling:g}" for r in regions if isinstance(r, Region)]
    return f"{zlib.crc32(' '.join(found).encode()):08x}"


def _probe(model: onnx.ModelProto, activations: Activations, feed: Mapping[str, Array]) -> str:
    """Checksums of a sample and of its activations."""
    sample = one_sample(model, feed)
    got = activations(sample)
    return f"{checksum(sample):08x} {checksum({k: v for k, v in got.items() if k not in sample}):08x}"


@dataclass(frozen=True)
class _Job:
    """What all tasks of a calibration have in common, by which a worker knows it again.

    Attributes:
        model: the QDQ model.
        bounded: see `Context`, as pairs.
        steps: see `calibrate`.
        apart: see `calibrate`.
        place: where the samples are; None: each task brings its own.
    """

    model: Stored
    bounded: tuple[tuple[str, bool], ...]
    steps: tuple[int, ...]
    apart: bool
    place: Place | None


class _Counter:
    """What a worker keeps for a job."""

    def __init__(self, job: _Job) -> None:
        self.model, self.job = job.model.load(), job
        self.regions = find_regions(Graph(self.model), infer_shapes(self.model), bounded=dict(job.bounded))
        wanted = [self.regions[k] for k in self.empty().regions]
        self.activations = Activations(self.model, self.regions, wanted, threads=1)
        self._probe: str | None = None

    def empty(self) -> Statistics:
        return Statistics(self.job.model.hash, self.regions, self.job.steps, self.job.apart)

    def feeds(self, shard: Shard) -> Iterator[Feed]:
        return shard.read(self.job.place, self.model, self.job.model.hash)

    def probe(self, sample: Mapping[str, Array] | None) -> str:
        """What this worker computes from the first sample."""
        if self._probe is None:
            (feed,) = self.feeds(Shard(0, 1)) if sample is None else (sample,)
            self._probe = _probe(self.model, self.activations, feed)
        return self._probe


def _count(job: _Job, origin: Origin, shard: Shard, sample: Mapping[str, Array] | None) -> Statistics:
    """A task: the statistics of a few feeds, and what this worker computes from the first sample of all."""
    counter = kept(job, lambda: _Counter(job))
    found, probe = counter.empty(), counter.probe(sample)
    for turn, feed in enumerate(counter.feeds(shard), shard.first):
        for first, got in counter.activations.parts(feed):
            found.add(counter.regions, got, turn, first)
    found.origin = replace(origin, parts=((shard.first, shard.stop),), probe=probe)
    return found
