"""Histograms against a plain count in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from histograms import check, same

from onnx_ocs.calibration.histogram import BINS, Histogram, smoothed

Array = np.ndarray[Any, Any]


def histogram(signed: bool, *batches: Array) -> Histogram:
    h = Histogram(len(batches[0]), signed)
    for b in batches:
        h.add(np.asarray(b, np.float32))
    return h


def draw(seed: int, channels: int = 5, n: int = 400) -> Array:
    """Channels of different spread, behind a ReLU in a part, so that there are many zeros."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((channels, n)) * np.geomspace(0.02, 30, channels)[:, None]
    return np.where(rng.random(a.shape) < 0.3, 0.0, a).astype(np.float32)


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


@pytest.mark.parametrize("signed", [True, False])
def test_counts_take_wider_types_when_they_need_them(signed: bool) -> None:
    """By adding, by merging, and by doubling the range; the counts are those of a plain count throughout."""
    rng = np.random.default_rng(3)
    parts = [np.where(rng.random((2, 40000)) < 0.9, 1.01, 0.4).astype(np.float32) for _ in range(3)]
    h = histogram(signed, parts[0])
    assert h.counts.dtype == np.uint16
    h.add(parts[1])
    assert h.counts.dtype == np.uint32
    check(h, np.concatenate(parts[:2], axis=1))
    h.merge(histogram(signed, parts[2]))
    check(h, np.concatenate(parts, axis=1))
    near = (1 + np.arange(40000) % 2 / 512).astype(np.float32)[None]  # neighbouring bins
    h = histogram(signed, np.concatenate([near, near[:, :20000]], axis=1))
    assert h.counts.dtype == np.uint16
    h.add(np.full((1, 1), 1e5, np.float32))
    check(h, np.concatenate([near, near[:, :20000], np.full((1, 1), 1e5, np.float32)], axis=1))
