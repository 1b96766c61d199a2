"""Constants through what is declared: repeated channels, coarser steps, halved rows, biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny import graph, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.bias import Bias
from onnx_ocs.verification.constants import Constants, Edit
from onnx_ocs.verification.values import Differs

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
W = RNG.integers(-100, 100, (4, 3, 2, 2)).astype(np.int8)
SCALE = RNG.uniform(0.5, 1.5, 4).astype(np.float32)
ZERO = np.zeros(4, np.int8)
ORIGIN = np.asarray([0, 2, 1, 0, 2])  # five input channels of three
ROWS = np.asarray([0, 1, 2, 3, 1])
BIAS = np.asarray([10, -20, 30, 40], np.int32)
BIAS_SCALE = np.asarray([0.5, 0.25, 1, 2], np.float32)


def conv(**changed: Any) -> Graph:
    """A Conv with integer weight and bias."""
    values = {"w": W, "s": SCALE, "z": ZERO, "b": BIAS, "bs": BIAS_SCALE} | changed
    group = values.pop("group", 1)
    return graph(
        [
            node("DequantizeLinear", "w s z", "wd", axis=0),
            node("DequantizeLinear", "b bs", "bd", axis=0),
            node("Conv", "x wd bd", "y", group=group),
        ],
        values,
    )


def layer(g: Graph) -> Any:
    return g.producer["y"]


def check(edit: Edit, before: Graph | None = None, refitted: tuple[str, ...] = (), **changed: Any) -> Constants:
    """Compare the weight of a Conv with other constants with the original's."""
    before, after = before or conv(), conv(**changed)
    found = Constants(before, after, frozenset(refitted))
    found.allowed = frozenset(refitted)
    found.weight(layer(after), layer(before), edit)
    return found


def plus_one(value: Array, at: int = -1) -> Array:
    value = value.copy()
    value.reshape(-1)[at] += 1
    return value


# ---- what stays -----------------------------------------------------------------------------------------------------


def test_what_nobody_declares_is_the_original_s() -> None:
    assert Edit().nothing
    check(Edit())
    for name, value in (("w", plus_one(W)), ("s", plus_one(SCALE)), ("z", ZERO + np.int8(1))):
        with pytest.raises(Differs):
            check(Edit(), **{name: value})
        found = Constants(conv(), conv(**{name: value}))
        assert [*found.untouched()] == [f"the initializer '{name}' is not the original's"]


def test_a_constant_must_be_made_as_it_was() -> None:
    value = np.arange(3, dtype=np.float32)
    stored = graph([node("Add", "x c", "y")], {"c": value}, {"x": [3]})
    named = graph([node("Identity", "d", "c"), node("Add", "x c", "y")], {"d": value}, {"x": [3]})
    other = graph([node("Neg", "d", "c"), node("Add", "x c", "y")], {"d": -value}, {"x": [3]})
    Constants(stored, stored).same("c", "c")
    Constants(named, named).same("c", "c")
    for a, b in ((stored, named), (named, stored), (named, other)):
        with pytest.raises(Differs):
            Constants(a, b).same("c", "c")


def test_attributes_and_inputs_of_the_nodes_in_front() -> None:
    value = np.arange(6, dtype=np.float32).reshape(1, 2, 3)

    def moved(perm: list[int], v: Array = value) -> Graph:
        return graph([node("Transpose", "c", "t", perm=perm), node("Add", "x t", "y")], {"c": v}, {"x": [3]})

    Constants(moved([0, 2, 1]), moved([0, 2, 1])).same("t", "t")
    with pytest.raises(Differs, match="attributes of Transpose"):
        Constants(moved([0, 2, 1]), moved([2, 0, 1])).same("t", "t")
    with pytest.raises(Differs, match="does not hold what"):
        Constants(moved([0, 2, 1]), moved([0, 2, 1], plus_one(value))).same("t", "t")


