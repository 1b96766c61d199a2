"""Shards give the feeds of one reading, whoever reads them and in whatever order."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.calibration import shards as module
from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.calibration.shards import Shard, place_of, shards
from onnx_ocs.execution.kept import forget

Array = np.ndarray[Any, Any]


@pytest.fixture
def source(tmp_path: Path) -> tuple[onnx.ModelProto, Array, Samples]:
    """A folder of files of several sizes."""
    forget()
    model, feed = zoo.build("gemm")
    x = np.random.default_rng(0).standard_normal((100, *feed["x"].shape[1:])).astype(np.float32)
    ends = [0, 3, 30, 31, 77, 100]
    for n, (a, b) in enumerate(pairwise(ends)):
        np.savez(tmp_path / f"{n}.npz", x=x[a:b])
    return model, x, open_samples(str(tmp_path), model)


def joined(feeds: Any) -> Array:
    return np.concatenate([f["x"] for f in feeds])


def test_every_range_is_that_of_one_reading(source: tuple[onnx.ModelProto, Array, Samples]) -> None:
    model, x, samples = source
    assert samples.number(8) == 13 and samples.number(8, 50) == 7
    for limit in (None, 50):
        place = place_of(samples, limit, 8)
        assert place is not None
        for first, stop in ((9, 12), (0, 1), (1, 3), (3, 13), (12, 13), (2, 6)):
            got = joined(Shard(first, stop).read(place, model, "m")) if first < samples.number(8, limit) else x[:0]
            assert got.tobytes() == x[:limit][8 * first : 8 * stop].tobytes()


def test_shards_that_follow_each_other_are_read_in_one_go(
    source: tuple[onnx.ModelProto, Array, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, samples = source
    place = place_of(samples, None, 8)
    opened: list[int] = []

    def part(self: Any, first: int) -> Any:
        opened.append(first)
        return iter(samples.part(first, 99, 8))

    monkeypatch.setattr(module._Reader, "_part", part)
    got = [joined(s.read(place, model, "m")) for s in shards(samples, None, 8, 0, 13, 4)]
    assert np.concatenate(got).tobytes() == x.tobytes() and opened == [0]
    assert [len(g) for g in got] == [32, 32, 32, 4]


def test_samples_that_workers_cannot_read_come_with_the_shards() -> None:
    model, feed = zoo.build("gemm")
    samples = open_samples([{"x": feed["x"] + k} for k in range(7)], model)
    found = list(shards(samples, None, 8, 1, 7, 4))
    assert [(s.first, s.stop) for s in found] == [(1, 4), (4, 7)] and place_of(samples, None, 8) is None
    assert joined(f for s in found for f in s.read(None, model, "m")).tobytes() == joined(
        {"x": feed["x"] + k} for k in range(1, 7)
    ).tobytes()
    assert all(isinstance(f, Feed) for s in found for f in s.feeds or ())
