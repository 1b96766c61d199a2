"""Histograms against a plain count in numpy; statistics survive a file; memory does not depend on the samples."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.histogram import BINS, Histogram, smoothed
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.statistics import SAMPLED, Statistics
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region, adjustable
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import Session

Array = np.ndarray[Any, Any]


def histogram(signed: bool, *batches: Array) -> Histogram:
    h = Histogram(len(batches[0]), signed)
    for b in batches:
        h.add(np.asarray(b, np.float32))
    return h


def check(h: Histogram, a: Array) -> None:
    """The same numbers by numpy: each channel's values that are finite and not zero, by searching the edges."""
    a = np.asarray(a, np.float32).astype(np.float64)
    top = 2.0**h.exponent if h.exponent is not None else 1.0
    edges = np.linspace(-top if h.signed else 0.0, top, BINS + 1)
    assert np.array_equal(h.edges, edges[:-1])
    assert h.counts.shape == (len(a), BINS) and h.counts.dtype == np.int64
    for c, row in enumerate(a):
        row = row[np.isfinite(row)]
        kept = row if h.signed else np.maximum(row, 0)
        assert np.all(np.abs(kept) < top)
        assert h.zeros[c] == np.sum(kept == 0)
        inside = kept[kept != 0]
        assert np.array_equal(h.counts[c], np.histogram(inside, edges)[0]), c
        assert h.total[c] == kept.size
    finite = a[np.isfinite(a)]
    if finite.size:
        assert (h.low, h.high) == (finite.min(), finite.max())


def same(a: Histogram, b: Histogram) -> None:
    assert (a.exponent, a.signed, a.low, a.high) == (b.exponent, b.signed, b.low, b.high)
    assert np.array_equal(a.counts, b.counts) and np.array_equal(a.zeros, b.zeros)


