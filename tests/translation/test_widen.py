"""Widening: what every reader gets."""

from __future__ import annotations

import onnx
import zoo
from earlier import filtered
from zoo import execute

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.passes.translate import Translate
from onnx_ocs.translation.widen import widened
from onnx_ocs.verification.verify import verify


def nodes(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == op]


def test_a_depthwise_layer_stays_as_it_is() -> None:
    """It reads the copies added up; no grouped layer, and no second one, is made of it."""
    model, _ = zoo.build("depthwise")
    (before,) = (n for n in nodes(model, "Conv") if n.name == "conv2/Conv")
    for mode, ratio in (("early", 0.5), ("late", 0.5), ("early", 1.0)):
        new = rewrite(model, passes=[Translate(ratio, 1, mode)]).model
        (after,) = (n for n in nodes(new, "Conv") if n.name == "conv2/Conv")
        assert after.attribute == before.attribute and after.input[1:] == before.input[1:]
        assert len(nodes(new, "Conv")) == len(nodes(model, "Conv"))


def test_files_of_earlier_versions_are_understood() -> None:
    model, feed = zoo.build("depthwise")
    new = rewrite(model, passes=[Translate(0.5, 1, "early")], verify=False).model
    old = filtered(new)
    groups = [a.i for n in nodes(old, "Conv") for a in n.attribute if a.name == "group" and a.i > 1]
    assert groups and groups != [a.i for n in nodes(new, "Conv") for a in n.attribute if a.name == "group" and a.i > 1]
    assert verify(model, old, random_samples(model, 2, 0), 1).verdict == "PASSED"
    assert all(abs(a - b).max() < 1e-4 for a, b in zip(execute(old, feed), execute(new, feed), strict=True))


def test_nothing_decided_changes_nothing() -> None:
    model, _ = zoo.build("residual")
    assert [n.op_type for n in widened(model, lambda *_: []).graph.node] == [n.op_type for n in model.graph.node]
