"""What each calibration sample is used for: to fit, to choose the ridge before it is fitted on too, or to judge."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["TURNS", "Fold", "fold", "held"]

MANY = 128
TURNS = 4  # ways to part samples, in which none of them judges twice


class Fold(IntEnum):
    """What a sample is used for."""

    FIT = 0
    CHOOSE = 1
    JUDGE = 2


def fold(sample: Array, total: int, unit: int, turn: int = 0) -> Array:
    """What samples are used for.

    In the first turn every eighth judges, and in each other turn another eighth; of few another fourth, since fewer
    than sixteen seldom tell.  Every fourth chooses.

    Args:
        sample: their numbers.
        total: how many there are.
        unit: how many always come together, in a model with a fixed batch.
        turn: which of them judge: others in each of `TURNS` turns.
    """
    feed = sample // unit
    many = 1 if total // unit >= MANY else 2  # places of eight that judge in the later turns
    place, first = feed % 8, 7 - many * turn
    judge = (place >= first) & (place < first + many)
    choose = feed % 4 == (first + 2) % 4
    return np.where(judge, Fold.JUDGE, np.where(choose, Fold.CHOOSE, Fold.FIT))


def held(feeds: int) -> Array:
    """Which of so many feeds stop a refinement with gradients, and are not trained on: there are no turns.

    Every eighth, and of few every fourth, boolean (feeds,).
    """
    every = 8 if feeds >= MANY else 4
    return np.asarray(np.arange(feeds) % every == every - 1)
