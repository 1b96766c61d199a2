"""Conv, ConvTranspose, Gemm and MatMul: what becomes of weight and bias when channels have copies.

input wide            w'[:, j] = w[:, origin[j]]                                     the copies add up by themselves
depthwise             every copy is filtered like its channel, the bias stays with the base
output made early     w'[j] = w[origin[j]],  b'[j] = b[origin[j]] - level[j] * X_clip
halved (OCS)          the rows' steps, and the bias, times 1/2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.model.shapes import Shape
from onnx_ocs.probes.rescaled import Followed, Steps
from onnx_ocs.qdq.bias import Bias, read_bias
from onnx_ocs.qdq.weights import Weight, read_weight
from onnx_ocs.verification.bytewise import attributes
from onnx_ocs.verification.constants import Constants, Edit
from onnx_ocs.verification.resting import taken_out
from onnx_ocs.verification.values import Differs, Layout, Shifted, Wide

__all__ = ["Demand", "Layers", "output_axis"]


@dataclass(frozen=True, eq=False)
class Demand:
    """Channels that a layer, or a node with constants behind it, must write for a quantizer of copies.

    Attributes:
        layout: the channels.
        amount: what must be subtracted from each, float64 (W,).
        here: whether this node subtracts it; otherwise it repeats channels only.
    """

    layout: Layout
    amount: Array
    here: bool

    @property
    def shift(self) -> Array:
        """What this node subtracts, float64 (W,)."""
        return self.amount if self.here else np.zeros_like(self.amount)

    @property
    def factor(self) -> Array:
        """What the channels are multiplied by, float64 (W,)."""
        if not self.layout.halved:
            return np.ones(self.layout.origin.size)
        count = np.bincount(self.layout.origin, minlength=self.layout.narrow)
        return 1 / count[self.layout.origin].astype(np.float64)

    def rows(self, axis: int, behind: int) -> Shifted:
        """What the node writes."""
        plain = Shifted.of(axis, behind, self.layout.origin)
        return replace(plain, shift=self.shift, factor=self.factor)


def _axes(node: NodeProto, rank: int) -> tuple[int, int]:
    """A weight's input and output axis."""
    if node.op_type == "Conv":
        return 1, 0
    if node.op_type == "ConvTranspose":
        return 0, 1
    if node.op_type == "Gemm":
        return (1, 0) if attribute(node, "transB", 0) else (0, 1)
    return rank - 2, rank - 1


def output_axis(node: NodeProto) -> int:
    """The channel axis of what a layer writes."""
    return 1 if is_op(node, "Conv", "ConvTranspose") else -1


