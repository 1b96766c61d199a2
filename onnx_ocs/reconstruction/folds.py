"""What each calibration sample is used for: to fit, to choose the ridge before it is fitted on too, or to judge."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["TURNS", "Fold", "fold"]

MANY = 128
TURNS = 4  # ways to part samples, in which none of them judges twice, and of few each of them once


class Fold(IntEnum):
    """What a sample is used for."""

    FIT = 0
    CHOOSE = 1
    JUDGE = 2


def fold(sample: Array, total: int, unit: int, turn: int = 0) -> Array:
    """What samples are used for.

    Of many samples every eighth judges, of few every fourth: single samples gain and lose by chance, and fewer than
    sixteen would seldom tell.  Every fourth chooses.

    Args:
        sample: their numbers.
        total: how many there are.
        unit: how many always come together, in a model with a fixed batch.
        turn: which of them judge: others in each of `TURNS` turns.
    """
    feed = sample // unit
    every = 8 if total // unit >= MANY else 4
    last = every - 1 - turn
    judge = feed % every == last
    choose = feed % 4 == (last + 2) % 4
    return np.where(judge, Fold.JUDGE, np.where(choose, Fold.CHOOSE, Fold.FIT))
