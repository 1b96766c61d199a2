"""Which rows of a cross product of models and options are always tried; `pytest --full` tries all.

A product of every model with every combination of options repeats itself: a defect shows in a model, in an option, or
where two options meet, and seldom in one cell alone.  So each model takes its turn with the combinations: it always
meets some of them, its neighbour the next ones.  Over a few models every combination is met, and no model is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

__all__ = ["FULL", "every_other", "in_turn"]

FULL = "--full"


def in_turn(cases: Iterable[str], options: Sequence[tuple[Any, ...]], each: int = 1) -> list[Any]:
    """The product of cases and combinations of options, as rows of `parametrize`; most are marked `full`.

    Args:
        cases: names of models.
        options: the combinations; neighbours in this list should have as little in common as can be.
        each: how many of them every case always meets.
    """
    rows = []
    for k, case in enumerate(cases):
        always = {(each * k + j) % len(options) for j in range(each)}
        for j, values in enumerate(options):
            rows.append(pytest.param(case, *values, marks=() if j in always else pytest.mark.full))
    return rows


def every_other(cases: Iterable[str], first: int = 0) -> list[Any]:
    """All cases, of which every other one is marked `full`: for two tests of the same models, with 0 and with 1."""
    return [pytest.param(c, marks=pytest.mark.full if (k + first) % 2 else ()) for k, c in enumerate(cases)]
