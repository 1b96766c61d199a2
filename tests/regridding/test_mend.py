"""Which edit is made for which quantizer."""

from __future__ import annotations

import detectors
import pytest
from regridded_models import mended, regridded

from onnx_ocs.model.graph import Graph
from onnx_ocs.records.grids import Split, read_edits
from onnx_ocs.refusals import Refusal
from onnx_ocs.regridding.mend import QUANTIZED, WAYS, Way, parts_of


@pytest.mark.parametrize(
    ("name", "ways", "wanted"),
    [
        ("one_output", WAYS[0], {"sigmoid2": "new grid", "concat1": "split"}),
        ("one_output", WAYS[1], {"sigmoid2": "left out", "concat1": "left out"}),
        ("float_parts", WAYS[0], {"concat1": "split"}),
        ("moved", WAYS[0], {"concat1": "split", "transpose1": "split"}),
        ("moved", QUANTIZED[0], {"transpose1": "mixed"}),
        ("several", QUANTIZED[0], {"sigmoid2": "new grid"}),
        ("rectified", WAYS[1], {"relu1": "mixed"}),
    ],
)
def test_ways(name: str, ways: tuple[Way, ...], wanted: dict[str, str]) -> None:
    model = detectors.build(name)
    before = model.SerializeToString()
    made = mended(model, ways, tuple(wanted))
    assert model.SerializeToString() == before
    assert {k[0]: d.code if isinstance(d, Refusal) else d for k, d in made.done.items()} == wanted
    assert made.changed == any(d != "mixed" for d in wanted.values())


def test_parts() -> None:
    graph = Graph(detectors.build("float_parts"))
    assert parts_of(graph, "concat1") == {0: "mul1", 1: "sigmoid2"} and parts_of(graph, "mul1") == {}
    assert parts_of(Graph(detectors.build("one_output")), "concat1") == {}, "they have grids of their own"


def test_every_part_has_a_grid_of_its_own() -> None:
    _, new = regridded("float_parts", QUANTIZED[0])
    (split,) = [e for e in read_edits(new) if isinstance(e, Split)]
    boxes, scores = split.parts
    assert boxes.scale == pytest.approx(detectors.STEP), "its old range holds it"
    assert scores.scale == pytest.approx(1 / 255), "a Sigmoid's"
