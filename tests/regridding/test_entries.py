"""What the report says of a quantizer that kills channels."""

from __future__ import annotations

import detectors
import gained_nets
import numpy as np
import pytest

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding.entries import gains_entry, killer_entry
from onnx_ocs.regridding.grids import Extremes, Grid
from onnx_ocs.regridding.mend import Mended
from onnx_ocs.regridding.octaves import Chosen
from onnx_ocs.report.entries import GridEntry


def test_entries() -> None:
    model = detectors.build("several")
    region = next(r for r in find_regions(Graph(model), infer_shapes(model)) if r.tensor == "sigmoid2")
    seen = {"sigmoid2": Extremes(np.zeros(3), np.asarray([0.9, 0.2, 0.4]))}
    dead = {"scores": (1, 2)}
    e = killer_entry("regrid", region, dead, None, seen)
    own = {"type", "type_before", "range", "range_before"}  # said of quantizers with 16 bits alone
    own |= {"octaves", "error_db"}  # and of those with gains
    assert {*e} == {"pass", *GridEntry.__annotations__} - own
    assert (e["status"], e["edit"], e["dead"], e["reason"]) == ("candidate", None, {"scores": [1, 2]}, None)
    assert e["largest"] == 0.4 and e["scale"] == e["scale_before"] == pytest.approx(detectors.STEP)
    made = Mended(model, {region.key: "new grid"}, {region.key: Grid(0.5, 3)})
    e = killer_entry("regrid", region, dead, made, seen)
    assert (e["status"], e["edit"], e["scale"], e["zero_point"]) == ("applied", "new grid", 0.5, 3)
    e = killer_entry("regrid", region, dead, Mended(model, {region.key: Refusal.of("mixed", "n")}), {})
    assert (e["status"], e["edit"], e["reason"]["code"], e["largest"]) == ("refused", None, "mixed", None)


def test_gains() -> None:
    (a,) = gained_nets.absorbers(gained_nets.build("norm"))
    e = gains_entry("regrid", Chosen(a, np.arange(24) - 3, 10.0))
    assert {*e} == {"pass", *GridEntry.__annotations__} - {"type", "type_before", "range", "range_before"}
    assert (e["status"], e["edit"], e["octaves"]) == ("applied", "gains", [-3, 20])
    assert e["error_db"] == pytest.approx(10.0) and e["scale"] == e["scale_before"]
