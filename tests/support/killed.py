"""Samples that kill the worker which reads them, once; and the executors that are tried so."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

__all__ = ["EXECUTORS", "killing"]

DASK = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask")
EXECUTORS: list[Any] = ["processes:2", *(pytest.param(f"dask:local:{n}", marks=DASK) for n in (1, 2))]
SCRIPT = """
import os, signal
from pathlib import Path
import numpy as np
def feeds(shard):
    x = np.load("c.npz")["x"]
    for k in range(*shard.indices({count})):
        if k == {at} and os.getpid() != {parent} and {also} and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield {{"x": x[8 * k : 8 * k + 8]}}
"""


def killing(parent: int, count: int, at: int, also: str = "True") -> str:
    """A module with `feeds(shard)`: of eight rows each of `x` in c.npz.

    Args:
        parent: the process that lives on.
        count: how many feeds there are.
        at: the feed that kills.
        also: what must hold besides, as Python.
    """
    return SCRIPT.format(parent=parent, count=count, at=at, also=also)
