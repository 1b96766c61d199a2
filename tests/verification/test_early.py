"""Copies that the producer makes: who must write what, and through which functions they may go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import graph, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.early import demands, through
from onnx_ocs.verification.layers import Demand
from onnx_ocs.verification.values import Differs, Layout, Shifted

Array = np.ndarray[Any, Any]
ORIGIN, LEVEL = np.asarray([0, 1, 2, 1, 1]), np.asarray([0, 0, 0, 1, 2])
LAYOUT = Layout(1, ORIGIN, LEVEL, 3)
X_CLIP = 0.5 * 255
W = np.ones((3, 3, 1, 1), np.float32)
ROWS = np.asarray([1.5, -2, 3], np.float32)


def network(*between: Any, **constants: Any) -> Graph:
    """Conv, some nodes, QuantizeLinear; the last of the nodes writes `f`."""
    values = {"w": W, "s": np.float32(0.5), "z": np.uint8(0), "c": ROWS.reshape(3, 1, 1)} | constants
    last = between[-1].output[0] if between else "y"
    return graph([node("Conv", "x w", "y"), *between, node("QuantizeLinear", f"{last} s z", "q")], values)


def wishes(g: Graph, layout: Layout = LAYOUT) -> dict[str, Demand]:
    return demands(g, g, {"q": ("q", layout)}, Steps(g, {}))


def amounts(found: dict[str, Demand]) -> dict[str, list[float]]:
    return {t: d.shift.tolist() for t, d in found.items()}


RIGHT = [0, 0, 0, X_CLIP, 2 * X_CLIP]


def test_the_last_node_with_constants_subtracts() -> None:
    relu = node("Relu", "y", "r")
    assert amounts(wishes(network())) == amounts(wishes(network(relu))) == {"y": RIGHT}
    found = wishes(network(node("Add", "y c", "a"), node("Relu", "a", "r")))
    assert amounts(found) == {"a": RIGHT, "y": [0] * 5} and found["y"].layout is LAYOUT
    bn = node("BatchNormalization", "y a b c d", "n")
    parts = dict.fromkeys("abcd", ROWS)
    assert amounts(wishes(network(bn, **parts))) == {"n": RIGHT, "y": [0] * 5}


def test_halved_channels_are_not_shifted() -> None:
    layout = Layout(1, ORIGIN[:4], LEVEL[:4], 3, True)
    assert amounts(wishes(network(), layout)) == {"y": [0] * 4}


def test_nothing_is_asked_where_something_else_stands_in_between() -> None:
    for n in (node("Sigmoid", "y", "f"), node("MaxPool", "y", "f", kernel_shape=[1, 1]), node("Add", "y y", "f")):
        assert wishes(network(n)) == {}
    late = network(node("Relu", "y", "r"))  # added nodes make the copies
    after = network(node("Relu", "y", "r"), node("Relu", "r", "other"))
    assert demands(late, after, {"q": ("q", LAYOUT)}, Steps(late, {})) == {}


FORM = replace(Shifted.of(1, 2, ORIGIN), shift=np.asarray(RIGHT))


def passed(n: Any, form: Shifted = FORM, demand: Demand | None = None, after: Any = None, **constants: Any) -> Shifted:
    """What a node makes of rows; `after` are its constants in the rewritten model."""
    g = graph([n], constants, {n.input[0]: ["N", 3, 4, 4]})
    h = graph([n], {**constants, **(after or {})}, {n.input[0]: ["N", 5, 4, 4]})
    return through(Constants(g, h), h.nodes[0], g.nodes[0], 0, form, demand)


def test_functions_that_act_as_a_relu() -> None:
    found = passed(node("Relu", "x", "y"))
    assert found.side.tolist() == [0, 0, 0, 1, 1] and not found.rectify and found.ceiling == np.inf
    found = passed(node("Clip", "x l h", "y"), l=np.float32(0), h=np.float32(6))
    assert found.side.tolist() == [0, 0, 0, 1, 1] and found.ceiling == 6
    found = passed(node("Clip", "x l h", "y"), l=np.float32(-1), h=np.float32(6))
    assert not found.side.any() and found.rectify and found.ceiling == 6
    for n, constants in (
        (node("LeakyRelu", "x", "y", alpha=0.2), {}),
        (node("Elu", "x", "y"), {}),
        (node("PRelu", "x a", "y"), {"a": np.full(1, 0.25, np.float32)}),
    ):
        found = passed(n, **constants)
        assert not found.side.any() and found.rectify


@pytest.mark.parametrize(
    ("n", "constants"),
    [
        (node("Clip", "x l h", "y"), {"l": np.float32(1), "h": np.float32(6)}),
        (node("Clip", "x l h", "y"), {"l": np.float32(-6), "h": np.float32(0)}),
        (node("LeakyRelu", "x", "y", alpha=-0.2), {}),
        (node("Elu", "x", "y", alpha=-1.0), {}),
        (node("PRelu", "x a", "y"), {"a": np.full(1, -0.25, np.float32)}),
        (node("Sigmoid", "x", "y"), {}),
    ],
    ids=lambda v: v.op_type if hasattr(v, "op_type") else "",
)
def test_functions_that_do_not(n: Any, constants: dict[str, Any]) -> None:
    with pytest.raises(Differs):
        passed(n, **constants)


def test_a_function_keeps_its_constants() -> None:
    clip, bounds = node("Clip", "x l h", "y"), {"l": np.float32(0), "h": np.float32(6)}
    with pytest.raises(Differs, match="does not hold"):
        passed(clip, after={"h": np.float32(7)}, **bounds)
    prelu, slope = node("PRelu", "x a", "y"), np.asarray([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1)
    passed(prelu, a=slope, after={"a": slope[ORIGIN]})
    for wrong in (slope, slope[ORIGIN[::-1]]):
        with pytest.raises(Differs):
            passed(prelu, a=slope, after={"a": wrong})


def test_rows_are_rectified_once() -> None:
    with pytest.raises(Differs, match="rectified already"):
        passed(node("Relu", "x", "y"), replace(FORM, side=np.asarray([0, 0, 0, 1, 1])))
    with pytest.raises(Differs, match="rectified already"):
        passed(node("Relu", "x", "y"), replace(FORM, shift=-FORM.shift))


PLAIN = Shifted.of(1, 2, ORIGIN)
HERE = Demand(LAYOUT, np.asarray(RIGHT), True)


def test_an_add_in_front_subtracts() -> None:
    add, c = node("Add", "x c", "y"), ROWS.reshape(3, 1, 1)
    right = c[ORIGIN] - np.asarray(RIGHT, np.float32).reshape(5, 1, 1)
    found = passed(add, PLAIN, HERE, {"c": right}, c=c)
    assert found.shift.tolist() == RIGHT and found.behind == 2
    scalar = np.full((5, 1, 1), 1.5, np.float32) - np.asarray(RIGHT, np.float32).reshape(5, 1, 1)
    passed(add, PLAIN, HERE, {"c": scalar}, c=np.float32(1.5))
    for wrong in (c[ORIGIN], right[::-1].copy(), right + np.float32(0.5), right.reshape(5)):
        with pytest.raises(Differs):
            passed(add, PLAIN, HERE, {"c": wrong}, c=c)
    with pytest.raises(Differs, match="cannot stand between"):
        passed(add, PLAIN, None, {"c": right}, c=c)
    for form in (FORM, PLAIN.take(np.asarray([1, 0, 2, 3, 4])), replace(PLAIN, factor=np.full(5, 0.5))):
        with pytest.raises(Differs, match="other channels"):
            passed(add, form, HERE, {"c": right}, c=c)
    with pytest.raises(Differs, match="along the channels"):
        passed(add, PLAIN, HERE, {"c": right}, c=ROWS.reshape(3, 1))


def test_a_batch_normalization_in_front_subtracts() -> None:
    bn = node("BatchNormalization", "x a b c d", "y")
    parts = dict(zip("abcd", (ROWS + k for k in range(4)), strict=True))
    right = {k: v[ORIGIN] for k, v in parts.items()}
    right["b"] = right["b"] - np.asarray(RIGHT, np.float32)
    found = passed(bn, PLAIN, HERE, right, **parts)
    assert found.shift.tolist() == RIGHT
    for name in "abcd":
        with pytest.raises(Differs):
            passed(bn, PLAIN, HERE, {**right, name: right[name] + np.float32(1)}, **parts)
