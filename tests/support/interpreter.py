"""A small interpreter of QDQ graphs in numpy, in float64, with quantizers that may be wide.  Knows nothing of onnx_ocs.

A wide quantizer has `copies` times its upper range more (and `copies_low` times its lower one) in every channel:
k = clip(rint(x / s), -(low + 1) (z - qmin), (copies + 1) (qmax - z)).  Where the copies are `full`, each of them has
the quantizer's whole range: k = clip(rint(x / s), qmin - z - low (qmax - qmin), qmax - z + copies (qmax - qmin)).
Its integers are unbounded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]


@dataclass
class Run:
    """What one run found.

    Attributes:
        values: every tensor.
        ties: quantizers (by their float input) whose exact value lay on a rounding tie for some element.
    """

    values: dict[str, Array]
    ties: set[str] = field(default_factory=set)


def limits(dtype: Any) -> tuple[int, int]:
    name = np.dtype(dtype).name
    bits = int(name.lstrip("uint"))
    return (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def along(values: Array, axis: int, rank: int) -> Array:
    if values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], fill: float
) -> Array:
    """(N, C, *out, *kernel) views of a padded (N, C, *in)."""
    n = len(kernel)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)], constant_values=fill)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, reach, axis=tuple(range(2, 2 + n)))
    step = [slice(None, None, s) for s in strides]
    taps = [slice(None, None, d) for d in dilations]
    return view[(slice(None), slice(None), *step, *taps)]


class Interpreter:
    """One model, and how its quantizers are widened (entries of a report's `regions`)."""

    def __init__(self, model: onnx.ModelProto, regions: Sequence[Mapping[str, Any]] = ()) -> None:
        self.model = model
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.regions = [r for r in regions if r["status"] == "applied"]
        self.opset = next(o.version for o in model.opset_import if not o.domain)

    def run(self, feed: Mapping[str, Array]) -> Run:
        found = Run({**self.constants, **feed})
        self.wide: set[str] = set()
        for node in self.model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [found.values[t] if t else None for t in node.input]
            method = getattr(self, node.op_type.lower())
            found.values[node.output[0]] = method(node, inputs, attributes, found)
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and node.input and node.input[0] in self.wide:
                self.wide.add(node.output[0])
        return found

    # ---- quantizers -------------------------------------------------------------------------------------------------

    def quantizelinear(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], found: Run) -> Array:
        x, scale = np.asarray(inputs[0], np.float64), np.asarray(inputs[1], np.float64)
        zero = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.uint8(0)
        axis = attributes.get("axis", 1)
        lo, hi = limits(zero.dtype)
        copies = low = np.zeros(1, np.int64)
        entry = next(
            (
                r
                for r in self.regions
                if r["tensor"] == node.input[0] and np.array_equal(np.ravel(r["scale_before"]), np.ravel(scale))
            ),
            None,
        )
        if entry is not None:
            lo, hi = entry["qmin"], entry["qmax"]
            copies = np.asarray(entry["copies"] or [0])
            low = np.asarray(entry["copies_low"] or [0])
            scale = np.asarray(entry["scale"], np.float64)
            self.wide.add(node.output[0])
        z = along(zero.astype(np.int64), axis, x.ndim)
        steps = x / along(scale, axis, x.ndim)
        if np.any(steps - np.floor(steps) == 0.5):
            found.ties.add(node.input[0])
        where = axis if entry is None else entry["axis"]
        full = entry is not None and entry.get("full", False)
        up, down = (hi - lo, lo - hi) if full else (hi - z, lo - z)  # by what a copy reaches further
        top = hi - z + along(copies, where, x.ndim) * up
        bottom = lo - z + along(low, where, x.ndim) * down
        return np.asarray(np.clip(np.rint(steps), bottom, top) + z).astype(np.int64)

    def dequantizelinear(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        x, scale = np.asarray(inputs[0]).astype(np.int64), np.asarray(inputs[1], np.float64)
        axis = attributes.get("axis", 1)
        zero = inputs[2].astype(np.int64) if len(inputs) > 2 and inputs[2] is not None else np.int64(0)
        return np.asarray((x - along(np.asarray(zero), axis, x.ndim)) * along(scale, axis, x.ndim))

    def clip(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        if node.input[0] in self.wide:  # its bounds are the quantizer's, which are wide already
            return inputs[0]
        lo = inputs[1] if len(inputs) > 1 else attributes.get("min", -np.inf)
        hi = inputs[2] if len(inputs) > 2 else attributes.get("max", np.inf)
        return np.clip(inputs[0], lo, hi)

    # ---- layers -----------------------------------------------------------------------------------------------------

    def conv(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        x, w = inputs[0], inputs[1].astype(np.float64)
        n, group = w.ndim - 2, attributes.get("group", 1)
        strides, pads = attributes.get("strides", [1] * n), attributes.get("pads", [0] * 2 * n)
        view = windows(x, w.shape[2:], strides, pads, attributes.get("dilations", [1] * n), 0)
        parts = np.split(view, group, axis=1)
        rows = np.split(w, group, axis=0)
        taps = [1, *range(2 + n, 2 + 2 * n)]
        y = [np.moveaxis(np.tensordot(p, r, (taps, range(1, 2 + n))), -1, 1) for p, r in zip(parts, rows, strict=True)]
        return self._biased(np.concatenate(y, axis=1), inputs, 1)

    def convtranspose(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        x, w = inputs[0], inputs[1].astype(np.float64)
        n, group = w.ndim - 2, attributes.get("group", 1)
        strides = attributes.get("strides", [1] * n)
        out = [(s - 1) * t + k for s, t, k in zip(x.shape[2:], strides, w.shape[2:], strict=True)]
        y = np.zeros((x.shape[0], group, w.shape[1], *out))
        per = x.shape[1] // group
        for g in range(group):
            part, rows = x[:, g * per : (g + 1) * per], w[g * per : (g + 1) * per]
            for at in np.ndindex(*w.shape[2:]):
                where = tuple(
                    slice(a, a + (s - 1) * t + 1, t) for a, s, t in zip(at, x.shape[2:], strides, strict=True)
                )
                tap = rows[(slice(None), slice(None), *at)]
                y[(slice(None), g, slice(None), *where)] += np.moveaxis(np.tensordot(part, tap, ([1], [0])), -1, 1)
        y = y.reshape(x.shape[0], -1, *out)
        pads = attributes.get("pads", [0] * 2 * n)
        y = y[(slice(None), slice(None), *(slice(a, s - b) for a, b, s in zip(pads[:n], pads[n:], out, strict=True)))]
        return self._biased(y, inputs, 1)

    def gemm(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        w = inputs[1].astype(np.float64)
        return self._biased(inputs[0] @ (w.T if attributes.get("transB", 0) else w), inputs, 1)

    def _biased(self, y: Array, inputs: list[Any], axis: int) -> Array:
        if len(inputs) < 3 or inputs[2] is None:
            return y
        return y + along(np.asarray(inputs[2], np.float64), axis, y.ndim)

    def matmul(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return inputs[0].astype(np.float64) @ inputs[1].astype(np.float64)

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def add(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.asarray(inputs[0], np.float64) + np.asarray(inputs[1], np.float64)

    def mul(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.asarray(inputs[0], np.float64) * np.asarray(inputs[1], np.float64)

    def div(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.asarray(inputs[0], np.float64) / np.asarray(inputs[1], np.float64)

    def relu(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.maximum(inputs[0], 0)

    def leakyrelu(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.where(inputs[0] >= 0, inputs[0], inputs[0] * np.float64(np.float32(attributes["alpha"])))

    def identity(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.asarray(inputs[0])

    def constant(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return numpy_helper.to_array(attributes["value"])

    def maxpool(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        x, kernel = np.asarray(inputs[0], np.float64), attributes["kernel_shape"]
        n = len(kernel)
        view = windows(
            x, kernel, attributes.get("strides", [1] * n), attributes.get("pads", [0] * 2 * n), [1] * n, -np.inf
        )
        y = view.max(axis=tuple(range(-n, 0)))
        return y.astype(inputs[0].dtype)

    def averagepool(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        kernel = attributes["kernel_shape"]
        n = len(kernel)
        view = windows(inputs[0], kernel, attributes.get("strides", [1] * n), [0] * 2 * n, [1] * n, 0)
        return view.mean(axis=tuple(range(-n, 0)))

    def globalaveragepool(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return inputs[0].mean(axis=tuple(range(2, inputs[0].ndim)), keepdims=True)

    def concat(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.concatenate(inputs, axis=attributes["axis"])

    def transpose(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        return np.transpose(inputs[0], attributes.get("perm"))

    def flatten(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        axis = attributes.get("axis", 1)
        return inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)

    def reshape(self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], _: Run) -> Array:
        shape = [inputs[0].shape[k] if d == 0 else int(d) for k, d in enumerate(inputs[1])]
        return inputs[0].reshape(shape)
