"""A folded ReLU6 or a folded ReLU: the float model decides, layer by layer; without it, it is a guess that is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from tiny import node

import onnx_ocs
from onnx_ocs.passes import Translate
from onnx_ocs.regions.find import find_regions, folded_bounds, guessed_bounds

Behind = Callable[[str, str], list[onnx.NodeProto]]


def relu6(x: str, y: str) -> list[onnx.NodeProto]:
    return [node("Clip", f"{x} zero six", y)]


def relu(x: str, y: str) -> list[onnx.NodeProto]:
    return [node("Relu", x, y)]


def relu_then_min(x: str, y: str) -> list[onnx.NodeProto]:
    return [node("Relu", x, y + "r"), node("Min", f"{y}r six", y)]


def normed_relu6(x: str, y: str) -> list[onnx.NodeProto]:
    return [node("Mul", f"{x} gamma", y + "n"), node("Clip", f"{y}n zero six", y)]


def constants() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    first, second, last = (rng.normal(0, 0.3, s).astype(np.float32) for s in ((8, 3, 3, 3), (8, 8, 3, 3), (4, 8, 1, 1)))
    second[2] *= 6
    gamma = np.full((1, 8, 1, 1), 1.5, np.float32)
    return {"w1": first, "w2": second, "w3": last, "zero": np.float32(0), "six": np.float32(6), "gamma": gamma}


def floats(first: Behind, second: Behind) -> onnx.ModelProto:
    nodes = [node("Conv", "x w1", "c1", pads=[1] * 4), *first("c1", "a1"), node("Conv", "a1 w2", "c2", pads=[1] * 4)]
    return tiny.model([*nodes, *second("c2", "a2"), node("Conv", "a2 w3", "y")], constants())


def quantized(first: float = 6.0, second: float = 5.0) -> onnx.ModelProto:
    """The same with both activations folded into their quantizers, whose X_clips are given."""
    values: dict[str, Any] = {"z": np.uint8(0), "s1": np.float32(first / 255), "s2": np.float32(second / 255)}
    values |= {k: v * 1.5 if k == "w1" else v for k, v in constants().items() if k[0] == "w"}
    nodes = [
        node("Conv", "x w1", "c1", pads=[1] * 4), node("QuantizeLinear", "c1 s1 z", "q1"),
        node("DequantizeLinear", "q1 s1 z", "d1"), node("Conv", "d1 w2", "c2", pads=[1] * 4),
        node("QuantizeLinear", "c2 s2 z", "q2"), node("DequantizeLinear", "q2 s2 z", "d2"), node("Conv", "d2 w3", "y"),
    ]  # fmt: skip
    return tiny.model(nodes, values)


def folded(model: onnx.ModelProto, bounded: Mapping[str, bool]) -> dict[str, tuple[bool, bool]]:
    from onnx_ocs.model.graph import Graph
    from onnx_ocs.model.shapes import infer_shapes

    found = find_regions(Graph(model), infer_shapes(model), bounded=bounded)
    return {r.tensor: (r.folded, r.guessed) for r in found}


@pytest.mark.parametrize("first", [relu6, relu_then_min, normed_relu6, relu])
@pytest.mark.parametrize("second", [relu, relu6])
def test_float_model_decides(first: Behind, second: Behind) -> None:
    model = quantized()
    bounded = folded_bounds(model, floats(first, second))
    assert bounded == {"c1": first is not relu, "c2": second is relu6}
    assert folded(model, bounded) == {"c1": (first is not relu, False), "c2": (second is relu6, False)}
    assert guessed_bounds(model, bounded) == []


def test_without_it_all_are_guessed() -> None:
    assert folded(quantized(), {}) == {"c1": (True, True), "c2": (True, True)}
    assert folded(quantized(6.1), {}) == {"c1": (False, False), "c2": (False, False)}
    assert guessed_bounds(quantized(), {}) == ["c1", "c2"] and folded_bounds(quantized(), None) == {}


def test_a_layer_that_is_not_found_or_twice_is_guessed() -> None:
    twin = floats(relu6, relu)
    values = {t.name: t for t in twin.graph.initializer}
    values["w2"].CopyFrom(onnx.numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "w2"))
    assert folded_bounds(quantized(), twin) == {"c1": True}
    twin = floats(relu6, relu)
    twin.graph.node.extend([node("Conv", "x w1", "again", pads=[1] * 4), node("Relu", "again", "other")])
    assert folded_bounds(quantized(), twin) == {"c2": False}, "two layers with this weight, and two answers"


def test_only_the_plain_relu_is_widened() -> None:
    """The fault of a network with both: every folded ReLU was taken for a ReLU6."""
    model, twin = quantized(), floats(normed_relu6, relu)
    samples = {"x": np.random.default_rng(3).standard_normal((16, 3, 4, 4)).astype(np.float32)}
    known = onnx_ocs.rewrite(model, calib=samples, float_model=twin, passes=[Translate(ratio=2.0, copies=4)])
    blind = onnx_ocs.rewrite(model, calib=samples, passes=[Translate(ratio=2.0, copies=4)])
    status = {r["tensor"]: (r["status"], (r["reason"] or {}).get("code")) for r in known.report["regions"]}
    assert status["c1"] == ("refused", "folded_bound") and status["c2"][0] == "applied"
    q = known.report["quality"]
    assert q["sqnr_after_db"] > q["sqnr_before_db"] + 8 and not any("guess" in n for n in known.report["notes"])
    assert not blind.changed and all("guess" in r["reason"]["message"] for r in blind.report["regions"])
    assert any("2 quantizers" in n and "--float" in n for n in blind.report["notes"])
