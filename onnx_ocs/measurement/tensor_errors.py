"""How far every quantized activation is from the float model, before and after a rewrite.

Two errors for each, as signal to noise in dB over the calibration samples, against the float value a of the reference
(`onnx_ocs.probes.reference`):

    isolated      a - Q(a): what this quantizer alone does to exact values
    accumulated   a - a_hat: what the tensor really holds in the quantized model, with all errors from upstream

Where a function alone reads a tensor, such as a ReLU or the pieces of a SiLU, both are counted behind it: what a
quantizer cuts off and the function would cut off as well is no error.

The models are asked for the integers of all quantizers at once; wide ones are folded back to their channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.feed import Feed, parts_of, samples_in
from onnx_ocs.calibration.histogram import Histogram
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.shards import Place, Shard, place_of, shards
from onnx_ocs.calibration.stream import BATCH, Activations
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.execution.kept import kept
from onnx_ocs.execution.stored import Stored
from onnx_ocs.measurement.columns import columns, steps
from onnx_ocs.measurement.quality import decibels
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.cuts import Cut, find_cuts, nibbles, requantized
from onnx_ocs.probes.rescaled import rescaled
from onnx_ocs.probes.retyped import retyped
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.records.grids import new_gains
from onnx_ocs.records.layouts import read_layouts, read_scales
from onnx_ocs.records.types import read_unsigned
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.function import Function, function_behind
from onnx_ocs.regions.masked import floor_of, softmax_axes
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regions.wide import Wide
from onnx_ocs.runtime.instrument import as_bytes, expose
from onnx_ocs.runtime.memory import give_back
from onnx_ocs.runtime.session import RUN_ERRORS, as_written
from onnx_ocs.runtime.threads import share

__all__ = ["LIMIT", "measure_layers"]

LIMIT = 32  # samples
BARS = 64  # of a report's histogram


@dataclass(frozen=True, eq=False)
class _Grid:
    """What a quantizer with copies expresses: k * scale for low <= k <= high, each of shape (C, 1) or (1, 1)."""

    scale: Array
    low: Array
    high: Array

    @staticmethod
    def of(q: Quantizer, wide: Wide | None = None) -> _Grid:
        scale, low, high = q.scale, q.qmin - q.zero_point, q.qmax - q.zero_point
        if wide is not None:
            scale, (low, high) = scale * wide.units() if wide.halved else scale, wide.reach(q)
        return _Grid(*(np.asarray(v, np.float32).reshape(-1, 1) for v in (scale, low, high)))

    def divided(self, gains: Array | None) -> _Grid:
        return self if gains is None else _Grid(self.scale / gains, self.low, self.high)

    def quantize(self, a: Array) -> Array:
        return np.asarray(np.clip(np.rint(a / self.scale), self.low, self.high) * self.scale)

    def clipped(self, a: Array) -> float:
        """Sum over what lies beyond the range."""
        return float(np.abs(a - np.clip(a, self.low * self.scale, self.high * self.scale)).sum(dtype=np.float64))

    def above(self, a: Array) -> Array:
        """Where values lie beyond the range."""
        return np.asarray((a > self.high * self.scale) | (a < self.low * self.scale))


@dataclass
class _Sums:
    """Sums over one tensor; those of several feeds are added in the feeds' order."""

    histogram: Histogram
    signal: float = 0.0
    noise: dict[str, float] = field(default_factory=dict)
    clipped: tuple[float, float] = 0.0, 0.0

    def merge(self, other: _Sums) -> None:
        self.histogram.merge(other.histogram)
        self.signal += other.signal
        self.noise |= {k: self.noise.get(k, 0.0) + v for k, v in other.noise.items()}
        self.clipped = self.clipped[0] + other.clipped[0], self.clipped[1] + other.clipped[1]

    def as_dict(self, samples: int) -> dict[str, Any]:
        """The fields that go into a region's entry of the report."""
        error = {f"{n}_db": decibels(self.signal, e) for n, e in sorted(self.noise.items())}
        lost, still = self.clipped
        saved = None if lost <= 0 else 1 - still / lost
        return {"error": {**error, "samples": samples}, "mass_saved": saved, "histogram": _bars(self.histogram)}


