"""How many samples a feed is, as the user counts them."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_ocs.calibration.feed import Feed, one_sample, parts_of, rows_are_samples, samples_in, together
from onnx_ocs.calibration.samples import open_samples


def model(first: list[object], output: list[object] | None) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info("x", 1, first), helper.make_tensor_value_info("y", 1, output)]
    return helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:]))


X = np.zeros((6, 3), np.float32)


def test_a_feed_knows_and_travels() -> None:
    feed = Feed({"x": X}, 2)
    assert samples_in(feed) == 2 == samples_in(pickle.loads(pickle.dumps(feed))) and samples_in({"x": X}) == 6
    assert samples_in({"x": np.zeros(())}) == 1


def test_how_many_the_model_takes_at_once() -> None:
    """Feeds of eight samples are eight samples where the batch is free, as eight rows of an .npz are."""
    assert together(model(["N", 3], ["N", 3]), Feed({"x": X})) == 1
    assert together(model([6, 3], [6, 3]), Feed({"x": X})) == 6
    assert together(model(["N", 3], [1, 3]), Feed({"x": X}, 1)) == 1


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [3]), (4, [2, 2]), (7, [2, 2, 3]), (8, [2, 2, 2, 2])])
def test_a_feed_in_parts(count: int, sizes: list[int]) -> None:
    """Never one sample alone behind others: onnxruntime adds up in another order there."""
    x = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    found = list(parts_of(model(["N", 3], ["N", 3]), Feed({"x": x})))
    assert [samples_in(p) for _, p in found] == sizes
    assert [first for first, _ in found] == np.cumsum([0, *sizes[:-1]]).tolist()
    np.testing.assert_array_equal(np.concatenate([p["x"] for _, p in found]), x)


@pytest.mark.parametrize("first", [6, "N"])
def test_what_the_model_takes_whole_is_one_part(first: object) -> None:
    """A fixed batch, or a sample with an axis of its own in front."""
    feed = Feed({"x": X}, 6 if first == 6 else 1)
    assert [(f, samples_in(p), len(p["x"])) for f, p in parts_of(model([first, 3], [1, 3]), feed)] == [
        (0, samples_in(feed), 6)
    ]


@pytest.mark.parametrize(
    ("first", "output", "rows"),
    [
        (["N", 3], ["N", 3], True),
        (["N", 3], ["M", 3], True),
        (["N", 3], None, True),
        ([6, 3], [6, 3], True),
        (["N", 3], [1, 3], False),
        ([6, 3], [1, 3], False),
        (["N", 3], [], False),
    ],
)
def test_whether_rows_are_samples(first: list[object], output: list[object] | None, rows: bool) -> None:
    assert rows_are_samples(model(first, output)) is rows


def test_feeds_of_windows_are_one_sample_each() -> None:
    windows = [{"x": X + k} for k in range(4)]
    assert open_samples(windows, model(["N", 3], [1, 3])).count() == 4
    assert open_samples(windows, model(["N", 3], ["N", 3])).count() == 24
    stacked = open_samples({"x": np.stack([w["x"] for w in windows])}, model([6, 3], [1, 3]))
    assert stacked.count() == 4 == sum(samples_in(f) for f in stacked.batches(2))


@pytest.mark.parametrize(("first", "kept"), [("N", 1), (6, 6)])
def test_the_first_sample_of_a_batch(first: object, kept: int) -> None:
    assert one_sample(model([first, 3], [first, 3]), Feed({"x": X}, 6))["x"].shape == (kept, 3)
    assert one_sample(model(["N", 3], [1, 3]), Feed({"x": X}, 1))["x"].shape == (6, 3), "windows are not cut"
