"""Groups of channels by their scale, the error of each, and channels that are dead."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.measurement.channels import Channels, channel_axes, decibels, noise_along

RNG = np.random.default_rng(0)
SCALES = np.asarray([640, 500, 700, 0.1, 0.2, 0.15])


def values(scales: np.ndarray = SCALES, n: int = 8) -> np.ndarray:
    """(N, C, 5), a scale for each channel."""
    return RNG.standard_normal((n, len(scales), 5)) * scales[:, None]


def counted(*feeds: np.ndarray, error: float = 0.0) -> Channels:
    """Channels along axis 1, of one model whose values are off by a share."""
    channels = Channels(1, 1)
    for a in feeds:
        channels.add(a, [a * (1 + error)])
    return channels


def test_groups_are_found_over_all_feeds() -> None:
    first, second = values(), values()
    groups = counted(first, second, error=0.1).groups(0)
    assert [g.channels for g in groups] == [(0, 1, 2), (3, 4, 5)], "the strongest first"
    assert [round(g.sqnr_db or 0, 6) for g in groups] == [20.0, 20.0]
    assert [g.sqnr_db for g in counted(first).groups(0)] == [None, None]


def test_each_group_has_its_own_error() -> None:
    truth = values()
    off = truth.copy()
    off[:, 3:] *= 0.5
    channels = Channels(1, 2)
    channels.add(truth, [truth, off])
    assert [g.sqnr_db for g in channels.groups(0)] == [None, None]
    large, small = channels.groups(1)
    assert large.sqnr_db is None and small.sqnr_db == pytest.approx(6.0206, abs=1e-4)


@pytest.mark.parametrize(
    ("scales", "groups"),
    [
        ([1, 2, 3, 4], []),  # one scale
        ([1, 1, 1, 0], []),  # a dead channel is no group
        ([1e6, 1e6, 1, 1], [(0, 1), (2, 3)]),
        ([1, 100, 1, 100], [(1, 3), (0, 2)]),  # wherever they are
        ([100] * 20 + [1], [tuple(range(20))]),  # one of 21 does not count by itself
        ([640, 640, 1e-8, 1e-8], []),  # next to nothing is no group
    ],
)
def test_which_groups_there_are(scales: list[float], groups: list[tuple[int, ...]]) -> None:
    found = counted(values(np.asarray(scales, float))).groups(0)
    assert [g.channels for g in found] == groups


def test_constant_channels() -> None:
    truth = values()
    dead = truth.copy()
    dead[:, [1, 4]] = 0.25
    truth[:, 4] = 3.0  # constant in the reference, too
    channels = Channels(1, 2)
    channels.add(truth, [truth, dead])
    assert channels.constant(0) == () and channels.constant(1) == (1,)
    few = Channels(1, 1)
    few.add(truth[:3], [dead[:3]])
    assert few.constant(0) == (), "15 values tell nothing"
    few.add(truth[3:], [dead[3:] + 1])
    assert few.constant(0) == (), "constant in each feed, and another one"


def test_another_number_of_channels_ends_it() -> None:
    channels = counted(values(), values(SCALES[:4]))
    assert channels.groups(0) == () and channels.constant(0) == ()
    assert Channels(1, 1).groups(0) == (), "nothing was counted"


def test_an_output_that_does_not_fit_is_all_wrong() -> None:
    truth = values()
    channels = Channels(1, 1)
    channels.add(truth, [None])
    assert [g.sqnr_db for g in channels.groups(0)] == [0.0, 0.0]


def test_noise() -> None:
    a = np.asarray([[1.0, np.nan, np.inf, 2.0], [0.0, 0.0, -np.inf, 1.0]])
    assert noise_along(a, a, 0).tolist() == [0.0, 0.0], "the same is the same, whatever it is"
    b = a.copy()
    b[0, 3], b[1, 2] = 5.0, 0.0
    assert noise_along(a, b, 0).tolist() == [9.0, np.inf]


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == 20.0
    assert decibels(1.0, 0.0) is None and decibels(0.0, 1.0) is None and decibels(1.0, np.inf) == -np.inf


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 5), [1]),
        ((2, 8400, 85), [2, 1]),
        ((2, 84, 8400), [1, 2]),
        ((2, 16, 384), [1, 2]),  # tokens, then channels: nobody knows
        ((2, 3, 320, 480), [1]),
        ((2, 320, 480, 3), [3]),
        ((2, 1, 320, 480), [1]),  # a page: its margins are columns, and no channels
        ((2, 1, 480, 320), [1]),
        ((1, 1, 100, 7), [1, 3]),  # SSD's boxes
        ((2, 7, 6, 6), [3, 1]),  # nobody knows
        ((7,), []),
    ],
)
def test_where_channels_may_lie(shape: tuple[int, ...], axes: list[int]) -> None:
    assert channel_axes(shape) == axes
