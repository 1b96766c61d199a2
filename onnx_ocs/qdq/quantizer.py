"""One value object for a quantizer, read from the graph by structure and value.

    x_hat = scale * (clip(round(x / scale) + zero_point, qmin, qmax) - zero_point)

`qmin` and `qmax` are the bounds really in force: those of the integer dtype, or of the integer Clip behind the
QuantizeLinear (the QCDQ dialect).  `x_clip = (qmax - zero_point) * scale` is the largest value that the quantizer can
express (the paper's s * (2^b - 1) is the case zero_point = qmin = 0, eq. 5), `x_low = (zero_point - qmin) * scale`
the size of the smallest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import NodeProto, helper

from onnx_ocs.model.folding import integer_range
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.refusals import Refusal

__all__ = ["Quantizer", "integer_clip", "is_idle", "read_quantizer"]

HANDING_ON = ("Identity", "Clip", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool")
MOST_BETWEEN = 16  # nodes that hand integers on to a DequantizeLinear


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Uniform affine quantizer of one tensor.

    Attributes:
        scale: step in the tensor's units, float64, shape () or (C,).
        zero_point: integer that stands for 0, int64, shape () or (C,).
        axis: channel axis of per-channel parameters (may be negative); None if per tensor.
        dtype: integer storage dtype.
        float_dtype: dtype of the scale, which is that of the float tensor.
        qmin: smallest integer in force.
        qmax: largest integer in force.
    """

    scale: Array
    zero_point: Array
    axis: int | None
    dtype: np.dtype[np.generic]
    float_dtype: np.dtype[np.generic]
    qmin: int
    qmax: int

    @cached_property
    def x_clip(self) -> Array:
        """Largest value that can be expressed, float64, shape () or (C,) (eq. 5)."""
        return np.asarray((self.qmax - self.zero_point) * self.scale)

    @cached_property
    def x_low(self) -> Array:
        """Size of the smallest (most negative) value that can be expressed, float64, shape () or (C,)."""
        return np.asarray((self.zero_point - self.qmin) * self.scale)

    @cached_property
    def rectifies(self) -> bool:
        """Whether it saturates at 0 from below, as a ReLU does."""
        return bool(np.all(self.zero_point == self.qmin))

    def per_channel(self, channels: int) -> tuple[Array, Array]:
        """Scale and zero-point broadcast to shape (channels,)."""
        return np.broadcast_to(self.scale, (channels,)), np.broadcast_to(self.zero_point, (channels,))

    def same_grid(self, other: Quantizer | None) -> bool:
        """Whether two quantizers express exactly the same values (parameters compared by value, not by name)."""
        return other is self or (
            other is not None
            and (self.dtype, self.qmin, self.qmax) == (other.dtype, other.qmin, other.qmax)
            and self.same_parameters(other)
        )

    def same_parameters(self, other: Quantizer) -> bool:
        """Whether scale and zero-point are the same by value, whatever the range of the integers."""
        return other is self or (
            np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)
        )

    @property
    def symmetric(self) -> bool:
        """Whether zero_point is 0 and the integers have a sign, as some runtimes ask for."""
        return self.dtype.name.startswith("int") and not np.any(self.zero_point)


def _parameters(graph: Graph, node: NodeProto) -> Quantizer | Refusal:
    dtype = _read_type(graph, node)
    key = tuple(node.input[1:3]), dtype, *(attribute(node, a) for a in ("axis", "block_size", "output_dtype"))
    if key not in graph.grids:
        found = _grid(graph, node, dtype)
        if isinstance(found, Refusal):
            return found
        graph.grids[key] = found
    known: Quantizer = graph.grids[key]
    return known


def _read_type(graph: Graph, node: NodeProto) -> np.dtype[np.generic] | None:
    """What a DequantizeLinear without a zero-point reads; None where it has one, or that is not known."""
    if node.op_type != "DequantizeLinear" or (len(node.input) > 2 and node.input[2]):
        return None
    tensor = node.input[0] if node.input else ""
    for _ in range(MOST_BETWEEN):
        if tensor in graph.initializers:
            return np.dtype(helper.tensor_dtype_to_np_dtype(graph.initializers[tensor].data_type))
        n = graph.producer.get(tensor)
        if is_op(n, "QuantizeLinear") and n is not None:
            q = _parameters(graph, n)
            return q.dtype if isinstance(q, Quantizer) else None
        if not is_op(n, *HANDING_ON) or n is None:
            break
        tensor = n.input[0]
    if tensor in graph.inputs:
        given = next(i.type.tensor_type.elem_type for i in graph.model.graph.input if i.name == tensor)
        return np.dtype(helper.tensor_dtype_to_np_dtype(given)) if given else None
    value = graph.constant(tensor)
    return None if value is None else value.dtype


