"""Targets: what they let be made of a tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from zoo import Style, image

import onnx_ocs
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.translation.reach import beyond, mode_for


def regions(model: onnx.ModelProto) -> dict[str, Region]:
    return {r.tensor: r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region)}


def codes(model: onnx.ModelProto, runtime: Any) -> Counter[str]:
    found = onnx_ocs.rewrite(model, passes=[Translate(0.5, runtime=runtime)], verify=False).report["regions"]
    return Counter(e["mode"] if e["status"] == "applied" else e["reason"]["code"] for e in found)


def residual() -> onnx.ModelProto:
    """One activation that a Conv alone reads, one that a sum reads, too, and the sum."""
    n, x = image(Style(bias="int32"))
    a = n.qdq(n.op("Relu", n.conv(x)))
    b = n.qdq(n.op("Relu", n.conv(a)))
    total = n.qdq(n.op("Add", n.conv(b), b))
    return n.model(n.qdq(n.conv(total), "mid"))


def test_without_float_operators_copies_are_early_and_not_folded_back() -> None:
    model = residual()
    found = regions(model)
    strict, free = rules_of("generic-int8"), rules_of("ort")
    assert beyond(found["relu1"], "early", strict) is None
    late, folded = beyond(found["relu1"], "late", strict), beyond(found["relu2"], "early", strict)
    assert late is not None and folded is not None and late.code == folded.code == "target"
    assert "late" in late.message and "Add" in folded.message
    assert all(beyond(r, mode, free) is None for r in found.values() for mode in ("early", "late"))
    counts = codes(model, "generic-int8")
    assert counts["early"] == 1 and counts["target"] >= 2 and not counts["late"]


def test_depthwise_layers_add_copies_up_in_float() -> None:
    model, _ = zoo.build("depthwise")
    found = [beyond(r, "early", rules_of("qnn")) for r in regions(model).values() if r.walk.depthwise]
    assert found and all(why is not None and "depthwise" in why.message for why in found)


def test_signed_copies_in_float_are_wrong_in_openvino() -> None:
    """Where a Clip holds their bounds; other integers of a byte lose their sign."""
    n, x = image(Style(bias="int32", dtype="int8"))
    a = n.qdq(n.op("LeakyRelu", n.conv(x)))
    signed = n.model(n.conv(a))
    at = next(r for t, r in regions(signed).items() if t != "x")
    assert at.quantizer.dtype == np.int8 and beyond(at, "late", rules_of("openvino")) is None
    at = replace(at, quantizer=replace(at.quantizer, qmin=-8, qmax=7))
    why = beyond(at, "late", rules_of("openvino"))
    assert why is not None and "signed" in why.message and beyond(at, "early", rules_of("openvino")) is None
    assert beyond(at, "late", rules_of("tensorrt")) is None


def test_a_step_for_each_channel_is_joined_behind_its_quantizers_unless_a_clip_follows() -> None:
    model, _ = zoo.build("depthwise_per_channel")
    at = next(r for r in regions(model).values() if r.quantizer.scale.size > 1)
    assert beyond(at, "late", rules_of("openvino")) is None
    at = replace(at, quantizer=replace(at.quantizer, qmax=15))
    why = beyond(at, "late", rules_of("openvino"))
    assert why is not None and "does not load" in why.message and beyond(at, "late", rules_of("ort")) is None


def test_the_mode_of_a_target() -> None:
    assert mode_for("auto", rules_of("qnn")) == mode_for("integer", rules_of("generic-int8")) == "early"
    assert mode_for("late", rules_of("tensorrt")) == "late"
    with pytest.raises(UserError, match="no float operators"):
        mode_for("late", rules_of("qnn"))
