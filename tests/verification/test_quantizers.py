"""Quantizers, DequantizeLinears and Clips: parameters, and copies that are right in front of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import graph, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.declared import Declared
from onnx_ocs.verification.quantizers import Quantizers
from onnx_ocs.verification.values import Differs, Layout, Shifted, Value, Wide

Array = np.ndarray[Any, Any]
ORIGIN, LEVEL = np.asarray([0, 1, 2, 1, 1, 2]), np.asarray([0, 0, 0, 1, 2, -1])
STEP, ZERO = 0.5, 3  # x_clip = (255 - 3) / 2, x_low = 3 / 2
X_CLIP, X_LOW = 126.0, 1.5
LAYOUT = Layout(1, ORIGIN, LEVEL, 3)
RIGHT = Shifted(
    1, 2, ORIGIN, np.where(LEVEL > 0, LEVEL * X_CLIP, LEVEL * X_LOW), np.ones(6), np.sign(LEVEL).astype(np.int64)
)


def pair(scale: Any = STEP, zero: Any = ZERO, behind: str = "", **constants: Any) -> Graph:
    """Q and DQ, with something between them."""
    values = {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, np.uint8)} | constants
    per = {"axis": 1} if np.ndim(scale) else {}
    nodes = [node("QuantizeLinear", "x s z", "q", **per)]
    if behind:
        nodes.append(node("Clip", behind, "c"))
    return graph([*nodes, node("DequantizeLinear", ("c" if behind else "q") + " s z", "d", **per)], values)


def rules(before: Graph, after: Graph, layout: Layout | None = LAYOUT, **scales: Array) -> Quantizers:
    declared = Declared(layouts={} if layout is None else {"q": ("q", layout)}, scales=dict(scales))
    return Quantizers(Constants(before, after), declared, Steps(before, scales), infer_shapes(before.model))


def quantize(
    form: Any, before: Graph | None = None, after: Graph | None = None, layout: Layout | None = LAYOUT, **scales: Array
) -> Wide | None:
    before = before or pair()
    after = after or before
    check = rules(before, after, layout, **scales)
    return check(after.producer["q"], before.producer["q"], Value("x", form))


def test_right_copies_become_a_wide_tensor_of_integers() -> None:
    wide = quantize(RIGHT)
    assert wide is not None and wide.integer and wide.same(LAYOUT)
    assert wide.grid is not None and wide.grid.x_clip == X_CLIP


def at(k: int, name: str, value: Any) -> Callable[[Shifted], Shifted]:
    def change(s: Shifted) -> Shifted:
        values = getattr(s, name).copy()
        values[k] = value
        return replace(s, **{name: values})

    return change


WRONG: dict[str, tuple[Callable[[Shifted], Shifted], str]] = {
    "another channel": (at(3, "origin", 0), "not those that it declares"),
    "shifted by one step less": (at(3, "shift", X_CLIP - STEP), "multiples of X_clip"),
    "a copy is not shifted": (at(4, "shift", 0), "multiples of X_clip"),
    "a base is shifted": (at(0, "shift", 1), "multiples of X_clip"),
    "below, shifted upwards": (at(5, "shift", X_LOW), "multiples of X_clip"),
    "divided": (at(0, "factor", 0.5), "not divided"),
    "a copy keeps its negative values": (at(3, "side", 0), "not rectified"),
    "below, it goes on above 0": (at(5, "side", 0), "do not end at 0"),
    "a base ends at 0": (at(0, "side", -1), "do not end at 0"),
    "a base is rectified": (at(0, "side", 1), "are no copies"),
    "cut off by a Clip": (lambda s: replace(s, ceiling=2.9 * X_CLIP), "cuts off"),
    "right from 0 upwards only": (lambda s: replace(s, rectify=True), "leaves negative values"),
    "along another axis": (lambda s: replace(s, axis=2), "another axis"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_copies_are_found(name: str) -> None:
    change, why = WRONG[name]
    with pytest.raises(Differs, match=why):
        quantize(change(RIGHT))


def test_a_quantizer_that_saturates_at_0_rectifies_by_itself() -> None:
    layout = Layout(1, ORIGIN[:5], LEVEL[:5], 3)
    top = 255 * STEP
    form = Shifted(1, 2, ORIGIN[:5], LEVEL[:5] * top, np.ones(5), np.zeros(5, np.int64), ceiling=3 * top, rectify=True)
    assert quantize(form, pair(zero=0), layout=layout) is not None
    with pytest.raises(Differs, match="cuts off"):
        quantize(replace(form, ceiling=2.9 * top), pair(zero=0), layout=layout)


def test_halves() -> None:
    layout = Layout(1, np.asarray([0, 1, 2, 1]), np.asarray([0, 0, 0, 1]), 3, True)
    form = replace(Shifted.of(1, 2, layout.origin), factor=np.asarray([1, 0.5, 1, 0.5]))
    wide = quantize(form, layout=layout)
    assert wide is not None and wide.halved
    for bad in (replace(form, factor=np.ones(4)), replace(form, shift=np.asarray([0, 0, 0, X_CLIP]))):
        with pytest.raises(Differs):
            quantize(bad, layout=layout)


def test_what_is_declared_is_there_and_the_other_way_round() -> None:
    with pytest.raises(Differs, match="declares copies, and reads none"):
        quantize(None)
    with pytest.raises(Differs, match="does not declare"):
        quantize(RIGHT, layout=None)
    assert quantize(None, layout=None) is None
    with pytest.raises(Differs, match="another number of channels"):
        quantize(RIGHT, layout=Layout(2, ORIGIN, LEVEL, 3))
    named = Declared(layouts={"q": ("other", LAYOUT)})
    g = pair()
    check = Quantizers(Constants(g, g), named, Steps(g, {}), infer_shapes(g.model))
    with pytest.raises(Differs, match="declared by another node"):
        check(g.producer["q"], g.producer["q"], Value("x", RIGHT))


def test_steps_per_channel_are_repeated() -> None:
    scale, zero = np.asarray([0.5, 0.25, 2], np.float32), np.asarray([0, 0, 0])
    layout = Layout(1, ORIGIN[:5], LEVEL[:5], 3)
    form = Shifted(1, 2, ORIGIN[:5], LEVEL[:5] * 255 * scale[ORIGIN[:5]], np.ones(5), (LEVEL[:5] > 0).astype(np.int64))
    before, wide_zero = pair(scale, zero), np.zeros(5)
    assert quantize(form, before, pair(scale[ORIGIN[:5]], wide_zero), layout) is not None
    for bad in (scale[ORIGIN[4::-1]], np.append(scale[ORIGIN[:4]], np.float32(0.251))):
        with pytest.raises(Differs):
            quantize(form, before, pair(bad, wide_zero), layout)


def test_the_declared_step_is_there() -> None:
    scales = {"q": np.asarray(0.375)}
    right = pair(0.375)
    assert quantize(None, after=right, layout=None, **scales) is None
    for after, declared in ((pair(), scales), (pair(0.376), scales), (right, {})):
        with pytest.raises(Differs):
            quantize(None, after=after, layout=None, **declared)
    with pytest.raises(Differs):
        quantize(None, after=pair(zero=4), layout=None)
    dq = rules(pair(), right, None, **scales)
    assert dq(right.producer["d"], pair().producer["d"], None) is None
    with pytest.raises(Differs):
        rules(pair(), pair(), None, **scales)(pair().producer["d"], pair().producer["d"], None)


def test_copies_of_one_grid_go_through_a_second_quantizer_of_the_same() -> None:
    wide = quantize(RIGHT)
    assert wide is not None and wide.grid is not None
    arrived = replace(wide, integer=False)
    assert quantize(arrived) is not None
    near = replace(wide.grid, scale=wide.grid.scale * (1 + 3e-6))  # a thousandth of a step over 255 of them
    assert quantize(replace(arrived, grid=near)) is not None
    for form in (
        replace(arrived, integer=True),
        replace(arrived, origin=ORIGIN[::-1]),
        replace(arrived, grid=None),
        replace(arrived, grid=replace(wide.grid, scale=wide.grid.scale * (1 + 5e-6))),
        replace(arrived, grid=replace(wide.grid, qmax=127)),
        replace(arrived, grid=replace(wide.grid, zero_point=np.asarray(0))),
    ):
        with pytest.raises(Differs):
            quantize(form)


def test_copies_are_dequantized_with_their_parameters() -> None:
    g = pair()
    wide = quantize(RIGHT)
    assert wide is not None
    check = rules(g, g)
    found = check(g.producer["d"], g.producer["d"], Value("q", wide))
    assert found is not None and not found.integer and found.same(wide)
    with pytest.raises(Differs, match="something else than the integers"):
        check(g.producer["d"], g.producer["d"], Value("q", replace(wide, integer=False)))
    other = graph(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t z", "d")],
        {"s": np.float32(STEP), "t": np.float32(2 * STEP), "z": np.uint8(ZERO)},
    )
    with pytest.raises(Differs, match="other parameters than theirs"):
        rules(other, other)(other.producer["d"], other.producer["d"], Value("q", wide))


def test_steps_per_channel_are_dequantized_along_the_copies() -> None:
    scale = np.asarray([0.5, 0.25, 2], np.float32)
    layout = Layout(1, ORIGIN[:5], LEVEL[:5], 3)
    before, after = pair(scale, np.zeros(3)), pair(scale[ORIGIN[:5]], np.zeros(5))
    wide = Wide(1, layout.origin, layout.level, 3, integer=True)
    check = rules(before, after, layout)
    found = check(after.producer["d"], before.producer["d"], Value("q", wide))
    assert found is not None and not found.integer
    with pytest.raises(Differs, match="another axis"):
        check(after.producer["d"], before.producer["d"], Value("q", replace(wide, axis=2)))
    with pytest.raises(Differs):
        rules(before, before, layout)(before.producer["d"], before.producer["d"], Value("q", wide))


def test_an_integer_clip_is_the_quantizer_s_range() -> None:
    bounds = {"lo": np.uint8(0), "hi": np.uint8(15)}
    layout = Layout(1, np.asarray([0, 1, 2, 1]), np.asarray([0, 0, 0, 1]), 3)
    g = pair(zero=0, behind="q lo hi", **bounds)
    top = 15 * STEP
    form = Shifted(1, 2, layout.origin, layout.level * top, np.ones(4), layout.level)
    wide = quantize(form, g, layout=layout)
    assert wide is not None and wide.grid is not None and wide.grid.qmax == 15
    check = rules(g, g, layout)
    assert check.clip(g.producer["c"], g.producer["c"], wide) is wide
    with pytest.raises(Differs, match="another range"):
        check.clip(g.producer["c"], g.producer["c"], replace(wide, grid=replace(wide.grid, qmax=255)))
    narrower = pair(zero=0, behind="q lo hi", **{**bounds, "hi": np.uint8(14)})
    with pytest.raises(Differs, match="does not hold"):
        rules(g, narrower, layout).clip(narrower.producer["c"], g.producer["c"], wide)
