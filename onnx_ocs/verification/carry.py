"""Nodes that carry channels and their copies on: what their output holds when their input holds them.

A node keeps copies apart if it treats every channel alike and by itself, and keeps their sum if it is linear, or if all
values lie on one grid on which it is monotone: a channel's copies are then the same monotone functions of its value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.nodes import attribute
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.quantizer import is_idle
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.values import Differs, Wide

__all__ = ["CARRYING", "Carrying", "join"]

CARRYING = frozenset({
    "Identity", "Dropout", "GlobalAveragePool", "AveragePool", "MaxPool", "ReduceMean", "Transpose", "Flatten",
    "Reshape", "Squeeze", "Unsqueeze", "Pad", "Resize", "Upsample", "Mul", "Div",
})  # fmt: skip
ON_INTEGERS = frozenset({"Identity", "MaxPool", "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def spread(wide: Wide, inner: int) -> Wide:
    """Every channel becomes `inner` channels in a row."""
    origin = (wide.origin[:, None] * inner + np.arange(inner)).reshape(-1)
    return replace(wide, origin=origin, level=np.repeat(wide.level, inner), narrow=wide.narrow * inner)


def join(parts: list[Wide | int], axis: int) -> Wide:
    """Channels of several tensors behind each other; an int stands for so many channels without copies."""
    wide = [p for p in parts if isinstance(p, Wide)]
    first = wide[0]
    if any(p.full for p in wide) or any((p.integer, p.halved) != (first.integer, first.halved) for p in wide):
        raise Differs("it joins channels of different kinds")
    origin, level, offset = [], [], 0
    for p in parts:
        count = p if isinstance(p, int) else p.narrow
        origin.append((np.arange(p) if isinstance(p, int) else p.origin) + offset)
        level.append(np.zeros(p, np.int64) if isinstance(p, int) else p.level)
        offset += count
    grid = first.grid
    if grid is None or any(p.grid is None or not p.grid.same_grid(grid) for p in wide):
        grid = None
    return replace(
        first, axis=axis, origin=np.concatenate(origin), level=np.concatenate(level), narrow=offset, grid=grid
    )


class Carrying:
    """The rules, for one original."""

    def __init__(self, constants: Constants, shapes: Mapping[str, Shape]) -> None:
        self.constants, self.shapes = constants, shapes

    def __call__(self, new: NodeProto, old: NodeProto, index: int, wide: Wide) -> Wide:
        """What a node writes that reads a wide tensor at one input; its other inputs are constants.

        Raises:
            Differs: it does not keep the channels, or a constant of it is not what it should be.
        """
        op = old.op_type
        if wide.full:
            raise Differs(f"{op} does not know of the constant that copies of a whole range stand at")
        if wide.integer and wide.grid is not None and op == "Cast" and is_idle(old, wide.grid.dtype):
            return wide  # to the type that the integers have
        if op not in CARRYING or old.domain not in ("", "ai.onnx") or (wide.integer and op not in ON_INTEGERS):
            raise Differs(f"{op} cannot read channels and their copies")
        if wide.sums is not None:
            raise Differs(f"{op} reads channels that are partly added up")
        if index and op not in ("Mul", "Div"):
            raise Differs(f"{op} reads channels and their copies as a parameter")
        edited: dict[int, None] = {index: None}
        rule = getattr(self, f"_{op.lower()}", None)
        out: Wide = wide if rule is None else rule(new, old, index, wide, edited)
        for k, (t, u) in enumerate(zip(new.input, old.input, strict=True)):
            if k not in edited and (t or u):
                self.constants.same(t, u)
        return out

    def _rank(self, old: NodeProto, index: int = 0) -> int | None:
        return len(self.shapes[old.input[index]]) if old.input[index] in self.shapes else None

    def _axis(self, old: NodeProto, wide: Wide) -> tuple[int, int]:
        """The channel axis counted from the front, and the rank."""
        rank = self._rank(old)
        if rank is None:
            raise Differs("the rank of what it reads is not known")
        return wide.axis % rank, rank

    # ---- one rule for each operator ---------------------------------------------------------------------------------

    def _maxpool(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        if wide.grid is None:
            raise Differs("it takes the maximum of copies that no longer lie on one grid")
        return self._pool(old, wide)

    def _averagepool(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        return replace(self._pool(old, wide), grid=None)

    _globalaveragepool = _averagepool

    def _pool(self, old: NodeProto, wide: Wide) -> Wide:
        if wide.axis != 1 or len([o for o in old.output if o]) != 1:
            raise Differs("it pools over the channels, or needs the values themselves")
        return wide

    def _axes(self, old: NodeProto) -> list[int]:
        axes = attribute(old, "axes")
        if len(old.input) > 1 and old.input[1]:
            axes = self.constants.value(self.constants.before, old.input[1]).reshape(-1).tolist()
        if not axes:
            raise Differs("its axes are not known")
        return [int(a) for a in axes]

    def _reducemean(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        axis, rank = self._axis(old, wide)
        axes = [a % rank for a in self._axes(old)]
        if axis in axes:
            raise Differs("it takes the mean over the channels")
        keep = attribute(old, "keepdims", 1)
        return replace(wide, axis=axis if keep else axis - sum(a < axis for a in axes), grid=None)

    def _transpose(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        perm = list(attribute(old, "perm") or range(self._axis(old, wide)[1])[::-1])
        return replace(wide, axis=perm.index(wide.axis % len(perm)))

    def _squeeze(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        axis, rank = self._axis(old, wide)
        axes = [a % rank for a in self._axes(old)]
        if axis in axes:
            raise Differs("it removes the channel axis")
        return replace(wide, axis=axis - sum(a < axis for a in axes))

    def _unsqueeze(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        axis, rank = self._axis(old, wide)
        axes = self._axes(old)
        free = [a for a in range(rank + len(axes)) if a not in {b % (rank + len(axes)) for b in axes}]
        return replace(wide, axis=free[axis])

    def _flatten(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        axis, rank = self._axis(old, wide)
        if int(attribute(old, "axis", 1)) % rank != axis:
            raise Differs("it mixes the channels with other axes")
        return replace(spread(wide, self._inner(old, axis)), axis=1)

    def _inner(self, old: NodeProto, axis: int) -> int:
        """Number of elements behind the channel axis."""
        behind = self.shapes[old.input[0]][axis + 1 :]
        if not all(isinstance(d, int) for d in behind):
            raise Differs("the dimensions behind the channels are not known")
        return math.prod(int(d or 0) for d in behind)

    def _reshape(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        """Row-major: the channels stay together where as many elements lie behind them, or are merged into them."""
        axis, _ = self._axis(old, wide)
        inner, shape = self._inner(old, axis), self.shapes.get(old.output[0])
        if shape is None:
            raise Differs("the shape that it writes is not known")
        out: Wide | None = None
        rest = 1
        for k in reversed(range(len(shape))):
            d = shape[k]
            if not isinstance(d, int):
                break
            if rest == inner and d == wide.narrow:
                out = replace(wide, axis=k)
            elif rest == 1 and k == len(shape) - 1 and d == wide.narrow * inner:
                out = replace(spread(wide, inner), axis=k)
            if out is not None or d == 0 or rest >= inner:
                break
            rest *= d
        if out is None:
            raise Differs("it does not keep the channels together")
        edited[1] = None
        target = self.constants.value(self.constants.before, old.input[1])
        copied = not attribute(old, "allowzero", 0)
        for k, d in enumerate(target):
            if d == 0 and copied and (k == axis) != (k == out.axis):
                raise Differs("it takes the number of channels for another dimension's")
        if target[out.axis] > 0:
            target = target.copy()
            target[out.axis] = out.origin.size
            self.constants.equal(new.input[1], target)
        else:
            self.constants.same(new.input[1], old.input[1])
        return out

    def _pad(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        constants, given = self.constants, len(old.input)
        mode = attribute(old, "mode", b"constant")
        pads = attribute(old, "pads") if given < 2 else constants.value(constants.before, old.input[1])
        value: Any = attribute(old, "value", 0.0)
        if given > 2 and old.input[2]:
            value = constants.value(constants.before, old.input[2])
        if pads is None or (given > 3 and old.input[3]) or (mode == b"constant" and np.any(value)):
            raise Differs("it pads with something else than zeros")
        pads = np.asarray(pads).reshape(-1)
        half = pads.size // 2
        axis = wide.axis % half
        if pads[axis] or pads[axis + half]:
            raise Differs("it pads the channels")
        return wide

    def _resize(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        axis, _ = self._axis(old, wide)
        if attribute(old, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize" or attribute(old, "axes"):
            raise Differs("this kind of resize does not keep the channels")
        constants = self.constants
        if old.op_type == "Resize" and len(old.input) > 3 and old.input[3]:
            sizes = constants.value(constants.before, old.input[3]).copy()
            if sizes[axis] != wide.narrow:
                raise Differs("it resizes the channels")
            sizes[axis] = wide.origin.size
            constants.equal(new.input[3], sizes)
            edited[3] = None
        else:
            k = 2 if old.op_type == "Resize" and len(old.input) > 2 else 1
            if constants.value(constants.before, old.input[k])[axis] != 1:
                raise Differs("it resizes the channels")
        return wide if attribute(old, "mode", b"nearest") == b"nearest" else replace(wide, grid=None)

    _upsample = _resize

    def _mul(self, new: NodeProto, old: NodeProto, index: int, wide: Wide, edited: dict[int, None]) -> Wide:
        c = self.constants.value(self.constants.before, old.input[1 - index])
        if c.size != 1 or c.ndim > (self._rank(old, index) or 1) or (old.op_type == "Div" and index):
            raise Differs("it does not multiply all channels with one number")
        factor = float(c.reshape(()))
        if not 0 < factor < np.inf:
            raise Differs("it changes the sign of the copies")
        factor = 1 / factor if old.op_type == "Div" else factor
        return replace(wide, grid=None if wide.grid is None else replace(wide.grid, scale=wide.grid.scale * factor))

    _div = _mul