class Layers:
    """The rules, for one pair of models.

    Attributes:
        unfollowed: layers whose integer bias could follow a changed step and stayed what it was.
    """

    def __init__(self, constants: Constants, steps: Steps, shapes: Mapping[str, Shape]) -> None:
        self.constants, self.steps, self.shapes = constants, steps, shapes
        self.unfollowed: set[str] = set()

    def __call__(
        self, new: NodeProto, old: NodeProto, wide: Wide | None, demand: Demand | None
    ) -> Wide | Shifted | None:
        """Compare a layer with the original's and say what it writes.

        Args:
            new: the layer in the rewritten model.
            old: the layer in the original.
            wide: what it reads, where that has copies.
            demand: what it must write for a quantizer.

        Raises:
            Differs: weight, bias or attributes are not what the original and the declarations give.
        """
        weight = read_weight(self.constants.before, old, 1)
        edit, out, rows = Edit(), None, None
        group = int(attribute(new, "group", 1))
        without: tuple[str, ...] = ()
        if wide is not None:
            if weight is None:
                raise Differs("its weight is no constant that can be repeated")
            edit, out = self._inputs(new, old, weight, wide)
            if out is not None:
                rows, without = (out.origin, out.level), ("group",)
                if group != wide.origin.size:
                    raise Differs(f"it has {group} groups for {wide.origin.size} channels and copies")
        if attributes(new, without) != attributes(old, without):
            raise Differs("its attributes are not the original's")
        form: Wide | Shifted | None = out
        if demand is not None:
            if weight is None or attribute(old, "group", 1) != 1:
                raise Differs("its rows cannot be repeated")
            edit = self._outputs(old, weight, edit, demand)
            form = demand.rows(output_axis(old), len(weight.shape) - 2 if is_op(old, "Conv", "ConvTranspose") else 0)
        self._parameters(new, old, edit, rows, demand, wide if wide is not None and wide.full else None)
        return form

    # ---- weights ----------------------------------------------------------------------------------------------------

    def _inputs(self, new: NodeProto, old: NodeProto, weight: Weight, wide: Wide) -> tuple[Edit, Wide | None]:
        rank, shape = len(weight.shape), self.shapes.get(old.input[0])
        axis, _ = _axes(old, rank)
        known = None if shape is None else len(shape)
        if wide.integer or wide.sums is not None:
            raise Differs("it reads integers, or channels that are partly added up")
        reads = 1 if is_op(old, "Conv", "ConvTranspose") else -1
        if is_op(old, "Gemm"):
            reads, known = 0 if attribute(old, "transA", 0) else 1, 2
        if wide.axis != reads and (known is None or wide.axis % known != reads % known):
            raise Differs("the copies lie on another axis than its input channels")
        groups = int(attribute(old, "group", 1)) if is_op(old, "Conv", "ConvTranspose") else 1
        channels = weight.shape[axis] * (groups if is_op(old, "Conv") else 1)
        if channels != wide.narrow:
            raise Differs("it has another number of input channels")
        if groups == 1:
            return Edit(takes={axis: wide.origin}), None
        if int(attribute(new, "group", 1)) != groups:
            if not (is_op(old, "Conv") and groups == channels):
                raise Differs("its groups are not the original's")
            per = weight.shape[0] // groups
            rows = (wide.origin[:, None] * per + np.arange(per)).reshape(-1)
            out = replace(
                wide, axis=1, origin=rows, level=np.repeat(wide.level, per), narrow=weight.shape[0], grid=None
            )
            return Edit(takes={0: rows}), out
        size = wide.narrow // groups
        if wide.origin.size % groups or np.any(wide.origin.reshape(groups, -1) // size != np.arange(groups)[:, None]):
            raise Differs("the copies are not in the groups of their channels")
        if is_op(old, "ConvTranspose"):
            return Edit(takes={0: wide.origin}), None
        return Edit(inside=wide.origin.reshape(groups, -1) - np.arange(groups)[:, None] * size), None

    def _outputs(self, old: NodeProto, weight: Weight, edit: Edit, demand: Demand) -> Edit:
        _, axis = _axes(old, len(weight.shape))
        if weight.shape[axis] != demand.layout.narrow:
            raise Differs("it has another number of output channels")
        edit = replace(edit, takes={**edit.takes, axis: demand.layout.origin})
        return replace(edit, halves=(axis, demand.factor)) if demand.layout.halved else edit

    # ---- biases -----------------------------------------------------------------------------------------------------

    def _parameters(
        self,
        new: NodeProto,
        old: NodeProto,
        edit: Edit,
        rows: tuple[Array, Array] | None,
        demand: Demand | None,
        full: Wide | None,
    ) -> None:
        """Weight and bias; where the step of the input has changed, or copies stand elsewhere, the bias follows."""
        followed = self.steps.followed(old)
        changed = [(replace(edit, coarser=f.factors) if np.any(f.factors > 1) else edit, f) for f in followed]
        ways: list[tuple[Edit, Followed | None]] = [*changed]
        if not any(f.required for f in followed):
            ways.append((edit, None))
        problem: Differs | None = None
        for e, f in ways:
            try:
                self.constants.weight(new, old, e)
                self._bias(new, old, f, rows, demand, full)
            except Differs as d:
                problem = problem or d
                continue
            if f is None and followed:
                self.unfollowed.add(old.output[0])
            return
        assert problem is not None
        raise problem

    def _bias(
        self,
        new: NodeProto,
        old: NodeProto,
        followed: Followed | None,
        rows: tuple[Array, Array] | None,
        demand: Demand | None,
        full: Wide | None,
    ) -> None:
        name = new.input[2] if len(new.input) > 2 else ""
        before = old.input[2] if len(old.input) > 2 else ""
        if len(new.input) > 3:
            raise Differs("it has more inputs than a layer has")
        if followed is None and rows is None and demand is None and full is None:
            if before:
                self.constants.same(name, before)
            else:
                self.constants.bias(name, Bias("none", np.zeros(0)))
            return
        if old.op_type == "MatMul":  # its bias, if it has one, is added behind it
            if full is not None:
                raise Differs("a MatMul has no bias that could take the constant of copies")
            if name or (demand is not None and demand.here):
                raise Differs("a MatMul has no bias")
            return
        weight = read_weight(self.constants.before, old, 1)
        assert weight is not None
        groups = int(attribute(old, "group", 1))
        channels = weight.shape[_axes(old, len(weight.shape))[1]] * (groups if old.op_type == "ConvTranspose" else 1)
        base = read_bias(self.constants.before, old, 2, channels) if followed is None else followed.bias
        if base is None:
            raise Differs("its bias is no constant")
        if full is not None:
            base = self._without_rests(old, weight, base, full, followed)
        if demand is not None:
            expected = self._shifted(old, base, demand, weight)
        elif rows is not None:
            expected = [_spread(base, *rows)]
        else:
            expected = [base]
        problems = []
        for bias in expected:
            try:
                self.constants.bias(name, bias)
                return
            except Differs as d:
                problems.append(d)
        raise problems[0]

    def _without_rests(self, old: NodeProto, weight: Weight, base: Bias, full: Wide, followed: Followed | None) -> Bias:
        """The bias of a layer that reads copies of a whole range; where it has none, one of integers is added."""
        if base.kind == "none":
            base = self._zero(old, base.value.size, weight) or base
        factors = np.ones(()) if followed is None else followed.factors
        values = self.constants.value(self.constants.before, old.input[1])
        return taken_out(old, values, weight.quantizer(self.constants.before), base, full, factors)

    def _shifted(self, old: NodeProto, base: Bias, demand: Demand, weight: Weight) -> list[Bias]:
        """The bias of a layer that makes copies; where the original has none, in integers or in float."""
        origin, shift, factor = demand.layout.origin, demand.shift, demand.factor
        if is_op(old, "Gemm"):
            shift = shift / float(attribute(old, "beta", 1.0))
        if base.kind == "none":
            if demand.layout.halved or not demand.here:
                return [base]
            zero = self._zero(old, demand.layout.narrow, weight)
            value = np.asarray(np.zeros(origin.size) - shift, np.float32)
            return (
                [Bias("float", value)] if zero is None else [_moved(zero, origin, shift, factor), Bias("float", value)]
            )
        if base.kind == "float":
            value = np.asarray(base.value[origin].astype(np.float64) - shift, base.value.dtype)
            return [replace(base, value=(value * factor).astype(base.value.dtype))]
        return [_moved(base, origin, shift, factor)]

    def _zero(self, old: NodeProto, channels: int, weight: Weight) -> Bias | None:
        """An int32 bias of 0 with the scale s_x * s_w, where input and weight are quantized."""
        sources, w = self.steps.floats.get(old.input[0], ()), weight.quantizer(self.constants.before)
        if w is None or len(sources) != 1 or not sources[0].direct or sources[0].now.scale.size != 1:
            return None
        scale = sources[0].now.scale.astype(np.float32) * w.scale.astype(np.float32)
        return Bias("integer", np.zeros(channels, np.int32), scale.astype(np.float64), np.zeros((), np.int64))


def _moved(base: Bias, origin: Array, shift: Array, factor: Array) -> Bias:
    """Integers repeated and shifted by whole numbers of their steps; halved by halving the steps."""
    assert base.scale is not None
    scale = np.broadcast_to(base.scale, base.value.shape)[origin]
    value = base.value[origin].astype(np.float64) - np.rint(shift / scale)
    lo, hi = integer_range(base.value.dtype)
    if value.min(initial=0) < lo or value.max(initial=0) > hi:
        raise Differs("the shifted bias does not fit its integers")
    kept = base.scale if base.scale.size == 1 else scale * factor
    zero = base.zero_point
    if zero is not None and zero.size > 1:
        zero = zero[origin]
    return replace(base, value=value.astype(base.value.dtype), scale=np.asarray(kept), zero_point=zero)


def _spread(base: Bias, rows: Array, levels: Array) -> Bias:
    """The bias of a depthwise layer: with the base, nothing with the copies."""
    if base.kind == "none":
        return base
    zero = np.zeros(1, np.int64) if base.zero_point is None else base.zero_point
    nothing = np.broadcast_to(zero, base.value.shape)[rows].astype(base.value.dtype)
    value = np.where(levels == 0, base.value[rows], nothing).astype(base.value.dtype)

    def taken(p: Array | None) -> Array | None:
        return p if p is None or p.size == 1 else p[rows]

    return replace(base, value=value, scale=taken(base.scale), zero_point=taken(base.zero_point))
