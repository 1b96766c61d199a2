"""The design by which models take turns with combinations of options leaves out none of either."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import test_exact
import zoo
from covering import every_other, in_turn


def always(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [r.values for r in rows if not r.marks]


@pytest.mark.parametrize(("options", "each"), [(2, 1), (3, 1), (6, 2), (6, 4), (5, 3), (1, 1)])
def test_nothing_is_left_out(options: int, each: int) -> None:
    cases, combinations = [f"model {k}" for k in range(12)], [(k, -k) for k in range(options)]
    rows = in_turn(cases, combinations, each)
    assert [r.values for r in rows] == [(c, *o) for c in cases for o in combinations], "with --full: the product"
    assert Counter(v[0] for v in always(rows)) == dict.fromkeys(cases, each)
    turns = Counter(v[1:] for v in always(rows))
    assert set(turns) == set(combinations) and max(turns.values()) - min(turns.values()) <= each


def test_two_tests_share_the_models() -> None:
    cases = [f"model {k}" for k in range(7)]
    one, other = always(every_other(cases)), always(every_other(cases, 1))
    assert sorted([*one, *other]) == [(c,) for c in cases] and len(one) == 4


def test_the_zoo_meets_every_mode_with_all_copies() -> None:
    met = always(test_exact.MATRIX)
    assert {v[0] for v in met} == set(zoo.CASES)
    topologies = [v[1:] for v in met if v[0] in {c.name for c in zoo.TOPOLOGIES}]
    assert set(topologies) == {(m, *k) for m in test_exact.MODES for k in test_exact.COPIES}
