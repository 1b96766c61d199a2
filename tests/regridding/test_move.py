"""Zero-points that pay: where a grid sits wrong, and what the function behind it makes of negative values."""

from __future__ import annotations

from dataclasses import replace

import detectors
import numpy as np
import onnx
import pytest
import wasted

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.quality import compare, losing
from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.probes.reference import reference
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regridding.grids import Extremes, Grid, current
from onnx_ocs.regridding.move import better_grids, error, movable, sits_wrong


def quantizer(dtype: str = "uint8", zero_point: int = 128, scale: float = 0.1) -> Quantizer:
    d = np.dtype(dtype)
    return Quantizer(np.asarray(scale), np.asarray(zero_point), None, d, np.dtype(np.float32), *integer_range(d))


def regions(model: onnx.ModelProto) -> dict[str, Region]:
    return {r.tensor: r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region)}


@pytest.mark.parametrize(
    ("zero_point", "low", "high", "wrong"),
    [
        (128, -10.0, 10.0, False),
        (128, 0.0, 10.0, True),  # half of the levels are never used
        (128, -10.0, 0.0, True),
        (0, 0.0, 10.0, False),
        (255, 0.0, 10.0, True),  # one-sided: no level above 0
        (0, -10.0, 0.0, True),  # the wrong side
        (100, -3.0, 10.0, True),  # a quarter more than is needed
        (60, -3.0, 10.0, False),
        (128, 0.0, 0.0, False),
    ],
)
def test_a_grid_that_sits_wrong(zero_point: int, low: float, high: float, wrong: bool) -> None:
    assert sits_wrong(quantizer(zero_point=zero_point), Extremes(np.asarray([low]), np.asarray([high]))) == wrong


def test_error() -> None:
    q, x = quantizer(scale=1.0), np.asarray([-100.0, 0.4, 3.0, 200.0])
    assert error(q, current(q), x, None) == pytest.approx(0.4**2 + (200 - 127) ** 2)
    assert error(q, Grid(1.0, 0), x, lambda x: np.maximum(x, 0)) == pytest.approx(0.4**2)
    assert error(q, Grid(1.0, 20), x, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)) < 0.1


@pytest.mark.parametrize(
    ("dtype", "zero_point", "may"), [("int8", 0, False), ("int8", -128, True), ("uint8", 128, True)]
)
def test_symmetric_types_stay(dtype: str, zero_point: int, may: bool) -> None:
    region = regions(wasted.wrong_side())["relu1"]
    assert movable(replace(region, quantizer=quantizer(dtype, zero_point))) == may


def test_better_grids() -> None:
    model = wasted.wrong_side()
    found = find_regions(Graph(model), infer_shapes(model))
    values = {"relu1": np.linspace(0, 4, 500), "x": np.linspace(-3, 3, 500)}
    seen = {t: Extremes(v[:1], v[-1:]) for t, v in values.items()}
    ((k, grid),) = better_grids(Graph(model), found, seen, values).items()
    assert found[k].tensor == "relu1" and grid.zero_point == 0 and grid.scale == pytest.approx(4 / 255, rel=0.2)


@pytest.mark.parametrize(
    "model", [wasted.silu(), wasted.silu("quantized pieces"), wasted.silu("one node"), wasted.wrong_side()]
)
def test_it_pays_on_unseen_samples(model: onnx.ModelProto) -> None:
    result = rewrite(model, calib=detectors.samples(), passes=[Regrid()])
    assert result.verification is not None and result.verification.verdict == "PASSED"
    assert result.verification.regridded == len(result.report["grids"]) > 0
    truth = reference(model, find_regions(Graph(model), infer_shapes(model)))
    before, after = compare(truth, [model, result.model], open_samples(detectors.samples(seed=2), model))
    assert losing(before, after) is None
    assert after.sqnr_db is not None and before.sqnr_db is not None and after.sqnr_db > before.sqnr_db + 3
    assert not rewrite(result.model, calib=detectors.samples(), passes=[Regrid()]).changed


def test_nothing_to_move() -> None:
    model = wasted.wrong_side("low")
    assert not rewrite(model, calib=detectors.samples(), passes=[Regrid()]).changed
    moved = rewrite(wasted.wrong_side(), calib=detectors.samples(), passes=[Regrid(zero_points=False)])
    assert not moved.changed and moved.report["grids"] == []


def test_values_that_are_none_do_not_count() -> None:
    """A division by zero in front of a quantizer."""
    model = wasted.wrong_side()
    found = regions(model)["relu1"]
    values = np.asarray([np.nan, np.inf, *np.linspace(0, 5, 100)])
    seen = {"relu1": Extremes(np.asarray([0.0]), np.asarray([5.0]))}
    grids = better_grids(Graph(model), [found], seen, {"relu1": values})
    assert 0.01 < grids[0].scale < 0.03
