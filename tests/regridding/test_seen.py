"""Feeds to learn from and to judge on, and the extremes of channels."""

from __future__ import annotations

import detectors
import numpy as np

from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding.seen import SAMPLES, VALUES, extremes, halves, seen_of


def test_halves_share_nothing() -> None:
    model, data = detectors.build("several"), detectors.samples(40)
    whole, learn, judge = ([f["x"] for f in s.batches(1)] for s in halves(open_samples(data, model), None))
    assert len(whole) == SAMPLES and len(learn) == len(judge) == SAMPLES // 2
    assert np.array_equal(np.concatenate(whole), data["x"][:SAMPLES])
    assert not {x.tobytes() for x in learn} & {x.tobytes() for x in judge}


def test_the_users_limit_and_a_single_feed() -> None:
    model = detectors.build("several")
    assert [s.count() for s in halves(open_samples(detectors.samples(), model), 4)] == [4, 2, 2]
    assert [s.count() for s in halves(open_samples(detectors.samples(1), model), None)] == [1, 1, 1]


def test_extremes_of_channels() -> None:
    model = detectors.build("float_parts")
    samples = halves(open_samples(detectors.samples(), model), None)[0]
    truth = reference(model, find_regions(Graph(model), infer_shapes(model)))
    found = extremes(truth, ["concat1", "sigmoid2", "nobody"], samples)
    assert found.keys() == {"concat1", "sigmoid2"}
    assert found["concat1"].low.shape == (7,) and found["sigmoid2"].low.shape == (3,)
    assert np.array_equal(found["concat1"].high[4:], found["sigmoid2"].high)
    assert found["concat1"].high[:4].max() > 100 > 1 > found["sigmoid2"].high.max() > 0


def test_some_values() -> None:
    """Of inputs too, and no more than are needed."""
    model = detectors.build("float_parts")
    samples = halves(open_samples(detectors.samples(), model), None)[0]
    truth = reference(model, find_regions(Graph(model), infer_shapes(model)))
    ends, found = seen_of(truth, ["x", "sigmoid2", "nobody"], samples)
    assert np.array_equal(ends["sigmoid2"].low, extremes(truth, ["sigmoid2"], samples)["sigmoid2"].low)
    assert found.keys() == {"x", "sigmoid2"} and all(0 < v.size <= 2 * VALUES for v in found.values())
    assert {*found["x"].tolist()} <= {*detectors.samples()["x"].astype(np.float64).reshape(-1).tolist()}
