"""A rewriter that makes mistakes is found out: each kind of edit is broken inside it, in several ways.

The yardstick shares no code with what is broken here, so no mistake can be in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import linear_outputs as nets
import numpy as np
import onnx
import pytest
import streams
import zoo
from mistakes import (
    at_first,
    base_alone,
    bases_alone,
    coarse,
    constants,
    factors,
    floor_shift,
    input_stays,
    integers_leave,
    joined,
    layout_recorded,
    mislabelled,
    one,
    operator,
    picked,
    quantized_apart,
    repeated,
    replaced,
    rolled,
    scaled,
    shift_of,
    shifted,
    step_recorded,
    swapped,
    taken,
    written,
)
from random_plans import random_plan
from step_plans import biased, large_bias, plan_for
from zoo import Style

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation import constant, early, unsigned, widen
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import verify

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto
Patch = pytest.MonkeyPatch


# ---- what is rewritten ----------------------------------------------------------------------------------------------


def steps_and_copies() -> tuple[Model, Any]:
    _, model = biased("residual", dtype="int8")  # uint8 saturates in some CPUs' integer kernels
    plan = plan_for(model, x=(0.5, 1, "late"), relu1=(0.4, 2, "early"), relu2=(0.6, 1, "late"))
    return model, Translate(plan=plan)


def steps_alone() -> tuple[Model, Any]:
    _, model = biased("residual")
    return model, Translate(plan=plan_for(model, x=(0.5, 0, "late"), relu1=(0.4, 0, "late"), relu2=(0.6, 0, "late")))


def overflowing_bias() -> tuple[Model, Any]:
    model = large_bias()
    return model, Translate(plan=plan_for(model, relu1=(1e-3, 0, "late")))


def both_sides() -> tuple[Model, Any]:
    model, _ = zoo.build("int8_residual")
    return model, Translate(plan=random_plan(model, 4))


def leaving() -> tuple[Model, Any]:
    """Signed integers that somebody else reads, too, so that they keep their sign."""
    return integers_leave(zoo.build("int8")[0], "relu1_q"), Translate(0.5, 2, "late")


def whole_ranges() -> tuple[Model, Any]:
    """A linear output that a layer and a sum read."""
    return nets.net(nets.shortcut, Style(bias="int32"))[0], Translate(1.0, 2, "early")


def folded_only() -> tuple[Model, Any]:
    """Copies on both sides of a tensor that no layer reads: folded back for all."""
    model = streams.residual_stream()
    return model, Translate(plan=random_plan(model, 3, folds=True))


def some(name: str, p: Any) -> Callable[[], tuple[Model, Any]]:
    def make() -> tuple[Model, Any]:
        return zoo.build(name)[0], p

    return make


SUBJECTS: dict[str, Callable[[], tuple[Model, Any]]] = {
    "steps": steps_alone,
    "steps and copies": steps_and_copies,
    "coarser weights": overflowing_bias,
    "early": some("conv_relu_conv", Translate(0.5, 2, "early")),
    "early, int32 bias": some("bias_int32", Translate(0.5, 2, "early")),
    "early, no bias": some("bias_none", Translate(0.5, 2, "early")),
    "early, per channel": some("depthwise_per_channel", Translate(1, 1, "early")),
    "early, whole ranges": whole_ranges,
    "late": some("residual", Translate(0.5, 2, "late")),
    "late, both sides": both_sides,
    "late, folded only": folded_only,
    "late, depthwise": some("depthwise", Translate(0.5, 1, "late")),
    "late, joined": leaving,
    "late, unsigned": some("int8", Translate(0.5, 2, "late")),
    "late, grouped": some("uint4_grouped", Translate(0.5, 1, "late")),
    "halved early": some("conv_relu_conv", Split(0.5)),
    "halved late": some("residual", Split(0.5, "late")),
}


@cache
def subject(name: str) -> tuple[Model, Any]:
    return SUBJECTS[name]()


def result(name: str) -> tuple[Model, Verification]:
    model, p = subject(name)
    new = rewrite(model, passes=[p], verify=False)
    assert new.changed
    return new.model, verify(model, new.model, random_samples(model, 2, 0), 1)


@cache
def sound(name: str) -> bytes:
    """The rewritten model, which passes while nothing is broken."""
    model, checked = result(name)
    assert checked.verdict == "PASSED", checked.failures
    return bytes(model.SerializeToString(deterministic=True))


def plain(wide: Wide) -> Wide:
    return replace(wide, full=False)


# ---- mistakes -------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, list[tuple[str, Callable[[Patch], None]]]] = {
    "steps": [
        ("step: not the one declared", constants("relu1_scale_rescaled", scaled(1.05))),
        ("step: declared wrongly", step_recorded(1.01, 1)),
        ("step: the one before declared wrongly", step_recorded(1.01, 0)),
        ("step: the DQ keeps its own", input_stays("DequantizeLinear", 1, "_scale_rescaled")),
        ("step: the Q keeps its own", input_stays("QuantizeLinear", 1, "_scale_rescaled")),
        ("bias: 3 b + 1000", written(lambda b: 3 * b + 1000)),
        ("bias: one more", written(one)),
        ("bias: does not follow", input_stays("Conv", 2, "_wide")),
        ("bias: in another order", written(rolled)),
        (
            "bias scale: one is off",
            constants("_b_scale_wide_rescaled", at_first(1.1)),
        ),
    ],
    "steps and copies": [
        ("step: not the one declared", constants("relu1_scale_rescaled", scaled(0.95))),
        ("bias: 3 b + 1000", written(lambda b: 3 * b + 1000)),
        ("bias: one less", written(lambda b: b - 1)),
        ("shift: of the old step", constants("_shift", scaled(2.0))),
    ],
    "coarser weights": [
        ("narrow weights: one is off", coarse(one)),
        ("narrow weights: zeros", coarse(lambda w: w * 0)),
        ("narrow weights: in another order", coarse(swapped)),
        ("narrow weights: rounded down", coarse(lambda w: w - 1)),
        ("narrow weights: another power of two", factors(2.0)),
        ("narrow weights: no power of two", factors(1.5)),
    ],
    "early": [
        ("copies: two change places", taken(swapped)),
        ("copies: one is another's", taken(repeated)),
        ("copies: all one further", taken(rolled)),
        ("bias: 3 b + 1000", written(lambda b: 3 * b + 1000)),
        ("bias: not shifted", shifted(lambda b, positions, shift: b.value[positions])),
        ("shift: upwards", shifted(shift_of(1.0))),
        (
            "shift: a little more",
            shifted(shift_of(-1.001)),
        ),
        ("weights: one is off", constants("_w_wide", one)),
        ("weights: in another order", constants("_w_wide", rolled)),
        ("weights: their steps are not repeated", constants("_w_scale_wide", rolled)),
        ("layout: levels", layout_recorded(level=rolled)),
        ("layout: origins", layout_recorded(origin=swapped)),
        ("layout: levels and origins", layout_recorded(level=rolled, origin=rolled)),
    ],
    "early, int32 bias": [
        ("bias: 3 b + 1000", written(lambda b: 3 * b + 1000)),
        ("bias: one more", written(one)),
        ("shift: rounded down", shifted(floor_shift)),
        ("bias scale: in another order", constants("_scale_wide", rolled)),
    ],
    "early, no bias": [
        ("bias: added with another value", constants("bias", lambda b: b * 2)),
        ("bias: added in another order", constants("bias", rolled)),
        ("bias: one is off", constants("bias", one)),
    ],
    "early, per channel": [
        ("zero point: one more", constants("zero_wide", one)),
        ("zero point: in another order", constants("relu1_scale_wide", rolled)),
        ("steps per channel: one is off", constants("relu1_scale_wide", scaled(1.01))),
        ("depthwise: the copies are lost", replaced(widen, "fold", lambda _: base_alone)),
    ],
    "early, whole ranges": [
        ("constant: not taken out", replaced(widen, "take_out", lambda _: lambda *_: None)),
        ("constant: one is off", replaced(constant, "constant_of", lambda f: lambda *a: one(f(*a)))),
        ("constant: added", replaced(constant, "constant_of", lambda f: lambda *a: -f(*a))),
        ("constant: a little more in the sum", constants("_rest", scaled(1.001))),
        ("constant: another one in the sum", constants("_rest", lambda v: v + 0.5)),
        ("constant: added in the sum", operator("Sub", "Add")),
        ("shift: of X_clip", replaced(early, "shift_of", lambda f: lambda r, w: f(r, replace(w, full=False)))),
        ("shift: upwards", replaced(early, "shift_of", lambda f: lambda r, w: -f(r, w))),
        ("layout: not of whole ranges", replaced(widen, "record_layout", lambda f: lambda n, o, w: f(n, o, plain(w)))),
        ("layout: levels", layout_recorded(level=lambda v: -v)),
    ],
    "late": [
        ("shift: a little more", constants("_shift", scaled(1.01))),
        ("shift: one is off", constants("_shift", one)),
        ("shift: none", constants("_shift", scaled(0.0))),
        ("copies: of other channels", constants("_up_outliers_channels", rolled)),
        ("copies: one twice", constants("_up_outliers_channels", repeated)),
        ("weights: one is off", constants("_w_wide", one)),
        ("folded sums: copies are lost", replaced(widen, "fold", lambda _: base_alone)),
        ("folded sums: in another order", picked(swapped)),
        ("folded sums: one channel twice", picked(repeated)),
        ("folded sums: subtracted", operator("Add", "Sub")),
    ],
    "late, both sides": [
        ("copies: not rectified", operator("Relu", "Identity")),
        ("copies: below, cut at 1", constants("_low_zero", lambda z: z + 1)),
        ("copies: below, the larger one", operator("Min", "Max")),
        ("shift: upper and lower alike", constants("_low_shift", lambda s: -s)),
        ("folded sums: all one further", picked(rolled)),
        ("shift: below, one is off", constants("_low_shift", one)),
    ],
    "late, folded only": [
        ("copies: below, cut at 1", constants("_low_zero", lambda z: z + 1)),
        ("shift: a little more", constants("_shift", scaled(1.01))),
        ("folded sums: copies are lost", replaced(widen, "fold", lambda _: base_alone)),
        ("folded sums: in another order", picked(swapped)),
        ("folded sums: one channel twice", picked(repeated)),
        ("folded sums: subtracted", operator("Add", "Sub")),
        ("layout: levels", layout_recorded(level=rolled)),
        ("layout: origins", layout_recorded(origin=swapped)),
    ],
    "late, depthwise": [
        ("depthwise: the copies are lost", replaced(widen, "fold", lambda _: base_alone)),
        ("depthwise: reads the sums in another order", picked(swapped)),
        ("depthwise: the copies are subtracted", operator("Add", "Sub")),
    ],
    "late, joined": [
        ("parts: quantized with another step", quantized_apart(1, scaled(1.01))),
        ("parts: quantized with another zero point", quantized_apart(2, one)),
        ("parts: joined in another order", joined(lambda names: names[::-1])),
        ("parts: the bases stand for the copies", joined(lambda names: [names[0]] * len(names))),
        ("parts: the layout is another node's", layout_recorded(level=lambda v: -v)),
        ("parts: a reader takes the bases alone", bases_alone),
    ],
    "late, unsigned": [
        ("unsigned: another offset", replaced(unsigned, "OFFSET", lambda _: 127)),
        ("unsigned: one zero point is off", constants("_zero_unsigned", one)),
        ("unsigned: not declared", replaced(unsigned, "record_unsigned", lambda _: lambda _: None)),
        ("unsigned: declared of another", replaced(unsigned, "record_unsigned", lambda f: lambda n: mislabelled(f, n))),
    ],
    "late, grouped": [
        ("grouped weights: in another order", constants("_w_wide", lambda w: np.roll(w, 1, axis=1))),
        ("grouped weights: groups change places", constants("_w_wide", rolled)),
        ("grouped channels: another order", constants("_channels", swapped)),
    ],
    "halved early": [
        ("halves: steps of the weights not halved", constants("_w_scale", scaled(2.0))),
        ("halves: one step is off", constants("_w_scale", at_first(1.01))),
        ("halves: quarters", replaced(Wide, "units", lambda f: lambda self: 1 + 3 * (f(self) - 1))),
        ("halves: the bias is not halved", written(lambda b: 2 * b)),
    ],
    "halved late": [
        ("halves: all a little more", constants("_factor", scaled(1.01))),
        ("halves: of other channels", constants("_factor", rolled)),
        (
            "halves: one is whole",
            constants("_factor", one),
        ),
        ("halves: channels in another order", constants("_channels", swapped)),
        ("folded sums: subtracted", operator("Add", "Sub")),
    ],
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_is_broken(name: str) -> None:
    sound(name)


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, found in MISTAKES.items() for what, _ in found])
def test_a_mistake_is_found(name: str, what: str, monkeypatch: Patch) -> None:
    right = sound(name)
    with monkeypatch.context() as m:
        dict(MISTAKES[name])[what](m)
        model, _ = subject(name)
        new = rewrite(model, passes=[subject(name)[1]], verify=False).model
    assert new.SerializeToString(deterministic=True) != right, "nothing was broken"
    checked = verify(model, new, random_samples(model, 2, 0), 1)
    assert checked.verdict == "FAILED"
    assert all(isinstance(why, str) and why for why in checked.failures)