def draw(seed: int, channels: int = 5, n: int = 400) -> Array:
    """Channels of different spread, behind a ReLU in a part, so that there are many zeros."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((channels, n)) * np.geomspace(0.02, 30, channels)[:, None]
    return np.where(rng.random(a.shape) < 0.3, 0.0, a).astype(np.float32)


# ---- Histogram ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_counts_as_numpy_does(signed: bool, seed: int) -> None:
    a = draw(seed)
    check(histogram(signed, a), a)


@pytest.mark.parametrize("signed", [True, False])
def test_range_doubles_from_tiny_to_huge(signed: bool) -> None:
    """What is counted at a small range and merged later lies where it would have been counted at the large one."""
    batches = [draw(k) * s for k, s in enumerate((1e-12, 1e-6, 1.0, 1e3, 1e12))]
    h = Histogram(5, signed)
    shapes = set()
    for k, b in enumerate(batches):
        h.add(b)
        shapes.add((h.counts.shape, h.counts.nbytes))
        check(h, np.concatenate(batches[: k + 1], axis=1))
    assert len(shapes) == 1, "the counts grew"
    assert h.exponent is not None and h.exponent > 40
    same(h, histogram(signed, *batches[::-1]))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-31, 3.4e38])
def test_ends_of_float32(signed: bool, size: float) -> None:
    a = np.asarray([[size, -size, size / 2, 0.0]], np.float32)
    with np.errstate(under="ignore"):
        check(histogram(signed, a), a)


@pytest.mark.parametrize("signed", [True, False])
def test_values_on_the_edges_of_bins(signed: bool) -> None:
    """An edge belongs to the bin above it, a power of two to the next range."""
    edges = np.linspace(-4 if signed else 0, 4, BINS + 1)[None]
    check(histogram(signed, edges), edges)
    for exponent in (-10, 0, 7):
        h = histogram(signed, np.asarray([[2.0**exponent]]))
        assert h.exponent == exponent + 1
        check(h, np.asarray([[2.0**exponent]]))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out(signed: bool, bad: float) -> None:
    a = draw(0) + 100.0
    a[1, ::7], a[3, 5] = bad, bad
    check(histogram(signed, a), a)
    everything = np.full((2, 5), bad)
    h = histogram(signed, everything)
    assert not h.counts.any() and not h.total.any()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", [0.0, -0.0, 0.7, 1.0, 1e-12])
def test_all_values_equal(signed: bool, value: float) -> None:
    a = np.full((3, 50), value)
    h = histogram(signed, a, a)
    check(h, np.concatenate([a, a], axis=1))
    assert np.count_nonzero(h.counts) == (0 if value == 0 else 3)
    assert np.all(h.edges[1:] > h.edges[:-1])


def test_empty_channels_and_batches() -> None:
    a = draw(1)
    a[2] = 0
    h = Histogram(5, True)
    h.add(np.zeros((5, 0), np.float32))
    assert h.exponent is None and not h.total.any() and np.all(np.isfinite(h.edges))
    h.add(a)
    h.add(np.zeros((5, 0), np.float32))
    check(h, a)
    assert not h.counts[2].any() and h.zeros[2] == a.shape[1]


def test_one_value() -> None:
    for v in (-0.3, 5.0):
        check(histogram(True, np.asarray([[v]])), np.asarray([[v]]))
    check(histogram(False, np.asarray([[-0.3]])), np.asarray([[-0.3]]))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1e-9, 1e4), (1e4, 1e-9), (0.0, 2.0), (2.0, 0.0)])
def test_merging_halves_equals_counting_all(signed: bool, sizes: tuple[float, float]) -> None:
    halves = [draw(k) * s for k, s in enumerate(sizes)]
    first, second = (histogram(signed, h) for h in halves)
    before = second.counts.copy(), second.exponent
    first.merge(second)
    check(first, np.concatenate(halves, axis=1))
    same(first, histogram(signed, *halves))
    assert np.array_equal(second.counts, before[0]) and second.exponent == before[1], "the other was changed"


def test_merging_with_nothing() -> None:
    empty, full = Histogram(5, True), histogram(True, draw(2))
    full.merge(empty)
    same(full, histogram(True, draw(2)))
    empty.merge(full)
    same(empty, full)
    nothing = Histogram(5, True)
    nothing.merge(Histogram(5, True))
    assert nothing.exponent is None


# ---- Statistics -----------------------------------------------------------------------------------------------------


def regions_of(model: onnx.ModelProto) -> list[Quantized]:
    return find_regions(Graph(model), infer_shapes(model))


def collect(model: onnx.ModelProto, *feeds: dict[str, Array]) -> Statistics:
    regions = regions_of(model)
    tensors = [r.tensor for r in regions]
    session = Session(expose(reference(model, regions), tensors))
    statistics = Statistics(fingerprint(model), regions, list(adjustable(regions)))
    for turn, f in enumerate(feeds):
        got = session.run(f, [t for t in tensors if t not in f])
        statistics.add(regions, {**f, **got}, turn)
    return statistics


@pytest.mark.parametrize(
    ("added", "top", "gate"), [(3.0, 6.0, True), (3.0, 5.9, True), (3.0, 7.0, False), (4.0, 6.0, False)]
)
def test_a_folded_hard_swish_keeps_its_bound(added: float, top: float, gate: bool) -> None:
    """x * Clip(x + 3, 0, 6) / 6, where the quantizer saturates in place of the Clip, which is gone."""
    n = zoo.Net(zoo.Style(), image=(4, 6, 6))
    x = n.op("Mul", n.conv("image"), n.const("ten", 10.0))
    base = n.qdq(x, zero="mid")
    plus = n.op("Add", base, n.const("added", added))
    hard = n.op("Div", n.op("Mul", base, n.qdq(plus, scale=top / 255)), n.const("six", 6.0))
    model = n.model(n.conv(n.qdq(hard, zero="mid")))
    regions = regions_of(model)
    assert {r.tensor: r.ceiling for r in regions} == {x: np.inf, plus: 6.0 if gate else np.inf, hard: np.inf}
    got = Session(expose(reference(model, regions), [x, hard])).run(n.feed)
    assert got[x].max() > 6
    bound = 6 if gate else np.inf
    np.testing.assert_allclose(got[hard], got[x] * np.clip(got[x] + added, 0, bound) / 6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "conv_relu_conv", "matmul_gelu", "depthwise_per_channel", "float16"])
def test_statistics_hold_the_tensors_in_front_of_the_quantizers(name: str) -> None:
    """Along the channel axis, whatever the layout, and unsigned where zero_point == qmin."""
    model, feed = zoo.build(name)
    statistics, regions = collect(model, feed), regions_of(model)
    tensors = [r.tensor for r in regions]
    got = Session(expose(reference(model, regions), tensors)).run(feed)
    assert statistics.samples == 3 and statistics.histograms
    for k, h in statistics.histograms.items():
        r = regions[k]
        assert isinstance(r, Region)
        a = np.moveaxis({**feed, **got}[r.tensor], r.walk.axis, 0)
        assert h.signed == bool(np.any(r.quantizer.zero_point > r.quantizer.qmin))
        assert len(h.counts) == (len(a) if r.walk.weights else 1)  # a step alone is chosen for all channels
        check(h, a.reshape(len(h.counts), -1))


def test_statistics_of_parts_add_up() -> None:
    model, feed = zoo.build("residual")
    parts = [collect(model, {k: v[i : i + 1] for k, v in feed.items()}) for i in range(3)]
    whole = collect(model, feed)
    for p in parts[1:]:
        parts[0].merge(p)
    assert parts[0].samples == whole.samples == 3
    for k, h in whole.histograms.items():
        same(parts[0].histograms[k], h)


def test_large_tensors_are_sampled_evenly() -> None:
    """Of more values than one histogram takes, every channel gives its share, and low and high are those of all."""
    model, _ = zoo.build("conv_relu_conv")
    regions = regions_of(model)[:1]
    statistics = Statistics(fingerprint(model), regions)
    a = np.random.default_rng(0).standard_normal((1, 4, 600, 600)).astype(np.float32)
    a[0, 1, 17, 31] = 99.0
    for turn in range(3):
        statistics.add(regions, {"x": a}, turn)
    h = statistics.histograms[0]
    share = h.total.astype(np.float64) / (3 * 360_000)
    assert np.all(np.abs(share * a.size / SAMPLED - 1) < 0.2) and np.ptp(h.total) <= 3 and h.high == 99.0
    moments = (h.counts * (h.edges + (h.edges[1] - h.edges[0]) / 2) ** 2).sum(1) / h.total
    usual = moments[[0, 2, 3]]
    assert np.all(np.abs(usual - 1) < 0.05)


def test_file_round_trip(tmp_path: Path) -> None:
    model, feed = zoo.build("residual")
    statistics = collect(model, feed)
    statistics.save(tmp_path / "s.npz")
    assert [f.name for f in tmp_path.iterdir()] == ["s.npz"]
    back = Statistics.load(tmp_path / "s.npz", fingerprint(model), regions_of(model))
    assert (back.samples, back.model_hash) == (statistics.samples, statistics.model_hash)
    assert back.histograms.keys() == statistics.histograms.keys()
    for k, h in statistics.histograms.items():
        same(back.histograms[k], h)
    back.merge(statistics)
    assert back.samples == 6


def test_file_round_trip_of_nothing(tmp_path: Path) -> None:
    model, _ = zoo.build("residual")
    empty = Statistics(fingerprint(model), regions_of(model))
    empty.save(tmp_path / "s.npz")
    back = Statistics.load(tmp_path / "s.npz", fingerprint(model), regions_of(model))
    assert back.samples == 0 and all(h.exponent is None for h in back.histograms.values())


def test_statistics_of_another_model(tmp_path: Path) -> None:
    model, feed = zoo.build("residual")
    other, more = zoo.build("conv_relu_conv")
    collect(model, feed).save(tmp_path / "s.npz")
    with pytest.raises(UserError, match=r"s\.npz.*another model"):
        Statistics.load(tmp_path / "s.npz", fingerprint(other), regions_of(other))
    with pytest.raises(UserError, match="another model"):
        collect(model, feed).merge(collect(other, more))


def spoil(path: Path, **arrays: Array | None) -> None:
    """Write the file again with some arrays replaced, or left out."""
    with np.load(path) as z:
        now = {**dict(z), **arrays}
    np.savez(path, **{k: v for k, v in now.items() if v is not None})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b"no statistics"),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[:900]),
        lambda p: p.write_bytes(p.read_bytes()[:100] + bytes(50) + p.read_bytes()[150:]),
        lambda p: p.unlink(),
        lambda p: np.savez(p, pixels=np.zeros(3)),
        lambda p: np.savez(p, model=np.asarray([{"a": 1}], object)),
        lambda p: spoil(p, counts_0_1=None),
        lambda p: spoil(p, info_0_0=np.zeros(2)),
        lambda p: spoil(p, counts_0_0=np.zeros((2, 7), np.int64)),
        lambda p: spoil(p, zeros_0_0=np.zeros((3,), np.int64)),
    ],
    ids=["text", "empty", "cut", "overwritten", "missing", "samples", "objects", "key", "info", "counts", "zeros"],
)
def test_damaged_file(tmp_path: Path, damage: Any) -> None:
    model, feed = zoo.build("residual")
    collect(model, feed).save(tmp_path / "s.npz")
    damage(tmp_path / "s.npz")
    with pytest.raises(UserError, match=r"s\.npz"):
        Statistics.load(tmp_path / "s.npz", fingerprint(model), regions_of(model))


def test_fingerprint() -> None:
    model, _ = zoo.build("residual")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    assert fingerprint(copy) == fingerprint(model)
    copy.graph.initializer[0].raw_data = bytes(len(copy.graph.initializer[0].raw_data))
    assert fingerprint(copy) != fingerprint(model)


def test_ten_thousand_samples_in_flat_memory() -> None:
    model, _ = zoo.build("gemm")
    regions = regions_of(model)

    def feeds(batch: int, limit: int) -> Iterator[tuple[int, dict[str, Array]]]:
        rng = np.random.default_rng(0)
        for start in range(0, limit, batch):
            n = min(batch, limit - start)
            yield n, {"x": rng.standard_normal((n, 12)).astype(np.float32)}

    peaks = []
    for count in (400, 10_000):
        samples = Samples("generated", feeds, count)
        tracemalloc.start()
        statistics = calibrate(model, regions, Context(samples, count, 0), fingerprint(model))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert statistics.samples == count
        assert [h.total.tolist() for h in statistics.histograms.values()] == [[count] * 12, [count] * 16]
    assert peaks[1] < peaks[0] + 200_000, peaks


# ---- what other samples may show ------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_smoothed_adds_one_sample(signed: bool) -> None:
    """One sample's mass is added, none is moved, and less of it the more samples there are."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 400)) * np.geomspace(0.1, 10, 6)[:, None]
    h = Histogram(6, signed)
    h.add((a if signed else np.maximum(a, 0)).astype(np.float32))
    for samples in (1, 4, 100):
        more = smoothed(h, samples)
        added = more - h.counts
        assert added.min() > -1e-9
        # a ReLU's zeros are half of the values: no error there, so they are not added
        whole = 1.0 if signed else h.counts.sum(1).sum() / h.total.sum()
        assert np.allclose(added.sum(1), whole * h.total / samples, rtol=0.05)


def test_smoothed_tails_come_from_other_channels() -> None:
    """A channel seen at rest only may do what the others did, in its own units; a dead one stays dead."""
    wild = np.full(1000, 1.0)
    wild[::100] = 20.0
    a = np.stack([wild, wild * 3, np.full(1000, 0.5), np.zeros(1000)]).astype(np.float32)
    h = Histogram(4, False)
    h.add(a)
    more = smoothed(h, 10)
    beyond = h.edges > 1.0
    assert h.counts[2][beyond].sum() == 0 and more[2][beyond].sum() > 0.1
    assert not more[3].any()


def test_smoothed_nothing() -> None:
    h = Histogram(2, True)
    assert np.array_equal(smoothed(h, 5), h.counts)
