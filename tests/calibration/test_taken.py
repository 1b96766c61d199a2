"""Samples are found again where they stand."""

from __future__ import annotations

import numpy as np
import zoo

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.calibration.taken import Spot, Taken, taken


def test_parts_of_feeds_are_found_again() -> None:
    model, feed = zoo.build("residual")
    x = np.random.default_rng(0).standard_normal((21, *feed["x"].shape[1:])).astype(np.float32)
    samples = open_samples({"x": x}, model)
    feeds = list(taken(samples, 8, 20))
    assert [f.spot for f in feeds] == [Spot(0), Spot(1), Spot(2)] and [f.samples for f in feeds] == [8, 8, 4]
    assert feeds[1].spot.of(feeds[1]) is feeds[1], "whole feeds are not copied"
    part = feeds[1].cut(2, 7).cut(1, 3)
    assert part.spot == Spot(1, 3, 5) and part.samples == 2
    again = part.spot.of(list(samples.batches(8, 20))[1])
    assert np.array_equal(part["x"], x[11:13]) and np.array_equal(again["x"], part["x"])


def test_labels_stay_with_their_samples() -> None:
    whole = Feed({"x": np.arange(6.0)}, labels={"label": np.arange(6)})
    part = Taken(whole, Spot(0)).cut(1, 3)
    assert part.labels["label"].tolist() == part["x"].tolist() == [1, 2]
