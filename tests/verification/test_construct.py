"""Nodes that a rewrite adds: only what they hold counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import graph, node

from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.construct import construct
from onnx_ocs.verification.values import Differs, Layout, Shifted, Value, Wide

Array = np.ndarray[Any, Any]
LAYOUT = Layout(1, np.asarray([0, 1, 2, 1]), np.asarray([0, 0, 0, 1]), 3)
WIDE = Wide(1, LAYOUT.origin, LAYOUT.level, 3)
QUANTIZED = {"x": LAYOUT}


def made(n: Any, *values: Value | None, of: dict[str, Layout] | None = None, **constants: Any) -> Value:
    g = graph([n], constants, {t: ["N", 3, 4, 4] for t in n.input if t not in constants})
    quantized = QUANTIZED if of is None else of
    return construct(n, values, Constants(g, g), lambda of, axis: 3 - axis if axis >= 0 else -1 - axis, quantized)


def rows(value: Value) -> Shifted:
    assert isinstance(value.form, Shifted)
    return value.form


X, W = Value("x"), Value("x", WIDE)


def test_copies_made_node_by_node() -> None:
    """Gather, Sub, Relu, Concat: the base, and a copy of channel 1."""
    taken = made(node("Gather", "x i", "a", axis=1), X, None, i=np.asarray([1]))
    assert rows(taken).origin.tolist() == [1] and rows(taken).plain() and rows(taken).behind == 2
    below = made(node("Sub", "a c", "b"), taken, None, c=np.full((1, 1, 1), 2.5, np.float32))
    assert rows(below).shift.tolist() == [2.5] and rows(below).side.tolist() == [0]
    copy = made(node("Relu", "b", "r"), below)
    assert rows(copy).side.tolist() == [1]
    both = made(node("Concat", "x r", "j", axis=1), X, copy)
    assert rows(both).origin.tolist() == [0, 1, 2, 1] and rows(both).shift.tolist() == [0, 0, 0, 2.5]
    assert rows(both).side.tolist() == [0, 0, 0, 1]
    low = made(node("Min", "b z", "m"), below, None, z=np.float32(0))
    assert rows(low).side.tolist() == [-1]
    half = made(node("Mul", "a c", "h"), taken, None, c=np.float32(0.5))
    assert rows(half).factor.tolist() == [0.5]


def test_copies_folded_back() -> None:
    base = made(node("Gather", "w i", "b", axis=1), W, None, i=np.asarray([0, 1, 2]))
    assert isinstance(base.form, Wide) and not base.form.whole()
    one = made(node("Gather", "w i", "o", axis=1), W, None, i=np.asarray([1]))
    copy = made(node("Gather", "w i", "c", axis=1), W, None, i=np.asarray([3]))
    total = made(node("Add", "o c", "s"), one, copy)
    left, right = (made(node("Gather", "w i", "p", axis=1), W, None, i=np.asarray([k])) for k in (0, 2))
    folded = made(node("Concat", "l s r", "y", axis=1), left, total, right)
    assert isinstance(folded.form, Wide) and folded.form.whole()
    assert folded.settled().form is None
    swapped = made(node("Concat", "s l r", "y", axis=1), total, left, right)
    assert swapped.settled().form is not None
    twice = made(node("Add", "o c", "s"), one, one)
    lost = made(node("Concat", "l s r", "y", axis=1), left, twice, right)
    assert lost.settled().form is not None


def shifted(**changes: Any) -> Value:
    return Value("x", replace(Shifted.of(1, 2, np.asarray([0, 1])), **changes))


UNDECLARED: dict[str, tuple[Any, list[Value | None], dict[str, Any]]] = {
    "an operator that makes nothing": (node("Neg", "x", "y"), [X], {}),
    "a constant in front": (node("Sub", "c x", "y"), [None, X], {"c": np.float32(1)}),
    "a strange attribute": (node("Relu", "x", "y", alpha=1.0), [shifted()], {}),
    "two tensors": (node("Sub", "x w", "y"), [shifted(), shifted()], {}),
    "no list of channels": (node("Gather", "x i", "y", axis=1), [X, None], {"i": np.asarray([[0]])}),
    "negative channels": (node("Gather", "x i", "y", axis=1), [X, None], {"i": np.asarray([-1])}),
    "channels that do not exist": (node("Gather", "w i", "y", axis=1), [W, None], {"i": np.asarray([4])}),
    "rows that do not exist": (node("Gather", "w i", "y", axis=1), [shifted(), None], {"i": np.asarray([2])}),
    "another axis": (node("Gather", "w i", "y", axis=2), [W, None], {"i": np.asarray([0])}),
    "rectified twice": (node("Relu", "x", "y"), [shifted(side=np.asarray([1, 0]))], {}),
    "shifted behind the ReLU": (
        node("Sub", "x c", "y"), [shifted(side=np.asarray([1, 0])), None], {"c": np.float32(1)},
    ),
    "cut at 1": (node("Min", "x c", "y"), [shifted(), None], {"c": np.float32(1)}),
    "multiplied behind the shift": (
        node("Mul", "x c", "y"), [shifted(shift=np.asarray([1.0, 0])), None], {"c": np.float32(2)},
    ),
    "a constant along another axis": (
        node("Sub", "x c", "y"), [shifted(), None], {"c": np.ones((2, 4), np.float32)},
    ),
    "copies are rectified": (node("Relu", "w", "y"), [W], {}),
    "rows and copies joined": (node("Concat", "x w", "y", axis=1), [shifted(), W], {}),
    "joined along another axis": (node("Concat", "x w", "y", axis=2), [shifted(), shifted()], {}),
    "joined with a constant": (node("Concat", "x c", "y", axis=1), [shifted(), None], {"c": np.float32([1])}),
    "different tensors": (node("Concat", "x w", "y", axis=1), [shifted(), Value("z", shifted().form)], {}),
    "rows added up": (node("Add", "x w", "y"), [shifted(), shifted()], {}),
    "other copies added": (
        node("Add", "x w", "y"), [W, Value("x", replace(WIDE, level=np.asarray([0, 0, 0, 2])))], {},
    ),
    "integers added": (
        node("Add", "x w", "y"), [Value("x", replace(WIDE, integer=True))] * 2, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECLARED)
def test_anything_else_is_found(name: str) -> None:
    n, values, constants = UNDECLARED[name]
    with pytest.raises(Differs):
        made(n, *values, **constants)


def test_a_tensor_that_nobody_quantizes_with_copies() -> None:
    with pytest.raises(Differs, match="nothing declares it"):
        made(node("Sub", "x c", "y"), X, None, of={}, c=np.float32(1))
    with pytest.raises(Differs, match="nothing declares it"):
        made(node("Relu", "x", "y"), X, of={})
