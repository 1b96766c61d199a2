"""What each quantized activation costs at the output, and what of it neither copies nor another step can mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from feeds import inputs
from zoo import Net, Style

from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.attribution import Loss, find_loss, mendable
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.runtime.session import Session

Array = np.ndarray[Any, Any]


def regions_of(model: onnx.ModelProto) -> list[Quantized]:
    return find_regions(Graph(model), infer_shapes(model))


def measured(model: onnx.ModelProto, feed: dict[str, Array], tmp_path: Path) -> Loss:
    np.savez(tmp_path / "c.npz", **feed)
    samples = open_samples(str(tmp_path / "c.npz"), model)
    found = find_loss(model, Graph(model), regions_of(model), infer_shapes(model), Context(samples), 1000)
    assert found is not None
    return found


def ends_quantized() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A layer between two quantizers, and a quantized output that clips; its integers are asked for, too."""
    n = Net(Style(), x=(4, 6, 6))
    y = n.conv(n.qdq("x", "mid", 0.8))
    integers = n.q(y, "mid", 0.5)
    return n.model(n.dq(integers), (integers, onnx.TensorProto.UINT8)), n.feed


def sqnr(ref: Array, out: Array) -> float:
    ref, out = ref.astype(np.float64), out.astype(np.float64)
    return float(10 * np.log10((ref**2).sum() / ((out - ref) ** 2).sum()))


def test_everything_is_what_the_model_loses(tmp_path: Path) -> None:
    """All quantizers on is the model itself, beside the model without them; and the parts are parts."""
    model, feed = ends_quantized()
    loss = measured(model, feed, tmp_path)
    ref, out = (
        Session(m, "enable_all", fusion=False).run(feed)[model.graph.output[0].name]
        for m in (reference(model, regions_of(model)), model)
    )
    assert loss.everything.sqnr_db == pytest.approx(sqnr(ref, out), abs=1e-4)
    assert loss.everything.share == 1 and loss.samples == len(feed["x"])


def test_the_output_cannot_be_mended(tmp_path: Path) -> None:
    model, feed = ends_quantized()
    regions = regions_of(model)
    assert mendable(Graph(model), regions) == [True, False]
    loss = measured(model, feed, tmp_path)
    assert loss.beyond == (1,)
    assert loss.unmendable.sqnr_db == pytest.approx(loss.alone[1].sqnr_db)
    assert loss.mendable.sqnr_db == pytest.approx(loss.alone[0].sqnr_db)
    # by hand: only the last quantizer
    plain = Session(reference(model, regions), "enable_all", fusion=False).run(feed)[model.graph.output[0].name]
    q = regions[1].quantizer
    assert q is not None
    steps = np.clip(np.round(plain / q.scale), q.qmin - q.zero_point, q.qmax - q.zero_point)
    assert loss.unmendable.sqnr_db == pytest.approx(sqnr(plain, steps * q.scale), abs=1e-3)


def test_a_translation_mends_what_it_says(tmp_path: Path) -> None:
    """With as many copies as it takes, what is left is what the unmendable quantizer alone costs."""
    model, feed = ends_quantized()
    np.savez(tmp_path / "c.npz", **feed)
    loss = measured(model, feed, tmp_path)
    options = api.PlanOptions(budget=8.0, copies=15)
    after = api.rewrite(model, calib=str(tmp_path / "c.npz"), options=options).report["quality"]["sqnr_after_db"]
    assert loss.everything.sqnr_db is not None and loss.unmendable.sqnr_db is not None
    assert after == pytest.approx(loss.unmendable.sqnr_db, abs=0.02) and after > loss.everything.sqnr_db + 0.1


@pytest.mark.parametrize("name", ["concat_wide", "concat_requantized", "requantized", "requantized_twice"])
def test_quantizers_that_carry_are_helped_with_those_upstream(name: str) -> None:
    model, _ = zoo.build(name)
    regions = regions_of(model)
    carried = {id(n) for r in regions if isinstance(r, Region) for n in r.walk.carried}
    can = mendable(Graph(model), regions)
    assert all(c for r, c in zip(regions, can, strict=True) if r.refusal is None)
    assert all(c for r, c in zip(regions, can, strict=True) if all(id(n) in carried for n in r.nodes))


def test_inspect_says_it(run: Any, tmp_path: Path) -> None:
    model, feed = ends_quantized()
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **feed)
    code, out, err = run("inspect", "in.onnx", "--calib", "c.npz", "--report", "r.json")
    assert (code, err) == (0, "")
    assert "Loss that neither copies nor another step can mend" in out and "SQNR alone" in out
    report = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    loss, regions = report["loss"], report["regions"]
    assert [t["tensor"] for t in loss["unmendable"]] == [regions[1]["tensor"]]
    assert loss["unmendable"][0]["code"] == "no_weight_consumer"
    assert loss["unmendable"][0]["sqnr_db"] == regions[1]["sqnr_alone_db"]
    assert loss["sqnr_all_db"] < min(loss["sqnr_mendable_db"], loss["sqnr_unmendable_db"])
    assert loss["sqnr_all_db"] == pytest.approx(report["quality"]["sqnr_before_db"], abs=1e-3)
    assert loss["share_all"] == 1 and loss["share_mendable"] > 0 and loss["share_unmendable"] > 0


def test_without_samples_nothing_is_measured(run: Any, tmp_path: Path) -> None:
    onnx.save(ends_quantized()[0], tmp_path / "in.onnx")
    assert run("inspect", "in.onnx", "--report", "r.json")[0] == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert "loss" not in report and all("sqnr_alone_db" not in r for r in report["regions"])


def test_every_output_counts() -> None:
    """A tensor that only the second of two outputs depends on costs what it costs there."""
    net = zoo.Net(zoo.Style(weight="float", bias="none"), x=(4, 6, 6))
    rng = np.random.default_rng(0)
    ends = []
    for k, scale in enumerate((6 / 255, 0.4 / 255)):
        w = net.const(f"w{k}", rng.normal(0, 0.3, (6, 4, 3, 3)))
        y = net.qdq(net.op("Relu", net.op("Conv", "x", w, kernel_shape=[3, 3], pads=[1] * 4)), scale=scale)
        ends.append(net.op("Conv", y, net.const(f"v{k}", rng.normal(0, 3.0 ** (1 - 4 * k), (3, 6, 1, 1)))))
    model = net.model(*ends)
    samples = open_samples(inputs(model, 8), model)
    regions = regions_of(model)

    def loss(judging: Judging) -> Loss:
        context = Context(samples, judging=judging)
        found = find_loss(model, Graph(model), regions, infer_shapes(model), context, 1000)
        assert found is not None
        return found

    both = loss(EVERYTHING)
    first, second = (both.alone[k] for k in range(2))
    assert first.share == pytest.approx(0.5) and second.share == pytest.approx(0.5), "all that there is, of one each"
    assert first.sqnr_db > 35 and second.sqnr_db < 15
    assert both.everything.sqnr_db == pytest.approx(second.sqnr_db), "where it is least"
    only = loss(Judging({}, (ends[1],)))
    assert only.alone[1].share == 0 and only.alone[0].share == pytest.approx(1.0)
    weighed = loss(Judging({ends[0]: 3.0}))
    assert weighed.alone[0].share == pytest.approx(0.75)
