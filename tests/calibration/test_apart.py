"""Samples that are set apart: none is on both sides, however many a reader takes at once."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from onnx_ocs.calibration.apart import FEWEST, every, set_apart
from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.samples import Samples, open_samples

MODEL = tiny.model([tiny.node("Relu", "x", "y")], inputs={"x": ["N", 1]})


def opened(n: int, labels: bool = False) -> Samples:
    values = np.arange(n, dtype=np.float32)
    return open_samples({"x": values[:, None], "label": values}, MODEL, labels=labels)


def read(samples: Samples, size: int = 8, limit: int | None = None) -> list[float]:
    return [float(v) for feed in samples.batches(size, limit) for v in feed["x"][:, 0]]


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_each_sample_is_on_one_side(size: int) -> None:
    found = set_apart(opened(40), None)
    assert found is not None
    fit, held = (read(s, size) for s in found)
    assert held == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39] and sorted(fit + held) == list(range(40))
    assert [s.count() for s in found] == [30, 10]


def test_of_many_few_are_enough() -> None:
    found = set_apart(opened(1000), None)
    assert found is not None and 64 <= found[1].count() <= 70


def test_too_few_and_a_limit() -> None:
    assert set_apart(opened(FEWEST - 1), None) is None
    assert set_apart(opened(100), FEWEST - 1) is None
    found = set_apart(opened(100), FEWEST)
    assert found is not None and max(read(found[0]) + read(found[1])) == FEWEST - 1
    assert read(found[0], 8, 5) == [0, 1, 2, 4, 5]


def test_labels_stay_with_their_samples() -> None:
    found = set_apart(opened(32, labels=True), None)
    assert found is not None
    for feed in found[1].batches():
        assert isinstance(feed, Feed) and feed.labels["label"].tolist() == feed["x"][:, 0].tolist()


def test_every() -> None:
    assert read(every(opened(5), 2, 0)) == [0, 2, 4] and read(every(opened(5), 2, 1)) == [1, 3]
