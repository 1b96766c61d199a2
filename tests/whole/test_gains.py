"""Gains on the files of many exporters and on random graphs: proven, and the floats stay what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gained_nets
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import COMMON
from random_graphs import graphs

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding.gains import gained
from onnx_ocs.regridding.octaves import Chosen
from onnx_ocs.runtime.session import as_written
from onnx_ocs.verification.verify import verify

DATA = sorted((Path(__file__).resolve().parents[1] / "data").glob("*.onnx"))


def plain(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs without activation quantizers."""
    return as_written(reference(model, find_regions(Graph(model), infer_shapes(model)))).run(feed)


def check(model: onnx.ModelProto, seed: int) -> int:
    """How many tensors got gains; with drawn ones the file is proven; where no weight is rounded, floats stay."""
    found = gained_nets.absorbers(model)
    if not found:
        return 0
    rng = np.random.default_rng(seed)
    drawn = [Chosen(a, rng.integers(-1, 4, a.channels), 2.0) for a in found]
    new, done = gained(model, drawn, Regrid(), {})
    v = verify(model, new, random_samples(model, 1, 0), 1)
    assert not v.failures
    assert v.regridded == len(done)
    feed = next(random_samples(model, 1, 0).batches(1, 1))
    even = gained_nets.twice_halved(model)
    octave = [Chosen(a, rng.integers(-1, 2, a.channels), 2.0) for a in gained_nets.absorbers(even)]
    same, _ = gained(even, octave, Regrid(), {})
    before, after = plain(even, feed), plain(same, feed)
    assert all(np.array_equal(before[k], after[k], equal_nan=True) for k in before)
    return len(done)


@pytest.mark.parametrize("path", DATA, ids=lambda p: p.stem)
def test_vendored_files(path: Path) -> None:
    check(onnx.load(path), 7)


def test_many_have_some() -> None:
    """What no file has would prove nothing."""
    assert sum(bool(gained_nets.absorbers(onnx.load(p))) for p in DATA) >= 10


@settings(max_examples=40, derandomize=True, **COMMON)
@given(graphs(), st.integers(0, 99))
def test_random_graphs(graph: Any, seed: int) -> None:
    check(graph[0], seed)
