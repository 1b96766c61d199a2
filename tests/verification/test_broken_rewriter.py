"""A rewriter that makes mistakes is found out: each kind of edit is broken inside it, in several ways.

The yardstick shares no code with what is broken here, so no mistake can be in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from branch_nets import image_net, some_branch
from random_plans import random_plan
from step_plans import biased, large_bias, plan_for

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.samples import random_samples
from onnx_ocs.compensation import insert as branch
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import Taken
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.qdq import bias, weights
from onnx_ocs.qdq.bias import Bias
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation import early, rescale, widen
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
    "late": some("residual", Translate(0.5, 2, "late")),
    "late, both sides": both_sides,
    "late, depthwise": some("depthwise", Translate(0.5, 1, "late")),
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


# ---- mistakes -------------------------------------------------------------------------------------------------------


def constants(part: str, change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Constants that the rewriter adds under a name that holds `part` get other values."""

    def patch(m: Patch) -> None:
        add = EditableGraph.add_initializer

        def wrong(self: EditableGraph, name: str, value: Any) -> str:
            if part in name and not isinstance(value, onnx.TensorProto):
                value = value.array() if isinstance(value, Taken) else np.asarray(value)
                value = np.asarray(change(value.copy())).astype(value.dtype)
            return add(self, name, value)

        m.setattr(EditableGraph, "add_initializer", wrong)

    return patch


def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """A function of the rewriter is replaced by another one, made from it."""

    def patch(m: Patch) -> None:
        m.setattr(owner, name, make(getattr(owner, name)))

    return patch


