"""A short soak: a few runs that are killed, race each other and run out of room."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import Soak

pytestmark = pytest.mark.slow


def test_a_short_soak(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "soak", seed=0)
    for work in (soak.killed, soak.raced, soak.filled):
        work("side")
        soak.check("side")
    assert soak.run(2.0).total() >= 3
