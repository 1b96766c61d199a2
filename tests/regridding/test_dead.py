"""Which quantizers kill channels of outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import detectors
import numpy as np
import pytest

from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.outputs import OutputTally
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.probes.switchboard import Setting, Switchboard
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding import dead as module
from onnx_ocs.regridding.dead import dead_channels, find_killers


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("one_output", {"sigmoid2": "y", "concat1": "y"}),
        ("float_parts", {"concat1": "y"}),
        ("moved", {"concat1": "y", "transpose1": "y"}),
        ("several", {"sigmoid2": "scores"}),
        ("rectified", {}),
    ],
)
def test_killers(name: str, wanted: dict[str, str]) -> None:
    model = detectors.build(name)
    samples = open_samples(detectors.samples(), model)
    regions = find_regions(Graph(model), infer_shapes(model))
    truth = reference(model, regions)
    dead = dead_channels(compare(truth, [model], samples)[0])
    assert bool(dead) == bool(wanted)
    found = find_killers(model, regions, truth, dead, samples)
    assert {regions[k.index].tensor: next(iter(k.dead)) for k in found} == wanted
    assert all(c == dead[o] for k in found for o, c in k.dead.items())


@pytest.mark.parametrize("name", ["one_output", "moved", "several"])
def test_who_is_asked_no_further_kills_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same killers as where everybody is asked on all samples."""
    model = detectors.build(name)
    samples = open_samples(detectors.samples(), model)
    regions = find_regions(Graph(model), infer_shapes(model))
    truth = reference(model, regions)
    dead = dead_channels(compare(truth, [model], samples)[0]) or {o.name: (0,) for o in model.graph.output}
    found, asked = [], []
    run = Switchboard.run

    def counted(board: Switchboard, feed: Mapping[str, np.ndarray], settings: Mapping[int, Setting]) -> Any:
        asked[-1] += len(next(iter(feed.values())))
        return run(board, feed, settings)

    monkeypatch.setattr(Switchboard, "run", counted)
    for everybody in (False, True):
        if everybody:
            monkeypatch.setattr(OutputTally, "still", lambda *_: True)
        asked.append(0)
        found.append([(k.index, dict(k.dead)) for k in find_killers(model, regions, truth, dead, samples)])
    assert found[0] == found[1]
    assert asked[0] < asked[1]


def test_who_has_not_killed_a_channel_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detectors.build("one_output")
    samples = open_samples(detectors.samples(), model)
    regions = find_regions(Graph(model), infer_shapes(model))
    truth = reference(model, regions)
    dead = dead_channels(compare(truth, [model], samples)[0])
    asked: Counter[tuple[int, ...]] = Counter()
    run = Switchboard.run

    def counted(board: Switchboard, feed: Mapping[str, np.ndarray], settings: Mapping[int, Setting]) -> Any:
        asked[tuple(settings)] += 1
        return run(board, feed, settings)

    monkeypatch.setattr(Switchboard, "run", counted)
    killers = {(k.index,) for k in find_killers(model, regions, truth, dead, samples)}
    feeds = asked[()]
    assert feeds > 1 and killers
    assert all(n == (feeds if k in killers or not k else 1) for k, n in asked.items())
    assert len(asked) > len(killers) + 1


def test_layers_end_the_search() -> None:
    model = detectors.build("several")
    graph = Graph(model)
    regions = find_regions(graph, infer_shapes(model))
    between = module._between(graph, regions, {"scores": (0,)})
    assert [regions[k].tensor for k in between] == ["sub1", "sigmoid2"]


def test_a_model_that_does_not_run_switch_by_switch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise UserError("onnxruntime cannot run the model switch by switch")

    monkeypatch.setattr(module, "Switchboard", failing)
    model = detectors.build("one_output")
    regions = find_regions(Graph(model), infer_shapes(model))
    samples = open_samples(detectors.samples(), model)
    truth = reference(model, regions)
    dead = dead_channels(compare(truth, [model], samples)[0])
    assert dead and find_killers(model, regions, truth, dead, samples) == []
    assert "switch by switch" in caplog.text
