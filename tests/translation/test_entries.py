"""The report's entries: of a region that was widened, that carries another's copies, or that was refused."""

from __future__ import annotations

import numpy as np
import onnx
import zoo
from regions_of import graph_and_regions

from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import Region
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.entries import entries, entry
from onnx_ocs.translation.widen import widen


def regions_of(name: str) -> dict[str, Region]:
    return graph_and_regions(zoo.build(name)[0])[1]


def test_a_refused_region() -> None:
    r = regions_of("conv_relu_conv")["relu1"]
    e = entry("translate", r, Refusal("ratio", "too few", "here"))
    assert r.quantizer is not None
    assert e == {
        "status": "refused", "pass": "translate", "tensor": "relu1", "quantizers": ["relu1_q"], "axis": 1,
        "channels": 8, "activation": "ReLU", "producer": "Conv conv1/Conv", "scale_before": float(r.quantizer.scale),
        "scale": float(r.quantizer.scale), "zero_point": 0, "qmin": 0, "qmax": 255,
        "x_clip": float(255 * r.quantizer.scale), "copies": [], "copies_low": [], "mode": None, "full": False,
        "consumers": ["conv2/Conv"], "reason": {"code": "ratio", "message": "too few", "node": "here"},
    }  # fmt: skip


def test_what_cannot_be_read_has_no_numbers() -> None:
    n, x = zoo.image(zoo.Style())
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)), scale=0.0)))
    r = graph_and_regions(model)[1]["relu1"]
    e = entry("split", r, r.refusal)
    assert e["reason"]["code"] == "bad_scale" and e["pass"] == "split"
    assert [e[k] for k in ("axis", "channels", "scale", "zero_point", "qmin", "x_clip")] == [None] * 6
    assert e["consumers"] == []


def test_a_widened_region_and_one_that_carries_its_copies() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("requantized")[0])
    graph, regions = graph_and_regions(model)
    copies = np.asarray([0, 1, 0, 2, 0, 0, 0, 1])
    decision = Decision(regions["relu1"], "late", copies, 0 * copies)
    every = list(regions.values())
    why = Refusal("ratio", "too few", "here")
    decisions = [decision if r.tensor == "relu1" else why for r in every]
    done = widen(graph, infer_shapes(model), [decision])
    found = {e["tensor"]: e for e in entries("translate", every, decisions, done)}
    own, carried, other = found["relu1"], found["maxpool1"], found["x"]
    assert (own["status"], own["mode"], own["reason"]) == ("applied", "late", None)
    assert own["copies"] == copies.tolist() and own["copies_low"] == [0] * 8
    assert (carried["status"], carried["mode"], carried["reason"]) == ("applied", "carried", None)
    assert carried["copies"] == copies.tolist() and carried["channels"] == 8
    readers = ["maxpool1/MaxPool", "maxpool1_q/QuantizeLinear", "conv2/Conv"]
    assert own["consumers"] == readers  # all that read the wide value, in the original's words
    assert (other["status"], other["reason"]["code"]) == ("refused", "ratio")


def test_neither_decided_nor_carried() -> None:
    e = entry("translate", regions_of("conv_relu_conv")["relu1"], None)
    assert (e["status"], e["reason"], e["mode"]) == ("refused", None, None)