def test_a_constant_may_take_its_type_from_an_activation() -> None:
    """PyTorch's bounds of a Clip: CastLike(bound, activation)."""

    def bounded(low: float) -> Graph:
        nodes = [node("Relu", "x", "r"), node("CastLike", "lo r", "low"), node("Clip", "r low", "y")]
        return graph(nodes, {"lo": np.float32(low)})

    Constants(bounded(0.5), bounded(0.5)).same("low", "low")
    with pytest.raises(Differs, match="'lo'"):
        Constants(bounded(0.5), bounded(0.25)).same("low", "low")


def test_values_that_must_be_so() -> None:
    c = Constants(conv(), conv())
    c.equal("b", BIAS)
    c.equal("b", BIAS.reshape(2, 2).reshape(-1), flat=True)
    for wrong in (plus_one(BIAS), BIAS.astype(np.int64), BIAS[:3], BIAS.reshape(1, 4)):
        with pytest.raises(Differs):
            c.equal("b", wrong)
    flat = Constants(conv(), conv(b=BIAS.reshape(1, 4)))
    flat.equal("b", BIAS, flat=True)
    with pytest.raises(Differs):
        flat.equal("b", BIAS)
    with pytest.raises(Differs, match="no constant"):
        c.value(c.before, "x")


# ---- weights --------------------------------------------------------------------------------------------------------


def test_repeated_input_channels() -> None:
    edit = Edit(takes={1: ORIGIN})
    right = W[:, ORIGIN]
    check(edit, w=right)
    for wrong in (plus_one(right), right[:, ::-1], right[:, :4], W, right.astype(np.int16)):
        with pytest.raises(Differs):
            check(edit, w=np.ascontiguousarray(wrong))
    with pytest.raises(Differs):  # the steps lie along the other axis and stay
        check(edit, w=right, s=plus_one(SCALE))


def test_repeated_rows_take_their_steps_along() -> None:
    edit = Edit(takes={0: ROWS})
    right = {"w": W[ROWS], "s": SCALE[ROWS], "z": ZERO[ROWS]}
    check(edit, **right)
    for name in right:
        with pytest.raises(Differs):
            check(edit, **{**right, name: np.ascontiguousarray(plus_one(right[name]))})
    with pytest.raises(Differs):
        check(edit, **{**right, "s": SCALE})


def test_grouped_input_channels() -> None:
    """Two groups of three channels: each repeats its own."""
    w = RNG.integers(-100, 100, (4, 3, 2, 2)).astype(np.int8)
    inside = np.asarray([[0, 1, 2, 2], [1, 0, 2, 0]])
    right = np.concatenate([w[:2][:, inside[0]], w[2:][:, inside[1]]])
    before = conv(w=w, group=2)
    edit = Edit(inside=inside)
    check(edit, before, w=right, group=2)
    for wrong in (plus_one(right), np.concatenate([w[:2][:, inside[1]], w[2:][:, inside[0]]])):
        with pytest.raises(Differs):
            check(edit, before, w=wrong, group=2)


def test_halved_rows_have_halved_steps() -> None:
    factor = np.asarray([1.0, 0.5, 1.0, 1.0, 0.5])
    edit = Edit(takes={0: ROWS}, halves=(0, factor))
    right = {"w": W[ROWS], "s": (SCALE[ROWS] * factor).astype(np.float32), "z": ZERO[ROWS]}
    check(edit, **right)
    with pytest.raises(Differs):
        check(edit, **{**right, "s": SCALE[ROWS]})
    with pytest.raises(Differs):
        check(edit, **{**right, "w": (W[ROWS] * factor.reshape(-1, 1, 1, 1)).astype(np.int8)})


def test_halved_rows_of_a_float_weight() -> None:
    w = RNG.standard_normal((4, 3, 2, 2)).astype(np.float32)

    def plain(value: Array) -> Graph:
        return graph([node("Conv", "x w", "y")], {"w": value})

    factor = np.asarray([1.0, 0.5, 1.0, 1.0, 0.5])
    edit, right = Edit(takes={0: ROWS}, halves=(0, factor)), w[ROWS] * factor.reshape(-1, 1, 1, 1).astype(np.float32)
    before = plain(w)
    for value, fine in ((right, True), (w[ROWS], False), (plus_one(right), False)):
        after = plain(value)
        if fine:
            Constants(before, after).weight(layer(after), layer(before), edit)
        else:
            with pytest.raises(Differs):
                Constants(before, after).weight(layer(after), layer(before), edit)


