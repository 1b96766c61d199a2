"""Feeds begin where reading them would find them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.calibration.layout import Part, starts

FREE, OTHER, FIXED = (0, "a"), (0, "b"), (4, "a")


def read(parts: list[Part], batch: int, limit: int) -> list[tuple[int, int, int]]:
    """The same by walking over every row."""
    found, given, held = list[tuple[int, int, int]](), 0, list[tuple[int, int]]()
    rows = [(n, r, p.kind) for n, p in enumerate(parts) for r in range(p.rows)]
    for at, (n, r, kind) in enumerate(rows):
        if given >= limit:
            break
        held.append((n, r))
        size = kind[0] or min(batch, limit - given)
        last = at + 1 == len(rows) or rows[at + 1][2] != kind
        if len(held) == size or (last and not kind[0]):
            found.append((*held[0], given))
            given += len(held)
            held = []
        elif last:
            held = []
    return found


@pytest.mark.parametrize("seed", range(20))
def test_as_reading_would_find_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = (FREE, OTHER, FIXED)
    parts = [Part(kinds[rng.integers(3)], int(rng.integers(1, 14))) for _ in range(rng.integers(1, 7))]
    for limit in (5, 17, 1000):
        assert [tuple(s) for s in starts(parts, 8, limit)] == read(parts, 8, limit)


def test_nothing() -> None:
    assert list(starts([], 8, 100)) == []
