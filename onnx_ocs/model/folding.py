"""Values of constant nodes: what the small chains in front of weights and parameters evaluate to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnx_ocs.model.nodes import Array, attribute

__all__ = ["Taken", "fold"]


def fold(n: NodeProto, args: list[Array | None]) -> Array | None:
    """Value of one foldable node; None when its parameters are out of the ordinary."""
    x = args[0]
    if x is None:
        return None
    op = n.op_type
    if op == "Identity":
        return x
    if op == "Cast":
        return x.astype(helper.tensor_dtype_to_np_dtype(attribute(n, "to")))
    if op == "CastLike":
        return x if args[1] is None else x.astype(args[1].dtype)
    if op == "Transpose":
        perm = attribute(n, "perm")
        return np.transpose(x, perm)
    if op == "Reshape" and args[1] is not None:
        shape = [x.shape[k] if d == 0 and not attribute(n, "allowzero", 0) else int(d) for k, d in enumerate(args[1])]
        return x.reshape(shape)
    if op in ("Squeeze", "Unsqueeze"):
        axes = attribute(n, "axes") if len(args) < 2 or args[1] is None else [int(a) for a in args[1]]
        if op == "Squeeze":
            return np.squeeze(x, tuple(axes) if axes else None)
        return np.expand_dims(x, tuple(axes)) if axes is not None else None
    if op == "Clip":
        lo = args[1] if len(args) > 1 else attribute(n, "min")
        hi = args[2] if len(args) > 2 else attribute(n, "max")
        y = x if lo is None else np.maximum(x, lo)
        return np.asarray(y if hi is None else np.minimum(y, hi), x.dtype)
    if op in ("QuantizeLinear", "DequantizeLinear") and args[1] is not None:
        scale, zero = args[1], args[2] if len(args) > 2 else None
        if attribute(n, "block_size", 0) or scale.ndim > 1:
            return None
        if scale.size > 1:
            shape, axis = [1] * x.ndim, attribute(n, "axis", 1)
            if not -x.ndim <= axis < x.ndim or x.shape[axis] != scale.size:
                return None
            shape[axis] = scale.size
            scale = scale.reshape(shape)
        if zero is not None and zero.size not in (1, scale.size):
            return None
        z: Any = 0 if zero is None else zero.astype(np.float64).reshape(scale.shape if zero.size > 1 else ())
        scale = scale if scale.size > 1 else scale.reshape(())
        if op == "DequantizeLinear" and x.dtype.itemsize <= 2 and scale.dtype == np.float32:
            # exact up to the product, whose one rounding is that of float32
            y = x.astype(np.float32)
            if np.any(z):
                y -= np.float32(z)
            return np.asarray(np.multiply(y, scale, out=y, dtype=np.float32))
        if op == "DequantizeLinear":
            return np.asarray((x.astype(np.float64) - z) * scale, scale.dtype)
        output = attribute(n, "output_dtype", 0)
        default = np.dtype(helper.tensor_dtype_to_np_dtype(output) if output else np.uint8)
        dtype = default if zero is None else zero.dtype
        if "float" in dtype.name:
            return None
        lo, hi = integer_range(dtype)
        return np.asarray(np.clip(np.rint(x.astype(np.float32) / scale) + z, lo, hi), dtype)
    return None


@dataclass(frozen=True, eq=False)
class Taken:
    """Positions of a constant along some axes, put together only where the values are to lie in the end.

    Attributes:
        values: the constant.
        positions: for each axis that something is taken along, what.
    """

    values: Array
    positions: Mapping[int, Array]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, which is the constant's."""
        return np.dtype(self.values.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is taken."""
        return tuple(len(self.positions.get(a, range(n))) for a, n in enumerate(self.values.shape))

    def take(self, axis: int, positions: Array) -> Taken:
        """What is taken of what is taken."""
        known = self.positions.get(axis)
        return Taken(self.values, {**self.positions, axis: positions if known is None else known[positions]})

    def array(self) -> Array:
        """The values."""
        found = self.values
        for axis, positions in self.positions.items():
            size = found.shape[axis]
            if np.array_equal(positions[:size], np.arange(size)):  # all, and copies of some: all are copied at once
                found = np.concatenate([found, np.take(found, positions[size:], axis=axis)], axis=axis)
            else:
                found = np.take(found, positions, axis=axis)
        return found


@lru_cache
def integer_range(dtype: Any) -> tuple[int, int]:
    """Smallest and largest value of an integer dtype, the 2- and 4-bit ones of ml_dtypes included."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    bits = int(dtype.name.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
