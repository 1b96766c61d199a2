"""What each calibration sample is used for: to fit, to choose the ridge before it is fitted on too, or to judge."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["Fold", "fold"]

MANY = 128


class Fold(IntEnum):
    """What a sample is used for."""

    FIT = 0
    CHOOSE = 1
    JUDGE = 2


def fold(sample: Array, total: int, unit: int) -> Array:
    """What samples are used for.

    Of many samples every eighth judges, of few every fourth: single samples gain and lose by chance, and fewer than
    sixteen would seldom tell.  Every fourth chooses.

    Args:
        sample: their numbers.
        total: how many there are.
        unit: how many always come together, in a model with a fixed batch.
    """
    feed = sample // unit
    every = 8 if total // unit >= MANY else 4
    judge = feed % every == every - 1
    choose = feed % 4 == 1
    return np.where(judge, Fold.JUDGE, np.where(choose, Fold.CHOOSE, Fold.FIT))
