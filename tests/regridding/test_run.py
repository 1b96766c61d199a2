"""Dead channels come alive, no output gets worse, and nothing is done where nothing is dead."""

from __future__ import annotations

import detectors
import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.quality import compare, losing
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regridding import run
from onnx_ocs.regridding.dead import dead_channels


@pytest.mark.parametrize(
    ("name", "leave_out"),
    [("one_output", True), ("moved", True), ("several", True), ("one_output", False), ("read_by_a_layer", False)],
)
def test_alive_again(name: str, leave_out: bool) -> None:
    """On samples that the pass has not seen."""
    model = detectors.build(name)
    result = rewrite(model, calib=detectors.samples(), passes=[Regrid(leave_out)])
    assert result.verification is not None and result.verification.verdict == "PASSED"
    entries = result.report["grids"]
    assert entries and all(e["status"] == "applied" for e in entries)
    assert leave_out or {e["edit"] for e in entries} <= {"split", "new grid"}
    unseen = open_samples(detectors.samples(seed=2), model)
    truth = reference(model, find_regions(Graph(model), infer_shapes(model)))
    before, after = compare(truth, [model, result.model], unseen)
    assert dead_channels(before) and not dead_channels(after)
    assert losing(before, after) is None
    cost = result.report["cost"]
    assert cost["macs_after"] == cost["macs_before"]
    assert cost["integer_kernels_after"] == cost["integer_kernels_before"]
    again = rewrite(result.model, calib=detectors.samples(), passes=[Regrid(leave_out)])
    assert not again.changed


@pytest.mark.parametrize("level", ["disable_all", "enable_all"])
def test_left_out_gives_what_was_quantized(level: str) -> None:
    """Exact by construction: quantized again, the new output is the old one."""
    model = detectors.build("float_parts")
    new = rewrite(model, calib=detectors.samples(), passes=[Regrid()]).model
    feed = detectors.samples(4, 3)
    old, now = (zoo.execute(m, feed, level)[0] for m in (model, new))
    step = np.float32(detectors.STEP)
    again = np.clip(np.rint(now / step), 0, 255) * step
    assert np.mean(np.abs(again - old) > 1e-4) < 1e-3 and np.abs(again - old).max() < 1.001 * step


def test_nothing_is_dead() -> None:
    net = zoo.Net(x=(3, 8, 8))
    model = net.model(net.dq(net.q(net.op("Sigmoid", net.conv(net.qdq("x", "mid"))), "low", 1.0), out="y"))
    result = rewrite(model, calib=detectors.samples(), passes=[Regrid()])
    assert not result.changed and result.report["grids"] == []


def test_what_is_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detectors.build("float_parts")
    monkeypatch.setattr(run, "losing", lambda *_: "'y' gets worse")
    result = rewrite(model, calib=detectors.samples(), passes=[Regrid()])
    assert not result.changed
    assert [(e["status"], e["reason"]["code"]) for e in result.report["grids"]] == [("refused", "still_worse")]


def test_without_samples_and_behind_other_passes() -> None:
    model = detectors.build("float_parts")
    assert not run.regrid(model, Context(), Regrid()).changed
    assert run.regrid(model, Context(), Regrid()).notes == [run.NEEDS]
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    widened.metadata_props.add(key="onnx_ocs.passes", value='[{"pass": "translate"}]')
    context = Context(open_samples(detectors.samples(), model))
    assert not run.regrid(widened, context, Regrid()).changed


def test_a_channel_that_no_quantizer_kills_is_told() -> None:
    """Here the float model alone has it alive."""
    model, floats = detectors.build("several"), detectors.build("several")
    weight = next(t for t in model.graph.initializer if t.name == "conv2_w")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    bias = next(t for t in model.graph.initializer if t.name == "conv2_b")
    assert bias.dims[:] == [4]
    result = rewrite(model, calib=detectors.samples(), float_model=floats, passes=[Regrid()])
    assert any("not in the reference: 1 channel of the output 'boxes'" in n for n in result.report["notes"])
