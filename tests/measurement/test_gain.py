"""What a reader of the report would see as a gain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnx_ocs.measurement.channels import Group
from onnx_ocs.measurement.gain import by_chance, gains
from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality

OUT = OutputQuality("y", "values", 20.0)


def better(before: OutputQuality, after: OutputQuality) -> bool:
    return gains(Quality(0.0, None, 1, (OUT, before)), Quality(0.0, None, 1, (OUT, after)))


def test_decibels_that_show() -> None:
    assert better(OUT, replace(OUT, sqnr_db=20.01)) and better(OUT, replace(OUT, sqnr_db=None))
    for same in (20.004, 20.0, 15.0):
        assert not better(OUT, replace(OUT, sqnr_db=same))
    exact = replace(OUT, sqnr_db=None)
    assert not better(exact, exact) and not better(exact, OUT)


def test_answers_groups_and_channels_that_live_again() -> None:
    scores = replace(OUT, kind="scores", agreement=0.9)
    assert better(scores, replace(scores, agreement=0.91)) and not better(scores, scores)
    groups = replace(OUT, groups=(Group((0,), 5.0), Group((1,), 9.0)))
    assert better(groups, replace(groups, groups=(Group((0,), 5.1), Group((1,), 8.0))))
    assert better(replace(OUT, constant_channels=(3, 4)), replace(OUT, constant_channels=(3,)))


def sampled(noise: np.ndarray, **more: Any) -> Quality:
    """An output whose samples have these squared errors."""
    db = float(-10 * np.log10(noise.mean()))
    return Quality(db, None, noise.size, (replace(OUT, sqnr_db=db, noise=tuple(noise.tolist()), **more),))


RNG = np.random.default_rng(0)
SAMPLES = 10 ** RNG.normal(-2, 0.5, 48)


def test_what_a_few_samples_win_is_chance() -> None:
    """Three samples turn over and two turn back: 4 dB, and nobody knows whether others would."""
    turned = SAMPLES.copy()
    turned[:3], turned[3:5] = 1.0, 0.01
    back = SAMPLES.copy()
    back[:3], back[3:5] = 0.01, 0.5
    assert gains(sampled(turned), sampled(back))
    before, after = (sampled(v).sqnr_db or 0.0 for v in (turned, back))
    assert after > before + 2
    assert by_chance(sampled(turned), sampled(back)) == f"'y' {before:.2f} dB -> {after:.2f} dB"
    assert by_chance(sampled(turned), sampled(back, weight=0.0)) is None, "it does not count"


def test_what_most_samples_win_is_none() -> None:
    each = SAMPLES * 10 ** (RNG.normal(-1, 2, 48) / 10)
    assert by_chance(sampled(SAMPLES), sampled(each)) is None
    assert by_chance(sampled(SAMPLES), sampled(SAMPLES * 10 ** (RNG.normal(0, 2, 48) / 10))) is not None


def test_what_no_sample_loses_is_none() -> None:
    """Copies give two clipped samples their values back, and change no other."""
    back = SAMPLES.copy()
    back[[4, 30]] /= 100
    assert by_chance(sampled(SAMPLES), sampled(back)) is None


def test_where_nobody_can_tell() -> None:
    worse = np.where(np.arange(48) % 2, SAMPLES / 1.5, SAMPLES * 1.45)
    assert by_chance(sampled(SAMPLES), sampled(worse)) is not None
    assert by_chance(sampled(SAMPLES[:15]), sampled(worse[:15])) is None, "few samples"
    assert by_chance(sampled(SAMPLES), sampled(SAMPLES)) is None, "no difference"
    assert by_chance(sampled(SAMPLES), sampled(np.where(worse > 1, np.inf, worse * np.inf))) is None
    assert by_chance(sampled(SAMPLES, constant_channels=(3,)), sampled(worse)) is None, "a channel lives again"
    classes = sampled(SAMPLES, constant_channels=(3,), kind="scores"), sampled(worse, kind="scores")
    assert by_chance(*classes) is not None, "a class"
    metric = replace(sampled(worse), metric=0.7), replace(sampled(SAMPLES), metric=0.6)
    assert by_chance(metric[1], metric[0]) is None, "the user's metric decides"