@dataclass(frozen=True, eq=False)
class _Tensor:
    """One quantized activation that is measured.

    Attributes:
        function: what alone reads it; None: the values themselves count.
        gains: what its channels are multiplied by afterwards, (C, 1).
    """

    region: Quantized
    quantizer: Quantizer
    axis: int | None
    before: _Grid
    after: _Grid | None
    function: Function | None
    gains: Array | None = None

    def nothing(self) -> _Sums:
        """Sums over no values."""
        unsigned = self.region.bounds[0] >= 0 or self.quantizer.rectifies
        return _Sums(Histogram(2, not unsigned))

    def expected(self, a: Array) -> Array:
        """What the reference lets through: saturation that acts as a ReLU or ReLU6 is part of the float model."""
        if self.quantizer.rectifies and self.region.bounds[0] < 0:
            a = np.maximum(a, 0)
        ceiling = self.region.ceiling
        return np.minimum(a, np.float32(ceiling)) if np.isfinite(ceiling) else a

    def sums(self, a: Array, held: Mapping[str, Array]) -> _Sums:
        """Over values, (C, n), and what the quantized models hold in their place."""
        found = self.nothing()
        f = self.function or (lambda values: values)
        exact = f(a)
        found.signal = _energy(exact)
        values = {f"accumulated_{when}": h for when, h in held.items()}
        values["isolated_before"] = self.before.quantize(a)
        if self.after is not None:
            values["isolated_after"] = self.after.quantize(a)
        found.noise = {name: _energy(exact - f(v)) for name, v in values.items()}
        saved = np.zeros((), bool)
        if self.after is not None:
            found.clipped = self.before.clipped(a), self.after.clipped(a)
            saved = self.before.above(a) & ~self.after.above(a)
        # a histogram leaves out zeros, so each value is counted in one of the two rows
        found.histogram.add(np.stack([np.where(saved, 0, a).reshape(-1), np.where(saved, a, 0).reshape(-1)]))
        return found


def _energy(a: Array) -> float:
    return float(np.square(a).sum(dtype=np.float64))