def written(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Other values for every bias that is written."""

    def make(f: Any) -> Any:
        def wrong(graph: Any, node: Any, index: Any, bias: Any, value: Array, positions: Any) -> None:
            f(graph, node, index, bias, np.asarray(change(value)).astype(value.dtype), positions)

        return wrong

    def patch(m: Patch) -> None:
        for owner in (early, rescale, widen):
            m.setattr(owner, "write_bias", make(bias.write_bias))

    return patch


def taken(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Other channels for every weight that is repeated."""

    def wrong(graph: Any, node: Any, index: int, axis: int, positions: Array) -> None:
        weights.edit_weight(graph, node, index, None, axis, change(positions.copy()))

    def patch(m: Patch) -> None:
        for owner in (early, widen):
            m.setattr(owner, "take", wrong)

    return patch


def one(value: Array) -> Array:
    """The last value a little larger."""
    value.reshape(-1)[-1] += 1
    return value


def swapped(value: Array) -> Array:
    value[[-1, 0]] = value[[0, -1]]
    return value


def rolled(value: Array) -> Array:
    return np.roll(value, 1, axis=0)


def repeated(value: Array) -> Array:
    value[-1] = value[0]
    return value


def scaled(by: float) -> Callable[[Array], Array]:
    return lambda value: value * by


def at_first(by: float) -> Callable[[Array], Array]:
    """The first value times a factor."""
    return lambda value: value * np.where(np.arange(value.size) == 0, by, 1.0)


def input_stays(op: str, index: int, ending: str) -> Callable[[Patch], None]:
    """An input of a node is not changed."""

    def patch(m: Patch) -> None:
        set_input = EditableGraph.set_input

        def wrong(self: EditableGraph, node: Any, k: int, tensor: str) -> None:
            if not (node.op_type == op and k == index and tensor.endswith(ending)):
                set_input(self, node, k, tensor)

        m.setattr(EditableGraph, "set_input", wrong)

    return patch


def step_recorded(by: float, which: int) -> Callable[[Patch], None]:
    def make(f: Any) -> Any:
        return lambda node, *steps: f(node, *(s * by if k == which else s for k, s in enumerate(steps)))

    return replaced(rescale, "record_step", make)


def operator(old: str, new: str) -> Callable[[Patch], None]:
    def patch(m: Patch) -> None:
        add = EditableGraph.add_node

        def wrong(self: EditableGraph, op: str, inputs: Any, output: str, domain: str = "", **attributes: Any) -> str:
            return add(self, new if op == old else op, inputs, output, domain, **attributes)

        m.setattr(EditableGraph, "add_node", wrong)

    return patch


def shifted(change: Callable[[Bias, Array, Array], Array]) -> Callable[[Patch], None]:
    return replaced(Bias, "shifted", lambda _: change)


def shift_of(times: float) -> Callable[[Bias, Array, Array], Array]:
    return lambda b, positions, shift: (b.value[positions] + times * shift).astype(np.float32)


def floor_shift(self: Bias, positions: Array, shift: Array) -> Array:
    assert self.scale is not None
    steps = np.floor(shift / np.broadcast_to(self.scale, self.value.shape)[positions])
    return np.asarray(self.value[positions] - steps, self.value.dtype)


def base_alone(self: Any, source: str, target: str, wide: Wide) -> None:
    """Copies are lost where they should be folded back."""
    self.pick(source, np.flatnonzero(wide.level == 0), wide, target)


def picked(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    return replaced(
        widen._Widening,
        "pick",
        lambda f: lambda self, source, where, wide, to: f(self, source, change(where.copy()), wide, to),
    )


def layout_recorded(**changes: Callable[[Array], Array]) -> Callable[[Patch], None]:
    def make(f: Any) -> Any:
        def wrong(node: Any, original: str, wide: Wide) -> None:
            f(node, original, replace(wide, **{k: c(getattr(wide, k).copy()) for k, c in changes.items()}))

        return wrong

    return replaced(widen, "record_layout", make)


def coarse(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    def make(f: Any) -> Any:
        def wrong(*args: Any) -> Any:
            found = f(*args)
            return None if found is None else (found[0], change(found[1].copy()).astype(found[1].dtype), found[2])

        return wrong

    return replaced(weights, "coarsened", make)


def factors(by: float) -> Callable[[Patch], None]:
    return replaced(rescale, "coarsening", lambda f: lambda *args: np.where(f(*args) > 1, f(*args) * by, 1.0))


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
        ("depthwise weights: one is off", constants("conv2_w_wide", one)),
    ],
    "late": [
        ("shift: a little more", constants("_shift", scaled(1.01))),
        ("shift: one is off", constants("_shift", one)),
        ("shift: none", constants("_shift", scaled(0.0))),
        ("copies: of other channels", constants("_up_channels", rolled)),
        ("copies: one twice", constants("_up_channels", repeated)),
        ("weights: one is off", constants("_w_wide", one)),
        ("folded sums: copies are lost", replaced(widen._Widening, "fold", lambda _: base_alone)),
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
    "late, depthwise": [
        ("depthwise bias: another value with the copies", written(lambda b: np.where(b == 0, 0.5, b))),
        ("depthwise bias: in another order", written(rolled)),
        ("depthwise weights: in another order", taken(swapped)),
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


# ---- branches -------------------------------------------------------------------------------------------------------


def branched(m: Patch | None = None, change: Callable[[Patch], None] | None = None) -> tuple[Model, Model]:
    model, block = image_net(zoo.Style(opset=17))
    new = Model()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    if m is not None and change is not None:
        change(m)
    branch.insert(graph, block, some_branch("dense", (0, 1), (8, 8), True), [block.output, str(block.input)], 4)
    graph.commit()
    return model, new


def builder(name: str, change: Callable[..., Any]) -> Callable[[Patch], None]:
    return replaced(branch._Builder, name, lambda f: lambda self, *args: change(f, self, *args))


BRANCHES: dict[str, Callable[[Patch], None]] = {
    "not bounded": builder("clip", lambda f, self, x, low, high, name: x),
    "other bounds": builder("clip", lambda f, self, x, low, high, name: f(self, x, low, 1.1 * high, name)),
    "another function": builder("blt", lambda f, self, x, alpha, name: f(self, x, 1.01 * alpha, name)),
    "another inverse": builder("inverse", lambda f, self, z, beta: f(self, z, 1.01 * beta)),
    "subtracted": operator("Add", "Sub"),
    "weights that are not recorded": replaced(branch, "digest", lambda f: lambda entry, graph: "0" * 64),
}


def test_branches_pass() -> None:
    model, new = branched()
    assert verify(model, new, random_samples(model, 2, 0), 1).verdict == "PASSED"


@pytest.mark.parametrize("what", BRANCHES)
def test_a_mistake_in_a_branch_is_found(what: str, monkeypatch: Patch) -> None:
    with monkeypatch.context() as m:
        model, new = branched(m, BRANCHES[what])
    assert verify(model, new, random_samples(model, 2, 0), 1).verdict == "FAILED"


def test_a_branch_takes_nothing_else_along(monkeypatch: Patch) -> None:
    """Where a pass changes a bias in passing, it does not pass for a part of the branch."""
    model, new = branched()
    conv = next(
        n for n in new.graph.node if n.op_type == "Conv" and n.name and n.name in {m.name for m in model.graph.node}
    )
    t = next(t for t in new.graph.initializer if t.name in conv.input[1:] or t.name.startswith("conv1"))
    value = onnx.numpy_helper.to_array(t).copy()
    value.reshape(-1)[0] += 1
    t.CopyFrom(onnx.numpy_helper.from_array(value, t.name))
    assert verify(model, new, random_samples(model, 2, 0), 1).verdict == "FAILED"