def test_coarser_steps_have_fewer_integers() -> None:
    factor = np.asarray([1.0, 4.0, 1.0, 2.0])
    edit = Edit(coarser=factor)
    right = {
        "w": np.rint(W / factor.reshape(-1, 1, 1, 1)).astype(np.int8),
        "s": (SCALE * factor).astype(np.float32),
    }
    check(edit, **right)
    for name in right:
        with pytest.raises(Differs):
            check(edit, **{**right, name: plus_one(right[name])})
    with pytest.raises(Differs):
        check(edit)


# ---- re-fitted values -----------------------------------------------------------------------------------------------


def test_declared_values_are_set_aside_with_what_they_would_be() -> None:
    found = check(Edit(takes={1: ORIGIN}), refitted=("w",), w=plus_one(W[:, ORIGIN]))
    np.testing.assert_array_equal(found.expected["w"], W[:, ORIGIN])
    assert [*found.untouched()] == []


def test_declared_values_keep_type_and_shape_and_belong_to_their_layer() -> None:
    for wrong in (W[:, ::-1][:, :2], W.astype(np.int16)):
        with pytest.raises(Differs, match="another type or shape"):
            check(Edit(), refitted=("w",), w=np.ascontiguousarray(wrong), z=ZERO.astype(wrong.dtype))
    after = conv(w=plus_one(W))
    c = Constants(conv(), after, frozenset({"w"}))
    with pytest.raises(Differs, match="another layer declares"):
        c.weight(layer(after), layer(c.before), Edit())


# ---- biases ---------------------------------------------------------------------------------------------------------


def expected(before: Graph, value: Array = BIAS, scale: Array = BIAS_SCALE, **more: Any) -> Bias:
    zero = np.zeros((), np.int64)
    return Bias("integer", value, scale.astype(np.float64), zero, before.producer["bd"], **more)


def bias(wanted: Callable[[Graph], Bias], name: str = "bd", **changed: Any) -> None:
    before, after = conv(), conv(**changed)
    Constants(before, after).bias(name, wanted(before))


def test_integer_biases() -> None:
    bias(expected)
    bias(lambda g: expected(g, BIAS[ROWS], BIAS_SCALE[ROWS]), b=BIAS[ROWS], bs=BIAS_SCALE[ROWS])
    for name, value in (("b", plus_one(BIAS)), ("bs", plus_one(BIAS_SCALE)), ("b", BIAS.astype(np.int16))):
        with pytest.raises(Differs):
            bias(expected, **{name: value})


def test_kinds_of_bias_are_not_mixed_up() -> None:
    none, plain = Bias("none", np.zeros(4, np.float32)), Bias("float", BIAS.astype(np.float32))
    bias(lambda _: none, "")
    with pytest.raises(Differs, match="lost its bias"):
        bias(expected, "")
    with pytest.raises(Differs, match="the original lacks"):
        bias(lambda _: none)
    with pytest.raises(Differs, match="unlike what is declared"):
        bias(lambda _: plain)
    with pytest.raises(Differs, match="unlike what is declared"):
        bias(expected, "s")
    bias(lambda _: Bias("float", SCALE), "s")
    with pytest.raises(Differs):
        bias(lambda _: Bias("float", plus_one(SCALE)), "s")


@pytest.mark.parametrize(("axis", "zero", "fine"), [(0, None, True), (-1, 0, True), (0, 1, False), (1, None, False)])
def test_zero_point_and_axis_of_a_bias(axis: int, zero: int | None, fine: bool) -> None:
    before = conv()
    values: dict[str, Any] = {"b": BIAS, "bs": BIAS_SCALE}
    if zero is not None:
        values["bz"] = np.full(4, zero, np.int32)
    dq = node("DequantizeLinear", " ".join(values), "bd", axis=axis)
    after = graph([dq, node("Conv", "x w bd", "y")], values | {"w": SCALE})
    if fine:
        Constants(before, after).bias("bd", expected(before))
    else:
        with pytest.raises(Differs):
            Constants(before, after).bias("bd", expected(before))
