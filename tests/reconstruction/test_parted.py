"""Batches in parts: the same samples, in order, where rows are samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import zoo
from zoo import build

import onnx_ocs
from onnx_ocs.reconstruction import fit
from onnx_ocs.reconstruction import parted as module
from onnx_ocs.reconstruction.parted import divisible, parted

Array = np.ndarray
MODEL, _ = build("residual")
X = np.arange(13 * 4 * 6 * 6, dtype=np.float32).reshape(13, 4, 6, 6)


def test_all_samples_come_once_with_their_weights() -> None:
    feeds = [{"x": X[:8]}, {"x": X[8:]}]
    found = list(parted(MODEL, feeds, True, lambda f: f["x"][:, 0, 0, 0]))
    assert [(p.batch, p.first, len(p.feed["x"])) for p in found] == [
        (0, 0, 2), (0, 2, 2), (0, 4, 2), (0, 6, 2), (1, 8, 2), (1, 10, 3),
    ]  # fmt: skip
    assert np.array_equal(np.concatenate([p.feed["x"] for p in found]), X)
    for p in found:
        assert p.weights is not None and np.array_equal(p.weights, p.feed["x"][:, 0, 0, 0])


def test_whole_batches() -> None:
    found = list(parted(MODEL, [{"x": X[:8]}, {"x": X[8:]}], False, lambda _: None))
    assert [(p.batch, p.first, len(p.feed["x"]), p.weights) for p in found] == [(0, 0, 8, None), (1, 8, 5, None)]


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        (lambda x: x, True),
        (lambda x: x.reshape(-1, 6), True),  # several rows a sample
        (lambda x: x.swapaxes(0, 1), False),
        (lambda x: x[:1], False),
        (lambda x: x.sum(), False),
        (lambda x: x.reshape(len(x), -1)[:, : len(x)], False),
    ],
)
def test_rows_must_be_samples(tensor: object, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every tensor that is asked for."""
    assert callable(tensor)
    monkeypatch.setattr(module, "LITTLE", 1)

    def run(feed: Mapping[str, Array]) -> dict[tuple[bool, str], Array]:
        return {(True, "x"): feed["x"], (False, "t"): np.asarray(tensor(feed["x"]))}

    assert divisible(MODEL, {"x": X[:8]}, run) == wanted


def test_what_leaves_little_behind_stays_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what all samples of a batch leave: eight times 1,000 bytes here."""

    def run(feed: Mapping[str, Array]) -> dict[tuple[bool, str], Array]:
        return {(True, "x"): np.zeros((len(feed["x"]), 250), np.float32)}

    for bound, wanted in ((8000, True), (8001, False)):
        monkeypatch.setattr(module, "LITTLE", bound)
        assert divisible(MODEL, {"x": X[:8]}, run) == wanted


def test_few_samples_stay_together() -> None:
    assert not divisible(MODEL, {"x": X[:3]}, lambda f: {(True, "x"): f["x"]})


def test_a_fit_in_parts_is_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = zoo.build("bias_int32_residual")
    rng = np.random.default_rng(0)
    calib = {k: (2 * rng.standard_normal((48, *v.shape[1:]))).astype(v.dtype) for k, v in feed.items()}
    asked, made = list[bool](), list[bytes]()

    def seen(*args: Any) -> bool:
        asked.append(divisible(*args))
        return asked[-1]

    monkeypatch.setattr(fit, "divisible", seen)
    for little in (1, 1 << 40):
        monkeypatch.setattr(module, "LITTLE", little)
        done = onnx_ocs.rewrite(model, calib=calib, passes=["reconstruct"], verify=False)
        assert done.changed
        made.append(done.model.SerializeToString(deterministic=True))
    assert {*asked} == {True, False} and made[0] == made[1]