def _grid(graph: Graph, node: NodeProto, read: np.dtype[np.generic] | None) -> Quantizer | Refusal:
    scale = graph.constant(node.input[1]) if len(node.input) > 1 else None
    has_zero = len(node.input) > 2 and node.input[2] != ""
    zero = graph.constant(node.input[2]) if has_zero else None
    if scale is None or (has_zero and zero is None):
        return Refusal.of("dynamic_parameters", label(node))
    if attribute(node, "block_size", 0) or (scale.ndim > 1 and scale.size > 1):
        return Refusal("blocked", "a blocked quantizer has no single step along a channel", label(node))
    if zero is not None:
        dtype = zero.dtype
    elif read is not None:
        dtype = read
    elif attribute(node, "output_dtype", 0):
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(attribute(node, "output_dtype")))
    else:
        dtype = np.dtype(np.uint8)
    if dtype.kind not in "iu" and "float" in dtype.name:
        return Refusal("float8", f"{dtype.name} is not a uniform grid: translation by X_clip needs one", label(node))
    if zero is not None and zero.size not in (1, scale.size):
        return Refusal("bad_scale", f"{scale.size} scales and {zero.size} zero-points do not go together", label(node))
    qmin, qmax = integer_range(dtype)
    axis: int | None = int(attribute(node, "axis", 1))
    if scale.size == 1:
        scale, axis = scale.reshape(()), None
    if zero is not None:
        zero = zero.reshape(scale.shape if zero.size == scale.size else ())
    z = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    s = scale.astype(np.float64)
    if not 0 < s.min(initial=1) <= s.max(initial=1) < np.inf:
        return Refusal("bad_scale", "the scale is zero, negative or not finite", label(node))
    z = z if z.shape == s.shape else np.broadcast_to(z, s.shape)
    return Quantizer(s, z, axis, dtype, scale.dtype, qmin, qmax)


def is_idle(node: NodeProto, dtype: np.dtype[np.generic]) -> bool:
    """Whether a node hands integers of a type on as they are: Identity, or a Cast to the type that they have.

    Exporters leave such nodes between a QuantizeLinear and its DequantizeLinear (torch's through TorchScript does).
    """
    if is_op(node, "Cast"):
        return bool(helper.tensor_dtype_to_np_dtype(attribute(node, "to", 0)) == dtype)
    return is_op(node, "Identity")


def integer_clip(graph: Graph, node: NodeProto, quantizer: Quantizer) -> tuple[int, int] | None:
    """Bounds of a Clip on an integer tensor, within those of its dtype; None if they are not constant."""
    bounds = []
    for k, default in ((1, quantizer.qmin), (2, quantizer.qmax)):
        if len(node.input) > k and node.input[k]:
            value = graph.constant(node.input[k])
            if value is None or value.size != 1:
                return None
            bounds.append(int(value.reshape(())))
        else:
            bounds.append(default)
    return max(bounds[0], quantizer.qmin), min(bounds[1], quantizer.qmax)


def read_quantizer(graph: Graph, node: NodeProto) -> Quantizer | Refusal:
    """The quantizer of a QuantizeLinear node (or of a DequantizeLinear, without looking for a Clip).

    Args:
        graph: the graph that the node is in.
        node: a QuantizeLinear or DequantizeLinear of ai.onnx or com.microsoft.

    Returns:
        The quantizer, or why it cannot be read.
    """
    key = id(node)
    if key not in graph.memo:
        graph.memo[key] = _read(graph, node)
    found: Quantizer | Refusal = graph.memo[key]
    return found


def _read(graph: Graph, node: NodeProto) -> Quantizer | Refusal:
    quantizer = _parameters(graph, node)
    if isinstance(quantizer, Refusal) or not is_op(node, "QuantizeLinear"):
        return quantizer
    readers = graph.value_readers(node.output[0])
    if readers and all(is_op(r, "Clip") for r in readers):
        bounds = {integer_clip(graph, r, quantizer) for r in readers}
        found = bounds.pop()
        if not bounds and found is not None and node.output[0] not in graph.outputs:
            q = quantizer
            return Quantizer(q.scale, q.zero_point, q.axis, q.dtype, q.float_dtype, *found)
    return quantizer
