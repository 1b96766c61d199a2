"""Which layers keep what was fitted: of few samples each is asked once, by the fit that has not seen it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from zoo import build

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.folds import TURNS, Fold, fold
from onnx_ocs.reconstruction.judged import Judged, _held, judged
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.tasks import Fitted
from onnx_ocs.reconstruction.write import Values

RNG = np.random.default_rng(0)


def held(total: int, turn: int) -> np.ndarray:
    return fold(np.arange(total), total, 1, turn) == Fold.JUDGE


class Case:
    """A file with a wrong weight, fits that have the right one or a worse one, and samples that tell or do not."""

    def __init__(self, total: int = 32) -> None:
        self.floats, feed = build("conv_relu_conv")
        self.total, self.asked = total, list[int]()
        self.samples = {k: RNG.standard_normal((total, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}

    def layers(self, model: onnx.ModelProto) -> list[LinearMap]:
        return [f for f in find_maps(EditableGraph(model)) if isinstance(f, LinearMap)]

    def weights(self, wrong: int) -> np.ndarray:
        stored = self.layers(self.floats)[0].weight.held
        assert stored is not None
        return np.clip(stored.astype(np.int16) + wrong, -127, 127).astype(stored.dtype)

    def judged(self, fits: list[int]) -> Judged:
        """How wrong the fit of each turn is; the file is wrong by ten steps."""
        model = onnx.ModelProto()
        model.CopyFrom(self.floats)
        name = self.layers(self.floats)[0].weight.root
        (tensor,) = [t for t in model.graph.initializer if t.name == name]
        tensor.CopyFrom(onnx.numpy_helper.from_array(self.weights(10), name))
        graph = EditableGraph(model)
        layers = [f for f in find_maps(graph) if isinstance(f, LinearMap)]

        def fit(turn: int) -> list[Fitted]:
            self.asked.append(turn)
            new = Values(self.weights(fits[turn]), None, None, None)
            return [Fitted(x, new if k == 0 else None) for k, x in enumerate(layers)]

        source = open_samples(self.samples, model)
        context = replace(Context(source), original=model)
        feeds = lambda: source.batches(8, context.limit)  # noqa: E731
        return judged(model, fit, self.floats, lambda _: None, feeds, 1, context, Reconstruct())


def test_where_the_samples_held_out_tell_one_fit_is_enough() -> None:
    case = Case()
    assert case.judged([0, 0, 0, 0]).kept == {0} and case.asked == [0]


def test_where_they_do_not_tell_all_samples_are_asked() -> None:
    """Those of the first turn are zeros: no weight makes a difference there."""
    case = Case()
    for v in case.samples.values():
        v[held(case.total, 0)] = 0
    found = case.judged([0, 0, 0, 0])
    assert found.kept == {0} and found.sure and case.asked == list(range(TURNS))
    assert np.array_equal(found.fitted[0].values.weight, case.weights(0))  # type: ignore[union-attr]


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_fit_that_harms_the_samples_it_has_not_seen_counts(turn: int) -> None:
    case, fits = Case(), [0, 0, 0, 0]
    for v in case.samples.values():
        v[held(case.total, 0)] = 0
    fits[turn] = 120
    found = case.judged(fits)
    assert not found.kept and not found.sure and case.asked == list(range(TURNS))


def test_of_many_samples_half_are_asked() -> None:
    case = Case(128)
    for v in case.samples.values():
        v[held(case.total, 0)] = 0
    assert case.judged([0, 0, 0, 0]).kept == {0} and case.asked == list(range(TURNS))


def test_layers_that_take_minutes_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_ocs.reconstruction.judged.is_large", lambda _: True)
    case = Case()
    for v in case.samples.values():
        v[held(case.total, 0)] = 0
    assert not case.judged([0, 0, 0, 0]).kept and case.asked == [0]


@pytest.mark.parametrize(("total", "unit", "feeds"), [(1024, 64, 2), (8192, 128, 8), (2048, 8, 8), (512, 1, 64)])
def test_a_large_fixed_batch_leaves_several_feeds(total: int, unit: int, feeds: int) -> None:
    given = ({"x": np.zeros((unit, 1))} for _ in range(total // unit))
    held = list(_held(given, total, unit, 1))
    assert len(held) == feeds and all(len(f["x"]) == unit for _, f in held)


def test_without_a_reference_nothing_is_kept() -> None:
    case = Case()
    layers: Any = [Fitted(x) for x in case.layers(case.floats)]
    source = open_samples(case.samples, case.floats)
    empty = lambda: source.batches(8, None)  # noqa: E731
    found = judged(case.floats, lambda _: layers, None, lambda _: None, empty, 1, Context(source), Reconstruct())
    assert found == Judged(layers, set())
