"""Nodes that a rewrite adds: copies made in front of a quantizer, and copies folded back onto their channels.

Only what they hold counts, not what they are made of: gathered, shifted, rectified, joined or added up rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.nodes import Array, attribute
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.values import Differs, Layout, Shifted, Value, Wide, concat

__all__ = ["construct"]

UNDECLARED = "it is not the original's, and nothing declares it"
KNOWN = {"Gather": ("axis",), "Concat": ("axis",), "Sub": (), "Relu": (), "Min": (), "Mul": (), "Add": ()}


def construct(
    new: NodeProto,
    values: Sequence[Value | None],
    constants: Constants,
    behind: Callable[[str, int], int],
    quantized: Mapping[str, Layout],
) -> Value:
    """What an added node writes.

    Args:
        new: the node.
        values: of its inputs; None for constants.
        constants: of both models.
        behind: number of axes behind one, of a tensor of the original.
        quantized: the channels of tensors that are quantized with copies.

    Raises:
        Differs: it belongs to no declared construct.
    """
    allowed = KNOWN.get(new.op_type)
    if (
        allowed is None
        or new.domain
        or len(new.output) != 1
        or not values
        or any(a.name not in allowed for a in new.attribute)
    ):
        raise Differs(UNDECLARED)
    first = values[0]
    if first is None:
        raise Differs(UNDECLARED)
    arguments = [constants.value(constants.after, t) for t, v in zip(new.input, values, strict=True) if v is None]
    if new.op_type == "Concat":
        form = _concat(new, values, behind, quantized)
    elif new.op_type == "Add":
        form = _add(values)
    elif new.op_type == "Sub" and isinstance(first.form, Wide) and len(values) == 2 and len(arguments) == 1:
        form = _less(first.form, arguments[0], behind(first.of, first.form.axis))
    else:
        if any(v is not None for v in values[1:]) or len(arguments) != (0 if new.op_type == "Relu" else 1):
            raise Differs(UNDECLARED)
        if new.op_type == "Gather":
            form = _gather(new, first, arguments[0], behind)
        elif isinstance(first.form, Wide) or (first.form is not None and first.form.grid is not None):
            raise Differs(UNDECLARED)
        else:
            form = _arithmetic(new.op_type, first.form or _all(first.of, behind, quantized), arguments)
    if any(v is not None and v.of != first.of for v in values):
        raise Differs("it puts channels of different tensors together")
    return Value(first.of, form)


def _all(of: str, behind: Callable[[str, int], int], quantized: Mapping[str, Layout]) -> Shifted:
    """All channels of a tensor that is quantized with copies."""
    if of not in quantized:
        raise Differs(UNDECLARED)
    layout = quantized[of]
    return Shifted.of(layout.axis, behind(of, layout.axis), np.arange(layout.narrow))


def _gather(new: NodeProto, value: Value, index: Array, behind: Callable[[str, int], int]) -> Wide | Shifted:
    axis = int(attribute(new, "axis", 0))
    if index.ndim != 1 or index.dtype.kind != "i" or index.min(initial=0) < 0:
        raise Differs("it takes channels by no list of them")
    form = value.form
    if form is None:
        return Shifted.of(axis, behind(value.of, axis), index.astype(np.int64))
    if not _same_axis(value.of, axis, form.axis, behind):
        raise Differs("it takes channels along another axis")
    count = form.origin.size if isinstance(form, Shifted) else form.rows().starts.size - 1
    if index.max(initial=0) >= count:
        raise Differs("it takes channels that do not exist")
    return form.take(index) if isinstance(form, Shifted) else replace(form, sums=form.rows().take(index))


def _same_axis(of: str, a: int, b: int, behind: Callable[[str, int], int]) -> bool:
    return a == b or behind(of, a) == behind(of, b)


def _arithmetic(op: str, form: Shifted, arguments: list[Array]) -> Shifted:
    if op == "Relu":
        if form.side.any():
            raise Differs(UNDECLARED)
        return replace(form, side=np.ones_like(form.side))
    constant = form.per_row(arguments[0])
    if form.side.any():
        raise Differs(UNDECLARED)
    if op == "Min":
        if constant.any():
            raise Differs("copies on the lower side end at another value than 0")
        return replace(form, side=np.full_like(form.side, -1))
    if op == "Sub":
        return replace(form, shift=form.shift + constant)
    if form.shift.any():
        raise Differs(UNDECLARED)
    return replace(form, factor=form.factor * constant)


def _concat(
    new: NodeProto, values: Sequence[Value | None], behind: Callable[[str, int], int], quantized: Mapping[str, Layout]
) -> Wide | Shifted:
    axis = int(attribute(new, "axis", 0))
    wide: list[Wide] = []
    rows: Shifted | None = None
    for v in values:
        if v is None or (v.form is not None and not _same_axis(v.of, axis, v.form.axis, behind)):
            raise Differs("it joins channels with something else")
        if isinstance(v.form, Wide):
            wide.append(v.form)
            continue
        part = v.form or _all(v.of, behind, quantized)
        if not _same_axis(v.of, axis, part.axis, behind):
            raise Differs("it joins channels along another axis")
        rows = part if rows is None else rows.join(part)
    if wide and rows is None:
        return concat(wide)
    if wide or rows is None:
        raise Differs("it joins channels of different kinds")
    return rows


def _less(form: Wide, constant: Array, behind: int) -> Wide:
    """Copies of a whole range, less a constant: whether it is the one at which they stand shows in their sum."""
    if not form.full or form.integer:
        raise Differs(UNDECLARED)
    rows = form.rows()
    count = rows.less.size
    less = Shifted.of(form.axis, behind, np.arange(count)).per_row(constant)
    return replace(form, sums=replace(rows, less=rows.less + less))


def _add(values: Sequence[Value | None]) -> Wide:
    forms = [v.form for v in values if v is not None and isinstance(v.form, Wide)]
    if len(forms) != 2 or len(values) != 2:
        raise Differs(UNDECLARED)
    a, b = forms
    if not a.same(b) or a.axis != b.axis or a.integer or b.integer:
        raise Differs("it adds up channels of different tensors")
    return replace(a, sums=a.rows().add(b.rows()))
