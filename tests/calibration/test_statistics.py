"""Statistics are those of the tensors, survive a file, and their memory does not depend on the samples."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from histograms import check, same

from onnx_ocs.calibration import statistics as module
from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
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


@pytest.mark.parametrize("sampled", [7, 1 << 16])
@pytest.mark.parametrize("name", ["residual", "matmul_gelu", "channels_last"])
def test_parts_count_the_same_values(name: str, sampled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large tensors some values are counted: the same ones, whether samples come together or a few at a time."""
    monkeypatch.setattr(module, "SAMPLED", sampled)
    model, feed = zoo.build(name)
    regions = regions_of(model)
    tensors = [r.tensor for r in regions]
    rng = np.random.default_rng(0)
    session = Session(expose(reference(model, regions), tensors))
    batches = []
    for _ in range(2):
        fed = {k: rng.standard_normal((7, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}
        batches.append({**fed, **session.run(fed, [t for t in tensors if t not in fed])})
    whole, parts = (Statistics("", regions, list(adjustable(regions))) for _ in range(2))
    for turn, batch in enumerate(batches):
        whole.add(regions, batch, turn)
        for first, stop in ((0, 2), (2, 4), (4, 7)):
            parts.add(regions, {k: v[first:stop] for k, v in batch.items()}, turn, first)
    assert whole.to_bytes() == parts.to_bytes() and whole.samples == 14


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