def _bars(h: Histogram) -> dict[str, Any] | None:
    """A histogram with few bins over the values seen; zeros are not counted."""
    used = np.flatnonzero(h.counts.any(0))
    if not used.size:
        return None
    edges = np.append(h.edges, 2 * h.edges[-1] - h.edges[-2])
    width = -(-(used[-1] + 1 - used[0]) // BARS)
    starts = np.arange(used[0], used[-1] + 1, width)
    rest, saved = (np.add.reduceat(row[: used[-1] + 1], starts, dtype=np.int64) for row in h.counts)
    ends = [float(edges[starts[0]]), float(edges[min(starts[-1] + width, len(edges) - 1)])]
    return {"range": ends, "counts": (rest + saved).tolist(), "saved": saved.tolist()}


class _Quantized:
    """A quantized model that is asked for the integers of its quantizers."""

    def __init__(self, model: onnx.ModelProto, cuts: Mapping[str, Cut], threads: int) -> None:
        self.names = list(dict.fromkeys(c.rewritten for c in cuts.values()))
        named = as_bytes(model, nibbles(Graph(model)))
        self.session = as_written(expose(named, self.names), threads)

    def __call__(self, batch: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            return self.session.run({k: batch[k] for k in self.session.inputs}, self.names)
        except RUN_ERRORS as e:
            raise UserError(f"onnxruntime does not run the model on the calibration samples: {first_line(e)}") from None


_Source = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class _Layers:
    """The quantized activations of a model, and where each is in the models before and after."""

    def __init__(self, original: onnx.ModelProto, rewritten: onnx.ModelProto | None, bounded: Bounded) -> None:
        before = Graph(original)
        self.original, self.rewritten = original, rewritten
        self.regions = find_regions(before, infer_shapes(original), bounded=bounded)
        self.graph, self.masked = before, softmax_axes(before, self.regions)
        self.cuts = {"before": {c.quantized: c for c in find_cuts(before, before, {}, {})}}
        if rewritten is not None:
            scales = read_scales(rewritten)
            retypes = (read_unsigned(rewritten) - read_unsigned(original)) & before.producer.keys()
            stored = retyped(original, retypes) if retypes else original
            yardstick = Graph(rescaled(stored, scales)) if scales else Graph(stored)
            known = read_layouts(original)  # of an earlier run: what is wide in both is compared as it is
            layouts = {k: v for k, v in read_layouts(rewritten).items() if k not in known}
            now = Graph(rewritten)
            self.cuts["after"] = {c.quantized: requantized(now, c) for c in find_cuts(yardstick, now, layouts, {})}
        after = self.cuts.get("after", {})
        quantized = [(r, r.quantizer) for r in self.regions if r.quantizer is not None]
        added = [] if rewritten is None else new_gains(original, rewritten)
        gains = {t: np.exp2(np.asarray(e.octaves, np.float32)).reshape(-1, 1) for e in added for t in e.quantized}
        self.tensors = [_tensor(before, r, q, after.get(r.outputs[0]), gains.get(r.outputs[0])) for r, q in quantized]

    def sources(self, threads: int) -> list[_Source]:
        """The reference and the quantized models, loaded."""
        models = {"before": self.original, "after": self.rewritten}
        quantized = [_Quantized(m, self.cuts[when], threads) for when, m in models.items() if m is not None]
        return [Activations(self.original, self.regions, [t.region for t in self.tensors], threads), *quantized]

    def _floor(self, t: _Tensor, a: Array, narrow: int, size: int, first: int) -> Array | None:
        """Below what a Softmax, which alone reads a tensor, makes nothing of its values, (C, n)."""
        axis = self.masked.get(t.region.tensor)
        if axis is None:
            return None
        return columns(np.broadcast_to(floor_of(self.graph, a, axis), a.shape), t.axis, narrow, size, first)

    @np.errstate(over="ignore", invalid="ignore")  # a mask may hold the smallest float
    def sums(self, sources: Sequence[_Source], part: Feed, first: int) -> list[_Sums]:
        """Of every tensor, over what the sources say to part of a feed, `first` of whose samples come before it.

        The sources are asked one after the other, and only what is looked at is held of what each says.
        """
        reference, *quantized = sources
        size, batch = samples_in(part), reference(part)
        pairs = [(t, np.asarray(batch[t.region.tensor])) for t in self.tensors]
        channels = [1 if t.axis is None or not a.ndim else a.shape[t.axis] for t, a in pairs]
        floats = [t.expected(columns(a, t.axis, n, size, first)) for (t, a), n in zip(pairs, channels, strict=True)]
        floors = [self._floor(t, a, n, size, first) for (t, a), n in zip(pairs, channels, strict=True)]
        del batch, pairs
        held: list[dict[str, Array]] = [{} for _ in self.tensors]
        for (when, cuts), source in zip(self.cuts.items(), quantized, strict=True):
            integers = source(part)
            for t, n, low, values in zip(self.tensors, channels, floors, held, strict=True):
                cut = cuts.get(t.region.outputs[0])
                if cut is not None:
                    scale: Array = np.asarray(cut.quantizer.scale, np.float32).reshape(-1, 1)
                    scale = scale if when == "before" or t.gains is None else scale / t.gains
                    found = steps(cut, integers[cut.rewritten], t.axis, n, size, first) * scale
                    values[when] = found if low is None else np.maximum(found, low)
            del integers
        return [t.sums(a, values) for t, a, values in zip(self.tensors, floats, held, strict=True)]


def _tensor(graph: Graph, region: Quantized, q: Quantizer, after: Cut | None, gains: Array | None) -> _Tensor:
    """One quantized activation; `after` is its quantizer in the rewritten model, for channels with these gains."""
    axis = region.walk.axis if isinstance(region, Region) else q.axis
    wide = None if after is None else after.wide
    # a carried quantizer may see another axis than its own walk would choose
    axis = axis if wide is None else wide.axis
    now = None if after is None else _Grid.of(after.quantizer, wide).divided(gains)
    return _Tensor(region, q, axis, _Grid.of(q), now, function_behind(graph, region), gains)


def measure_layers(
    original: onnx.ModelProto, rewritten: onnx.ModelProto | None, context: Context
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Measure all quantized activations in one streaming pass over up to `LIMIT` samples.

    Args:
        original: the QDQ model.
        rewritten: the same after passes; its metadata say what is wide and which steps changed.  None: there is none.
        context: the samples; nothing is measured without.

    Returns:
        By what a region's Q nodes write in the original: `error` (isolated and accumulated, before and after, in dB;
        None where there is no error at all, left out where there is nothing to measure), `mass_saved` (share of
        sum |a - clip(a)| that the new range saves; None where nothing was clipped) and `histogram` (of the float
        values that are not 0; `saved` are those that the old range clips and the new one does not).

    Raises:
        UserError: a model does not run on the samples.
    """
    layers = _Layers(original, rewritten, context.bounded)
    if context.samples is None or not layers.tensors:
        return {}
    limit = min(context.limit or LIMIT, LIMIT)
    total, samples = min(context.total(), limit), 0
    sums = [t.nothing() for t in layers.tensors]
    for size, found in _by_part(layers, context, context.samples, limit):
        context.progress("measuring layers", samples, total)
        samples += size
        for s, more in zip(sums, found, strict=True):
            s.merge(more)
    context.progress("measuring layers", total, total)
    return {t.region.outputs: s.as_dict(samples) for t, s in zip(layers.tensors, sums, strict=True)}


def _by_part(layers: _Layers, context: Context, samples: Samples, limit: int) -> Iterator[tuple[int, list[_Sums]]]:
    """How many samples each part of a feed has, and the sums over it, in order."""
    if context.engine is None:
        sources = layers.sources(share(1))
        for feed in samples.batches(BATCH, limit):
            for first, part in parts_of(layers.original, feed):  # none ahead: all activations of a part are much
                yield samples_in(part), layers.sums(sources, part, first)
            give_back()
        return
    models = [m for m in (layers.original, layers.rewritten) if m is not None]
    stored = tuple(context.engine.store(m, fingerprint(m)) for m in models)
    job = _Job(stored, tuple(sorted(context.bounded.items())), place_of(samples, limit, BATCH))
    tasks = ((job, s) for s in shards(samples, limit, BATCH, 0, samples.number(BATCH, limit), 1))
    for some in context.engine.in_order(_measure, tasks):
        yield from some


@dataclass(frozen=True)
class _Job:
    """What all tasks have in common: the model before, and after where there is one."""

    models: tuple[Stored, ...]
    bounded: tuple[tuple[str, bool], ...]
    place: Place | None


class _Loaded:
    """What a worker keeps for a job."""

    def __init__(self, job: _Job) -> None:
        original, *rewritten = [m.load() for m in job.models]
        self.layers = _Layers(original, rewritten[0] if rewritten else None, dict(job.bounded))
        self.sources = self.layers.sources(1)


def _measure(job: _Job, shard: Shard) -> list[tuple[int, list[_Sums]]]:
    """A task: the sums over a few feeds."""
    loaded = kept(job, lambda: _Loaded(job))
    found = []
    for feed in shard.read(job.place, loaded.layers.original, job.models[0].hash):
        for first, part in parts_of(loaded.layers.original, feed):
            found.append((samples_in(part), loaded.layers.sums(loaded.sources, part, first)))
    return found
