"""What a source has besides the inputs goes with the samples, however they are cut and batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.labels import cut, labels_in, labels_of
from onnx_ocs.calibration.samples import open_samples

X = np.arange(10, dtype=np.float32).reshape(5, 2)
MODEL = tiny.model([tiny.node("Relu", "x", "y")], inputs={"x": ["N", 2]})
FIXED = tiny.model([tiny.node("Relu", "x", "y")], inputs={"x": [2, 2]})
ALONE = tiny.model([tiny.node("Relu", "x", "y")], inputs={"x": [2]})


def read(source: Any, model: Any = MODEL, size: int = 2) -> list[tuple[list[float], list[float]]]:
    """The first value of every sample, and its labels, batch by batch."""
    samples = open_samples(source, model, labels=True)
    return [(f["x"][..., 0].ravel().tolist(), labels_of(f)["kind"].tolist()) for f in samples.batches(size)]


@pytest.mark.parametrize("stored", [False, True])
def test_labels_are_cut_as_the_samples_are(stored: bool, tmp_path: Path) -> None:
    arrays = {"x": X, "kind": np.arange(5) * 10, "note": np.zeros(3)}
    np.savez(tmp_path / "c.npz", **arrays)  # type: ignore[arg-type]
    source = tmp_path / "c.npz" if stored else arrays
    assert read(source) == [([0, 2], [0, 10]), ([4, 6], [20, 30]), ([8], [40])]
    assert read(source, FIXED) == [([0, 2], [0, 10]), ([4, 6], [20, 30])], "what is left over is dropped with both"
    assert read(source, ALONE)[:2] == [([0], [0]), ([2], [10])]
    (first, *_) = open_samples(source, MODEL, labels=True).batches(8)
    assert labels_of(first).keys() == {"kind"}, "an array of another length is no label"
    assert all(labels_of(f) == {} for f in open_samples(source, MODEL).batches(2)), "nobody asked"


def test_a_folder_is_joined_with_its_labels(tmp_path: Path) -> None:
    for k in range(2):
        np.savez(tmp_path / f"{k}.npz", x=X[2 * k : 2 * k + 2], kind=np.asarray([k, k + 10]))
    assert read(tmp_path, size=3) == [([0, 2, 4], [0, 10, 1]), ([6], [11])]


def test_ready_feeds_carry_their_own() -> None:
    feeds = [{"x": X[k : k + 1], "kind": np.asarray([k]), "path": "a.jpg"} for k in range(2)]
    assert read(feeds) == [([0], [0]), ([2], [1])]
    assert read(iter(feeds)) == [([0], [0]), ([2], [1])]


def test_cut() -> None:
    feed = Feed({"x": X, "size": np.asarray(7)}, labels={"kind": np.arange(5)})
    part = cut(feed, slice(1, 3), 5)
    assert part["x"].tolist() == X[1:3].tolist() and part["size"] == 7 and labels_of(part)["kind"].tolist() == [1, 2]
    assert labels_of(cut({"x": X}, slice(2))) == {}


def test_labels_in() -> None:
    found = labels_in({"x": X, "kind": np.arange(5), "one": np.float32(3), "text": "no"}, ["x"])
    assert found.keys() == {"kind", "one"} and found["one"].shape == (1,)
