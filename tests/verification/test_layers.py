"""Layers whose input or output channels have copies: what the rules accept is what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from tiny import model, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.layers import Demand, Layers, output_axis
from onnx_ocs.verification.values import Differs, Layout, Shifted, Wide

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
ORIGIN, LEVEL = np.asarray([0, 1, 2, 3, 1, 3, 3]), np.asarray([0, 0, 0, 0, 1, 1, 2])
WIDE = Wide(1, ORIGIN, LEVEL, 4)
AMOUNT = LEVEL * 2.5


def numbers(*shape: int) -> Array:
    return RNG.integers(-8, 9, shape).astype(np.float32)


def layer(op: str, x: tuple[int, ...], attributes: dict[str, Any], *constants: Array) -> onnx.ModelProto:
    names = ["w", "b"][: len(constants)]
    return model(
        [node(op, " ".join(["x", *names]), "y", **attributes)], dict(zip(names, constants, strict=True)), {"x": x}
    )


def check(
    before: onnx.ModelProto, after: onnx.ModelProto, wide: Wide | None = None, demand: Demand | None = None
) -> Wide | Shifted | None:
    a, b = Graph(before), Graph(after)
    rules = Layers(Constants(a, b), Steps(a, {}), infer_shapes(before))
    return rules(b.producer["y"], a.producer["y"], wide, demand)


# ---- copies that are read -------------------------------------------------------------------------------------------

READ: dict[str, tuple[str, tuple[int, ...], dict[str, Any], tuple[int, ...], int, int]] = {
    # operator, input, attributes, weight, its input axis, the input's channel axis
    "conv": ("Conv", (2, 4, 5, 5), {}, (3, 4, 2, 2), 1, 1),
    "transposed": ("ConvTranspose", (2, 4, 5, 5), {"strides": [2, 2]}, (4, 3, 2, 2), 0, 1),
    "gemm": ("Gemm", (6, 4), {"alpha": 0.5}, (4, 3), 0, 1),
    "gemm, transB": ("Gemm", (6, 4), {"transB": 1}, (3, 4), 1, 1),
    "gemm, transA": ("Gemm", (4, 6), {"transA": 1}, (4, 3), 0, 0),
    "matmul": ("MatMul", (2, 5, 4), {}, (4, 3), 0, 2),
}


@pytest.mark.parametrize("name", READ)
def test_copies_add_up_in_the_layer(name: str) -> None:
    op, shape, attributes, size, axis, channels = READ[name]
    w, bias = numbers(*size), [] if op == "MatMul" else [numbers(3)]
    right = np.take(w, ORIGIN, axis=axis)
    x = numbers(*shape)
    parts = np.take(x, ORIGIN, axis=channels)  # the copies take what the base gives away
    shaped = LEVEL.reshape(-1, *[1] * (x.ndim - 1 - channels))
    parts = np.where(shaped > 0, shaped.astype(np.float32), parts)
    base = np.take(x, range(4), axis=channels) - np.asarray([0, 1, 0, 3]).reshape(-1, *[1] * (x.ndim - 1 - channels))
    parts = np.concatenate([base, np.take(parts, range(4, 7), axis=channels)], axis=channels).astype(np.float32)
    before, after = layer(op, shape, attributes, w, *bias), layer(op, parts.shape, attributes, right, *bias)
    np.testing.assert_array_equal(zoo.execute(after, {"x": parts})[0], zoo.execute(before, {"x": x})[0])
    wide = Wide(channels, ORIGIN, LEVEL, 4)
    assert check(before, after, wide) is None
    other = right.copy()
    other.reshape(-1)[-1] += 1
    changed = [layer(op, parts.shape, attributes, v, *bias) for v in (other, np.roll(right, 1, axis), w)]
    if bias:
        changed.append(layer(op, parts.shape, attributes, right, bias[0] + 1))
        changed.append(layer(op, parts.shape, {**attributes, "extra": 1}, right, *bias))
    for bad in changed:
        with pytest.raises(Differs):
            check(before, bad, wide)
    with pytest.raises(Differs, match=r"another axis|another number"):
        check(before, after, Wide(1 - channels if op == "Gemm" else 1 + (channels == 1), ORIGIN, LEVEL, 4))


def test_a_depthwise_layer_filters_every_copy_and_leaves_the_bias_with_the_base() -> None:
    w, b = numbers(4, 1, 2, 2), numbers(4)
    before = layer("Conv", (2, 4, 5, 5), {"group": 4}, w, b)
    right = np.where(LEVEL == 0, b[ORIGIN], 0).astype(np.float32)
    x = numbers(2, 7, 5, 5)
    after = layer("Conv", x.shape, {"group": 7}, w[ORIGIN], right)
    found = check(before, after, WIDE)
    assert (
        isinstance(found, Wide) and found.origin.tolist() == ORIGIN.tolist() and found.level.tolist() == LEVEL.tolist()
    )

    def added_up(v: Array) -> Array:
        out = np.zeros((2, 4, *v.shape[2:]), np.float32)
        np.add.at(np.moveaxis(out, 1, 0), ORIGIN, np.moveaxis(v, 1, 0))
        return out

    want = zoo.execute(before, {"x": added_up(x)})[0]
    np.testing.assert_array_equal(added_up(zoo.execute(after, {"x": x})[0]), want)
    for group, weight, bias in ((7, w[ORIGIN], b[ORIGIN]), (7, w[ORIGIN[::-1]], right), (4, w[ORIGIN], right)):
        with pytest.raises(Differs):
            check(before, layer("Conv", x.shape, {"group": group}, weight, bias), WIDE)


def test_groups_hold_their_own_copies() -> None:
    w = numbers(6, 2, 1, 1)
    before = layer("Conv", (2, 4, 5, 5), {"group": 2}, w, numbers(6))
    origin = np.asarray([0, 1, 1, 3, 2, 3])  # three channels in each group
    inside = [np.asarray([0, 1, 1]), np.asarray([1, 0, 1])]
    right = np.concatenate([w[:3][:, inside[0]], w[3:][:, inside[1]]])
    bias = onnx.numpy_helper.to_array(before.graph.initializer[1])
    wide = Wide(1, origin, np.asarray([0, 0, 1, 0, 0, 1]), 4)
    assert check(before, layer("Conv", (2, 6, 5, 5), {"group": 2}, right, bias), wide) is None
    with pytest.raises(Differs):
        check(before, layer("Conv", (2, 6, 5, 5), {"group": 2}, right[:, ::-1].copy(), bias), wide)
    with pytest.raises(Differs, match="not in the groups"):
        crossed = Wide(1, np.asarray([0, 1, 2, 1, 2, 3]), wide.level, 4)
        check(before, layer("Conv", (2, 6, 5, 5), {"group": 2}, right, bias), crossed)


def test_what_a_layer_cannot_read() -> None:
    before = layer("Conv", (2, 4, 5, 5), {}, numbers(3, 4, 1, 1))
    for wide, why in (
        (Wide(1, ORIGIN, LEVEL, 4, integer=True), "integers"),
        (Wide(1, ORIGIN, LEVEL, 5), "another number of input channels"),
        (Wide(2, ORIGIN, LEVEL, 4), "another axis"),
    ):
        with pytest.raises(Differs, match=why):
            check(before, before, wide)


# ---- copies that are written ----------------------------------------------------------------------------------------


def demand(here: bool = True, halved: bool = False) -> Demand:
    return Demand(Layout(1, ORIGIN, LEVEL, 4, halved), AMOUNT * (not halved), here)


WRITTEN: dict[str, tuple[str, tuple[int, ...], dict[str, Any], tuple[int, ...], int]] = {
    "conv": ("Conv", (2, 3, 5, 5), {}, (4, 3, 2, 2), 0),
    "transposed": ("ConvTranspose", (2, 3, 5, 5), {}, (3, 4, 2, 2), 1),
    "gemm": ("Gemm", (6, 3), {"beta": 0.5}, (3, 4), 1),
    "gemm, transB": ("Gemm", (6, 3), {"transB": 1}, (4, 3), 0),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_rows_are_repeated_and_shifted(name: str) -> None:
    op, shape, attributes, size, axis = WRITTEN[name]
    w, b, x = numbers(*size), numbers(4), numbers(*shape)
    right = np.take(w, ORIGIN, axis=axis)
    shifted = (b[ORIGIN] - AMOUNT / attributes.get("beta", 1.0)).astype(np.float32)
    before, after = layer(op, shape, attributes, w, b), layer(op, shape, attributes, right, shifted)
    found = check(before, after, None, demand())
    assert isinstance(found, Shifted) and found.shift.tolist() == AMOUNT.tolist()
    assert found.origin.tolist() == ORIGIN.tolist() and found.plain() is False
    y = zoo.execute(before, {"x": x})[0]
    assert found.axis % y.ndim == 1 == output_axis(after.graph.node[0]) % y.ndim
    want = np.take(y, ORIGIN, axis=1) - AMOUNT.reshape(-1, *[1] * (y.ndim - 2))
    np.testing.assert_array_equal(zoo.execute(after, {"x": x})[0], want.astype(np.float32))
    off = shifted.copy()
    off[-1] = np.nextafter(off[-1], 100)
    for weight, bias in ((right, off), (right, b[ORIGIN]), (np.roll(right, 1, axis), shifted)):
        with pytest.raises(Differs):
            check(before, layer(op, shape, attributes, weight, bias), None, demand())
    plain = layer(op, shape, attributes, right, b[ORIGIN])  # somebody behind it subtracts
    later = check(before, plain, None, demand(here=False))
    assert isinstance(later, Shifted) and not later.shift.any()
    with pytest.raises(Differs):
        check(before, after, None, demand(here=False))


def test_a_bias_is_added_where_there_is_none() -> None:
    w = numbers(4, 3, 2, 2)
    before = layer("Conv", (2, 3, 5, 5), {}, w)
    check(before, layer("Conv", (2, 3, 5, 5), {}, w[ORIGIN], (0 - AMOUNT).astype(np.float32)), None, demand())
    for bad in ((), (AMOUNT.astype(np.float32),)):
        with pytest.raises(Differs):
            check(before, layer("Conv", (2, 3, 5, 5), {}, w[ORIGIN], *bad), None, demand())


def test_halves_share_what_they_hold() -> None:
    halves = np.asarray([0, 0, 0, 0, 1, 1, 2])
    layout = Layout(1, ORIGIN, halves, 4, True)
    factor = np.asarray([1, 1 / 2, 1, 1 / 3, 1 / 2, 1 / 3, 1 / 3])
    wish = Demand(layout, np.zeros(7), True)
    np.testing.assert_array_equal(wish.factor, factor)
    w, b = numbers(4, 3, 2, 2), numbers(4)
    before = layer("Conv", (2, 3, 5, 5), {}, w, b)
    rows, bias = (w[ORIGIN] * factor.reshape(-1, 1, 1, 1)).astype(np.float32), (b[ORIGIN] * factor).astype(np.float32)
    found = check(before, layer("Conv", (2, 3, 5, 5), {}, rows, bias), None, wish)
    assert isinstance(found, Shifted) and found.factor.tolist() == factor.tolist()
    for bad in ((rows, b[ORIGIN]), (w[ORIGIN], bias)):
        with pytest.raises(Differs):
            check(before, layer("Conv", (2, 3, 5, 5), {}, *bad), None, wish)


def test_integer_biases_move_by_whole_steps() -> None:
    w, b, scale = numbers(4, 3, 2, 2), np.asarray([10, -20, 30, 40], np.int32), np.asarray([0.5, 1, 2, 0.7], np.float32)

    def quantized(weight: Array, bias: Array, steps: Array) -> onnx.ModelProto:
        nodes = [node("DequantizeLinear", "b s", "bd", axis=0), node("Conv", "x w bd", "y")]
        return model(nodes, {"w": weight, "b": bias, "s": steps}, {"x": (2, 3, 5, 5)})

    moved = b[ORIGIN] - np.asarray([round(a / s) for a, s in zip(AMOUNT, scale[ORIGIN], strict=True)], np.int32)
    before = quantized(w, b, scale)
    check(before, quantized(w[ORIGIN], moved, scale[ORIGIN]), None, demand())
    for bias, steps in ((moved + 1, scale[ORIGIN]), (moved, scale[ORIGIN][::-1].copy()), (b[ORIGIN], scale[ORIGIN])):
        with pytest.raises(Differs):
            check(before, quantized(w[ORIGIN], bias.astype(np.int32), steps), None, demand())
    narrow = quantized(w, (b - 128).clip(-128, 127).astype(np.int8), scale)
    with pytest.raises(Differs, match="does not fit"):
        check(narrow, quantized(w[ORIGIN], moved.astype(np.int8), scale[ORIGIN]), None, demand())


def test_rows_that_cannot_be_repeated() -> None:
    before = layer("Conv", (2, 4, 5, 5), {"group": 2}, numbers(4, 2, 1, 1))
    with pytest.raises(Differs, match="cannot be repeated"):
        check(before, before, None, demand())
    with pytest.raises(Differs, match="another number of output channels"):
        before = layer("Conv", (2, 3, 5, 5), {}, numbers(5, 3, 1, 1))
        check(before, before, None, demand())


# ---- changed steps --------------------------------------------------------------------------------------------------


def halved_step(direct: bool) -> tuple[Graph, Steps, str]:
    """A network whose second Conv has an integer bias, and half the step in front of it."""
    n, x = zoo.image(zoo.Style(bias="int32"))
    a = n.qdq(n.op("Relu", n.conv(x)))
    if not direct:
        n.steps["maxpool1"] = n.steps[a]
        a = n.op("MaxPool", a, kernel_shape=[2, 2])
    graph = Graph(n.model(n.conv(a)))
    old = graph.constant("relu1_scale")
    assert old is not None
    return graph, Steps(graph, {"relu1_q": old.astype(np.float64) / 2}), "conv2"


def followed(graph: Graph) -> Graph:
    """The same with twice the bias, in steps of half the size."""
    new = onnx.ModelProto()
    new.CopyFrom(graph.model)
    for t in new.graph.initializer:
        value = onnx.numpy_helper.to_array(t)
        if t.name == "conv2_b":
            t.CopyFrom(onnx.numpy_helper.from_array((2 * value).astype(np.int32), t.name))
        elif t.name == "conv2_b_scale":
            step, weight = graph.constant("relu1_scale"), graph.constant("conv2_w_scale")
            assert step is not None and weight is not None
            exact = step.astype(np.float64) / 2 * weight.astype(np.float64)
            t.CopyFrom(onnx.numpy_helper.from_array(exact.astype(np.float32), t.name))
    return Graph(new)


@pytest.mark.parametrize("direct", [True, False])
def test_a_bias_follows_the_step_of_the_input(direct: bool) -> None:
    """b' = b * s_x / s'_x: it must where an integer kernel may take the product of the steps for its own."""
    graph, steps, out = halved_step(direct)
    shapes, old = infer_shapes(graph.model), graph.producer[out]
    assert [f.required for f in steps.followed(old)] == [direct]
    after = followed(graph)
    rules = Layers(Constants(graph, after), steps, shapes)
    assert rules(after.producer[out], old, None, None) is None and not rules.unfollowed
    rules = Layers(Constants(graph, graph), steps, shapes)
    if direct:
        with pytest.raises(Differs):
            rules(old, old, None, None)
    else:
        assert rules(old, old, None, None) is None and rules.unfollowed == {out}
