"""Quantizers, DequantizeLinears and integer Clips: parameters, and whether copies are right in front of them.

All may lie in front of one quantizer, or the copies in front of others like it, and the integers be joined behind them.
Copy i of a channel must be Q(relu(a - i * X_clip)) on the upper side, Q(min(a + i * X_low, 0)) on the lower one, and
half of the value where channels are halved; then base and copies add up to a quantizer with more levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.model.shapes import Shape
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.verification.bytewise import attributes
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.declared import Declared
from onnx_ocs.verification.values import Differs, Layout, Shifted, Value, Wide

__all__ = ["Quantizers"]

SLACK = 2e-6  # relative, of a Clip's bound
CLEAR = 1e-3  # share of a step, over the whole range, by which two grids may differ


class Quantizers:
    """The rules, for one pair of models."""

    def __init__(self, constants: Constants, declared: Declared, steps: Steps, shapes: Mapping[str, Shape]) -> None:
        self.constants, self.declared, self.steps, self.shapes = constants, declared, steps, shapes

    def __call__(self, new: NodeProto, old: NodeProto, value: Value | None) -> Wide | None:
        """Compare a QuantizeLinear or DequantizeLinear and say what it writes.

        Args:
            new: the node in the rewritten model.
            old: the node in the original.
            value: what it reads.

        Raises:
            Differs: it is not what the original and the declarations give.
        """
        form = None if value is None else value.form
        if is_op(old, "DequantizeLinear"):
            return self._dequantize(new, old, form)
        return self._quantize(new, old, form)

    def _parameters(self, new: NodeProto, old: NodeProto, origin: Array | None) -> None:
        """Scale and zero-point, with the declared step, repeated for the copies."""
        scale = self.steps.parameters.get(old.output[0])
        for p in range(1, len(old.input)):
            if not (new.input[p] or old.input[p]):
                continue
            if not self.constants.before.is_constant(old.input[p]):
                raise Differs("its parameters are computed at run time")
            expected = self.constants.value(self.constants.before, old.input[p])
            expected = scale if p == 1 and scale is not None else expected
            if origin is not None and expected.size > 1:
                self.constants.equal(new.input[p], expected[origin])
            elif p == 1 and scale is not None:
                self.constants.equal(new.input[p], expected)
            else:
                self.constants.same(new.input[p], old.input[p])

    def _axis(self, old: NodeProto, axis: int) -> int:
        """An axis counted from the end, where the rank is known."""
        shape = self.shapes.get(old.input[0])
        return axis if shape is None or axis < 0 else axis - len(shape)

    # ---- QuantizeLinear ---------------------------------------------------------------------------------------------

    def _quantize(self, new: NodeProto, old: NodeProto, form: Wide | Shifted | None) -> Wide | None:
        name, layout = self.declared.layouts.get(old.output[0], ("", None))
        if layout is None:
            if form is not None:
                raise Differs("it quantizes copies that it does not declare")
            if old.output[0] in self.steps.integers:
                self._parameters(new, old, None)
            else:
                self._as_it_was(new, old)
            return None
        if old.output[0] in self.declared.parted.values():  # the bases, as in the original
            if form is not None:
                raise Differs("it quantizes copies together with the bases, and declares them apart")
            self._parameters(new, old, None)
            return None
        if name != new.output[0]:
            raise Differs(f"the layout of '{old.output[0]}' is declared by another node")
        self._parameters(new, old, layout.origin)
        if isinstance(form, Shifted) and form.grid is not None:
            raise Differs("it quantizes integers")
        return self._fits(old, form, layout)

    def _fits(self, old: NodeProto, form: Wide | Shifted | None, layout: Layout) -> Wide:
        """What a quantizer with copies writes, if it reads what its layout declares."""
        q = self.steps.integers[old.output[0]].now
        shape = self.shapes.get(old.input[0])
        if (
            shape is not None
            and shape[layout.axis] not in (None, layout.narrow)
            and isinstance(shape[layout.axis], int)
        ):
            raise Differs("its layout has another number of channels than the original")
        if q.axis is not None and self._axis(old, q.axis) != self._axis(old, layout.axis):
            raise Differs("its steps lie along another axis than its copies")
        if form is None:
            raise Differs("it declares copies, and reads none")
        if self._axis(old, form.axis) != self._axis(old, layout.axis):
            raise Differs("its copies lie along another axis than it declares")
        if isinstance(form, Wide):
            self._carries(form, layout, q)
        else:
            self._rows(form, layout, q)
        return Wide(layout.axis, layout.origin, layout.level, layout.narrow, layout.halved, layout.full, True, q)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def part(self, new: NodeProto, value: Value | None) -> Value:
        """What an added QuantizeLinear writes: copies, by the quantizer of their bases.

        Args:
            new: the node.
            value: what it reads.

        Raises:
            Differs: no quantizer that declares its copies apart has these parameters.
        """
        form = None if value is None else value.form
        if value is None or not isinstance(form, Shifted) or form.grid is not None:
            raise Differs("it quantizes something else than copies")
        problem = Differs("it quantizes copies of a tensor for which the file declares none apart")
        for old in self.constants.before.readers(value.of):
            name = old.output[0]
            if name not in self.declared.parted.values() or name not in self.steps.integers:
                continue
            try:
                if (new.domain, len(new.input), attributes(new)) != (old.domain, len(old.input), attributes(old)):
                    raise Differs("it quantizes copies otherwise than their bases are quantized")
                self._parameters(new, old, form.origin)
            except Differs as d:
                problem = d
                continue
            return Value(value.of, replace(form, grid=self.steps.integers[name].now))
        raise problem

    def bases(self, value: Value | None) -> Value | None:
        """Integers of a quantizer whose copies are declared apart, as rows that can be joined with them."""
        if value is None:
            return None
        name = value.of
        if value.form is not None or name not in self.declared.parted.values() or name not in self.steps.integers:
            return value
        old, layout = self.constants.before.producer[name], self.declared.layouts[name][1]
        of = str(old.input[0])
        behind = -1 - layout.axis if layout.axis < 0 else len(self.shapes[of]) - 1 - layout.axis
        rows = Shifted.of(layout.axis, behind, np.arange(layout.narrow))
        return Value(of, replace(rows, grid=self.steps.integers[name].now))

    def joined(self, out: str, value: Value) -> Value:
        """Bases and copies that were quantized one by one, as what one quantizer of all would write.

        Args:
            out: what an added node writes.
            value: what that is; the same where the file does not declare it to be that.

        Raises:
            Differs: they are not what the file declares.
        """
        name = self.declared.parted.get(out)
        if name is None:
            return value
        old, layout = self.constants.before.producer[name], self.declared.layouts[name][1]
        form, source = value.form, self.steps.integers.get(name)
        if value.of != old.input[0] or not isinstance(form, Shifted) or form.grid is None or source is None:
            raise Differs("it declares copies, and joins something else than integers")
        if not form.grid.same_grid(source.now):
            raise Differs("it joins integers on another grid than its quantizer's")
        return Value(name, self._fits(old, form, layout))

    def _as_it_was(self, new: NodeProto, old: NodeProto) -> None:
        for t, u in zip(new.input[1:], old.input[1:], strict=True):
            if self.constants.before.is_constant(u):
                self.constants.same(t, u)
            elif t != u:
                raise Differs("its parameters, computed at run time, are not the original's")

    def _carries(self, form: Wide, layout: Layout, q: Quantizer) -> None:
        """Copies that lie on this grid already stay what they are."""
        g = form.grid
        if form.integer or form.sums is not None or form.full or not form.same(layout):
            raise Differs("it reads other channels than it declares")
        if g is None or (g.dtype, g.qmin, g.qmax) != (q.dtype, q.qmin, q.qmax) or g.scale.shape != q.scale.shape:
            raise Differs("it reads copies that lie on no grid like its own")
        near = np.all(np.abs(q.scale - g.scale) <= CLEAR / (q.qmax - q.qmin) * g.scale)
        if not near or not np.array_equal(g.zero_point, q.zero_point):
            raise Differs("it reads copies on another grid than its own")

    def _rows(self, form: Shifted, layout: Layout, q: Quantizer) -> None:
        """Copies that were made for this quantizer."""
        origin, level = layout.origin, layout.level
        if not np.array_equal(form.origin, origin):
            raise Differs("the channels that it reads are not those that it declares")
        count = np.bincount(origin, minlength=layout.narrow)[origin]
        if layout.halved:
            shift, factor = np.zeros(origin.size), 1 / count.astype(np.float64)
        else:
            x_clip, x_low = (np.broadcast_to(v, (layout.narrow,))[origin] for v in (q.x_clip, q.x_low))
            shift, factor = np.where(level > 0, level * x_clip, level * x_low), np.ones(origin.size)
            if layout.full:
                shift = level * (x_clip + x_low)
        if not np.array_equal(form.shift.astype(q.float_dtype), shift.astype(q.float_dtype)):
            raise Differs("its copies are shifted by something else than multiples of X_clip")
        if not np.array_equal(form.factor, factor):
            raise Differs("its channels are not divided as it declares")
        if layout.full:
            if form.side.any() or form.rectify or not np.isinf(form.ceiling):
                raise Differs("its copies hold whole ranges, and something else acts in front of them")
            return
        up = (level > 0) & (not layout.halved)
        down = (level < 0) & (not layout.halved)
        if np.any(down & (form.side != -1)) or np.any(~down & (form.side == -1)):
            raise Differs("its copies on the lower side do not end at 0")
        if not q.rectifies and (np.any(up & (form.side != 1)) or form.rectify):
            raise Differs("its copies are not rectified, and its zero_point leaves negative values")
        if np.any(~up & (form.side == 1)):
            raise Differs("channels are rectified that are no copies")
        most = float(np.max(count * q.x_clip.max(), initial=0.0))
        if form.ceiling < most * (1 - SLACK):
            raise Differs(f"a Clip at {form.ceiling:g} cuts off what its copies should hold, up to {most:g}")

    # ---- DequantizeLinear, Clip -------------------------------------------------------------------------------------

    def _dequantize(self, new: NodeProto, old: NodeProto, form: Wide | Shifted | None) -> Wide | None:
        if form is None:
            was = read_quantizer(self.constants.before, old)
            if isinstance(was, Quantizer):
                source = self.steps.integers.get(old.input[0])
                parted = old.input[0] in self.declared.parted.values()
                if parted and source is not None and was.same_grid(source.before):
                    raise Differs("it dequantizes the bases without their copies")
                self._parameters(new, old, None)
            else:
                self._as_it_was(new, old)
            return None
        source = self.steps.integers.get(old.input[0])
        if isinstance(form, Shifted):
            raise Differs("it dequantizes channels and copies that are not yet joined")
        if not isinstance(form, Wide) or not form.integer or form.sums is not None or source is None:
            raise Differs("it dequantizes something else than the integers of a quantizer with copies")
        q = read_quantizer(self.constants.before, old)
        if not isinstance(q, Quantizer) or not q.same_parameters(source.before):
            raise Differs("it dequantizes copies with other parameters than theirs")
        if q.axis is not None and (
            q.scale.size != form.narrow or self._axis(old, q.axis) != self._axis(old, form.axis)
        ):
            raise Differs("its steps lie along another axis than the copies")
        self._parameters(new, old, form.origin)
        return replace(form, integer=False)

    def clip(self, new: NodeProto, old: NodeProto, form: Wide) -> Wide:
        """An integer Clip, whose bounds are the quantizer's range."""
        for t, u in zip(new.input[1:], old.input[1:], strict=True):
            if t or u:
                self.constants.same(t, u)
        grid = form.grid
        if grid is None or integer_clip(self.constants.before, old, grid) != (grid.qmin, grid.qmax):
            raise Differs("it clips copies to another range than their quantizer's")
        return form
