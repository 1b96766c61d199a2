"""What samples are used for: by number alone, and whole feeds together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnx_ocs.reconstruction.folds import TURNS, Fold, fold, held


@pytest.mark.parametrize(("total", "judging"), [(16, 2), (63, 7), (64, 8), (127, 15), (128, 16), (512, 64)])
def test_how_many_judge(total: int, judging: int) -> None:
    folds = fold(np.arange(total), total, 1)
    assert np.count_nonzero(folds == Fold.JUDGE) == judging
    assert np.count_nonzero(folds == Fold.CHOOSE) == -(-(total - 1) // 4)
    assert set(folds[: 8 * (total // 8)].tolist()) == {Fold.FIT, Fold.CHOOSE, Fold.JUDGE}


def test_few_samples_by_hand() -> None:
    f, c, j = Fold.FIT, Fold.CHOOSE, Fold.JUDGE
    assert fold(np.arange(8), 8, 1).tolist() == [f, c, f, f, f, c, f, j]
    assert fold(np.arange(8), 8, 1, turn=1).tolist() == [f, f, f, c, f, j, j, c]
    assert fold(np.arange(8), 8, 1, turn=2).tolist() == [f, c, f, j, j, c, f, f]
    assert fold(np.arange(8), 8, 1, turn=3).tolist() == [f, j, j, c, f, f, f, c]


def test_batches_do_not_matter() -> None:
    whole = fold(np.arange(100), 100, 1)
    parts = [fold(np.arange(k, min(k + 7, 100)), 100, 1) for k in range(0, 100, 7)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_samples_of_one_feed_stay_together() -> None:
    """In a model with a batch of 5, samples of a batch influence each other's file alone."""
    folds = fold(np.arange(60), 60, 5).reshape(-1, 5)
    assert np.array_equal(folds, np.repeat(folds[:, :1], 5, axis=1))
    assert np.array_equal(folds[:, 0], fold(np.arange(12), 12, 1))


@pytest.mark.parametrize(("total", "unit"), [(16, 1), (63, 1), (127, 1), (60, 5)])
def test_all_few_samples_but_an_eighth_judge_in_one_turn(total: int, unit: int) -> None:
    turns = [fold(np.arange(total), total, unit, turn) for turn in range(TURNS)]
    judging = sum((f == Fold.JUDGE).astype(int) for f in turns)
    assert np.array_equal(judging, np.arange(total) // unit % 8 > 0)
    for f in turns:
        kinds = f[::unit][: total // unit // 8 * 8].reshape(-1, 8)
        assert all(k.count(Fold.CHOOSE) == 2 and k.count(Fold.FIT) >= 4 for k in kinds.tolist())


def test_half_of_many_judge_in_some_turn() -> None:
    turns = [fold(np.arange(128), 128, 1, turn) for turn in range(TURNS)]
    judging = sum((f == Fold.JUDGE).astype(int) for f in turns)
    assert judging.max() == 1 and judging.sum() == 64
    for f in turns:
        assert all(np.bincount(k, minlength=3).tolist() == [5, 2, 1] for k in f.reshape(-1, 8))


@pytest.mark.parametrize(("feeds", "stopping"), [(8, [3, 7]), (128, range(7, 128, 8))])
def test_what_stops_a_refinement(feeds: int, stopping: Sequence[int]) -> None:
    assert np.flatnonzero(held(feeds)).tolist() == list(stopping)
    judges = fold(np.arange(feeds), feeds, 1) == Fold.JUDGE
    assert held(feeds)[judges].all()  # what no fit has seen is among them
