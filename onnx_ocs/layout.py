"""How a widened tensor travels: the rules by which a node reads the copies, carries them on, or has them folded back.

A wide tensor's channel axis holds `origin.size` channels; wide channel j belongs to narrow channel `origin[j]`, and
the narrow value is the sum of all that belong to it:

    narrow[c] = sum over j with origin[j] = c of wide[j]

(with halved channels, OCS, a base and its copy hold half of the value each).
A layer with a constant weight reads it wide: its weight is repeated, w_wide[:, j] = w[:, origin[j]] (OCS+, eq. 10).
What is linear per channel, or keeps the integer grid, carries it on: pooling, Resize, Pad with zeros, Transpose,
Flatten, Reshape that keeps the channels, Concat, a multiplication by a positive constant, a depthwise Conv, a Q/DQ pair
on the same grid.  For every other reader the copies are folded back: gathered and added onto their channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnx_ocs.graph import Array, Graph, attribute, is_op
from onnx_ocs.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.shapes import Shape
from onnx_ocs.weights import read_weight

__all__ = ["NOT_LINEAR", "Route", "Wide", "concat_sizes", "join", "route", "weight_axis"]

NOT_LINEAR = "it is not linear per channel"  # along no axis, that is


@dataclass(frozen=True, eq=False)
class Wide:
    """The channel layout of a widened tensor.

    Attributes:
        axis: channel axis (negative, counted from the end, where the rank is unknown).
        origin: narrow channel of every wide channel, int64.
        level: 0 for a channel's base, +i for its i-th copy on the upper side, -i on the lower side, int64.
        narrow: number of narrow channels.
        grid: the quantizer on whose grid every wide channel lies; None once that is lost.
        integer: whether the tensor holds the integers between a Q and its DQ.
        halved: whether a channel that has a copy shares its value with it, half and half, instead of leaving it what
            lies above X_clip.
        factor: what the tensor's quantizer's values have been multiplied by on the way.
    """

    axis: int
    origin: Array
    level: Array
    narrow: int
    grid: Quantizer | None
    integer: bool = False
    halved: bool = False
    factor: float = 1.0

    def spread(self, inner: int) -> tuple[Array, Array]:
        """Origin and level when every channel becomes `inner` consecutive ones."""
        origin = (self.origin[:, None] * inner + np.arange(inner)).reshape(-1)
        return origin, np.repeat(self.level, inner)

    def units(self) -> Array:
        """By what every narrow channel is divided before it is quantized, int64 (narrow,): a halved one by 2."""
        return 1 + self.copies()[0] * int(self.halved)

    def copies(self) -> tuple[Array, Array]:
        """Copies on the upper and on the lower side of every narrow channel, int64, shape (narrow,)."""
        up = np.bincount(self.origin[self.level > 0], minlength=self.narrow)
        low = np.bincount(self.origin[self.level < 0], minlength=self.narrow)
        return up, low

    def grouped(self, groups: int) -> bool:
        """Whether the wide channels lie in `groups` equal blocks, each holding one block of the narrow channels."""
        if self.origin.size % groups or self.narrow % groups:
            return False
        block = self.origin.reshape(groups, -1) // (self.narrow // groups)
        return bool(np.all(block == np.arange(groups)[:, None]))


Kind = Literal["weight", "grouped", "depthwise", "carry", "fold"]


@dataclass(frozen=True)
class Route:
    """What one reader does with a wide input.

    Attributes:
        kind: "weight" (dense layer), "grouped" (equal copies in every group), "depthwise" (carried through, summed
            afterwards), "carry", or "fold".
        output: layout of the node's output when it stays wide.
        axis: for "weight": the weight's input-channel axis.
        why: for "fold": why the node cannot read the copies.
    """

    kind: Kind
    output: Wide | None = None
    axis: int = 0
    why: str = ""


def _fold(why: str) -> Route:
    return Route("fold", why=why)


def weight_axis(graph: Graph, node: NodeProto, index: int, wide_axis: int, rank: int | None) -> int | None:
    """The input-channel axis of the constant weight with which a dense layer reads `index`; None if it has none."""
    if index != 0:
        return None
    weight = read_weight(graph, node, 1)
    if weight is None or len(weight.shape) < 2:
        return None
    if is_op(node, "Conv", "ConvTranspose"):
        return (1 if node.op_type == "Conv" else 0) if wide_axis == 1 else None
    if is_op(node, "Gemm"):
        axis = 0 if attribute(node, "transA", 0) else 1
        return (1 if attribute(node, "transB", 0) else 0) if wide_axis in (axis, axis - 2) else None
    if is_op(node, "MatMul"):
        last = wide_axis == -1 or (rank is not None and wide_axis == rank - 1)
        return len(weight.shape) - 2 if last else None
    return None


def _conv(graph: Graph, node: NodeProto, index: int, wide: Wide, rank: int | None) -> Route:
    axis = weight_axis(graph, node, index, wide.axis, rank)
    weight = read_weight(graph, node, 1)
    if axis is None or weight is None:
        return _fold("its weight is not a constant that can be repeated, or the channels lie on another axis")
    groups = int(attribute(node, "group", 1)) if node.op_type in ("Conv", "ConvTranspose") else 1
    if groups == 1:
        return Route("weight", axis=axis) if weight.shape[axis] == wide.narrow else _fold("channel counts differ")
    channels = weight.shape[1] * groups if node.op_type == "Conv" else weight.shape[0]
    if channels != wide.narrow:
        return _fold("channel counts differ")
    if wide.grouped(groups) and not (node.op_type == "Conv" and _per_input(graph, node)):
        return Route("grouped", axis=axis)
    if node.op_type == "Conv" and groups == channels:
        rows = wide.spread(weight.shape[0] // groups)
        return Route("depthwise", Wide(1, *rows, weight.shape[0], None, halved=wide.halved))
    return _fold("the copies are not spread evenly over the groups")


def _per_input(graph: Graph, node: NodeProto) -> bool:
    weight = read_weight(graph, node, 1)
    return weight is not None and weight.channel_axis(graph) == 1


def _reshape(graph: Graph, node: NodeProto, wide: Wide, shapes: Mapping[str, Shape]) -> Route:
    """Row-major: the channel stays whole if the elements behind it stay as many (or are merged into it)."""
    before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
    if before is None or after is None:
        return _fold("the shapes are unknown")
    axis = wide.axis % len(before)
    inner = before[axis + 1 :]
    if not all(isinstance(d, int) for d in inner):
        return _fold("the dimensions behind the channel are unknown")
    size = int(np.prod([int(d) for d in inner if isinstance(d, int)], dtype=np.int64))
    rest, k = 1, len(after) - 1
    while k >= 0:
        d = after[k]
        if not isinstance(d, int):
            break
        if rest == size and d == wide.narrow and (k == 0 or rest * d > 0):
            return Route("carry", replace(wide, axis=k))
        if rest == 1 and d == wide.narrow * size and k == len(after) - 1:
            origin, level = wide.spread(size)
            narrow = wide.narrow * size
            return Route("carry", replace(wide, axis=k, origin=origin, level=level, narrow=narrow))
        if d == 0 or rest >= size:
            break
        rest, k = rest * d, k - 1
    return _fold("the reshape does not keep the channels")


def _shape_editable(graph: Graph, node: NodeProto, index: int) -> bool:
    return len(node.input) <= index or not node.input[index] or graph.is_constant(node.input[index])


def _carry(graph: Graph, node: NodeProto, wide: Wide, shapes: Mapping[str, Shape]) -> Route:
    """Nodes that keep the layout: linear per channel, monotone on non-overlapping pieces, or pure data movement."""
    op, rank = node.op_type, len(shapes[node.input[0]] or ()) if node.input[0] in shapes else None
    if op in ("Identity", "Dropout"):
        return Route("carry", wide)
    if op in ("GlobalAveragePool", "AveragePool", "MaxPool"):
        # max(sum of copies) = sum of max(copies): every copy is the same monotone function of the value
        if len([o for o in node.output if o]) > 1 or (op == "MaxPool" and wide.grid is None):
            return _fold("it needs the value itself")
        return (
            Route("carry", wide if op == "MaxPool" else replace(wide, grid=None))
            if wide.axis == 1
            else _fold("other axis")
        )
    if op == "ReduceMean":
        axes = attribute(node, "axes")
        if len(node.input) > 1 and node.input[1]:
            found = graph.constant(node.input[1])
            axes = None if found is None else found.reshape(-1).tolist()
        if not axes or rank is None:
            return _fold("it reduces unknown axes")
        axes, axis = sorted(a % rank for a in axes), wide.axis % rank
        if axis in axes:
            return _fold("it reduces the channels")
        moved = axis if attribute(node, "keepdims", 1) else axis - sum(a < axis for a in axes)
        return Route("carry", replace(wide, axis=moved, grid=None))
    if op == "Transpose":
        perm = list(attribute(node, "perm") or ())
        if not perm:
            if rank is None:
                return _fold("the rank is unknown")
            perm = list(range(rank))[::-1]
        return Route("carry", replace(wide, axis=perm.index(wide.axis % len(perm))))
    if op in ("Flatten", "Reshape"):
        if op == "Flatten" and (rank is None or wide.axis % rank != int(attribute(node, "axis", 1))):
            return _fold("the flatten mixes the channels with other axes")
        return (
            _reshape(graph, node, wide, shapes) if _shape_editable(graph, node, 1) else _fold("the shape is computed")
        )
    if op in ("Squeeze", "Unsqueeze"):
        axes = attribute(node, "axes")
        if len(node.input) > 1 and node.input[1]:
            found = graph.constant(node.input[1])
            axes = None if found is None else found.reshape(-1).tolist()
        if not axes or rank is None:
            return _fold("its axes are unknown")
        axis = wide.axis % rank
        if op == "Squeeze":
            axes = [a % rank for a in axes]
            return Route("carry", replace(wide, axis=axis - sum(a < axis for a in axes)))
        for a in sorted(a % (rank + len(axes)) for a in axes):
            axis += a <= axis
        return Route("carry", replace(wide, axis=axis))
    if op == "Pad":
        mode = attribute(node, "mode", b"constant")
        pads = graph.constant(node.input[1]) if len(node.input) > 1 else None
        value = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
        axes_given = len(node.input) > 3 and node.input[3]
        if pads is None or axes_given or wide.integer or (mode == b"constant" and (value is None or np.any(value))):
            return _fold("it pads with something else than zeros")
        half = pads.size // 2
        axis = wide.axis % half
        return _fold("it pads the channels") if pads[axis] or pads[axis + half] else Route("carry", wide)
    if op in ("Resize", "Upsample") and not wide.integer:
        return _resize(graph, node, wide, rank)
    return _fold(NOT_LINEAR)


def _resize(graph: Graph, node: NodeProto, wide: Wide, rank: int | None) -> Route:
    if attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize" or attribute(node, "axes"):
        return _fold("this kind of resize is not supported")
    if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
        sizes = graph.constant(node.input[3])
        if sizes is None or rank is None or int(sizes[wide.axis % rank]) != wide.narrow:
            return _fold("its sizes are computed")
    else:
        scales = graph.constant(node.input[2 if node.op_type == "Resize" and len(node.input) > 2 else 1])
        if scales is None or rank is None or scales.size != rank or scales[wide.axis % rank] != 1:
            return _fold("its scales are computed")
    keeps = attribute(node, "mode", b"nearest") == b"nearest"
    return Route("carry", wide if keeps else replace(wide, grid=None))


def route(graph: Graph, node: NodeProto, index: int, wide: Wide, shapes: Mapping[str, Shape]) -> Route:
    """What a node does with a wide value at one of its inputs.

    Args:
        graph: the graph.
        node: the reader.
        index: which input.
        wide: the layout.
        shapes: shapes in the *original* model.

    Returns:
        The route; "fold" is always possible.
    """
    rank = len(shapes[node.input[index]]) if node.input[index] in shapes else None
    if is_op(node, "QuantizeLinear"):
        q = read_quantizer(graph, node)
        if index == 0 and isinstance(q, Quantizer) and _same(q, wide) and _fits(q, wide, rank):
            return Route("carry", replace(wide, integer=True, grid=q))
        return _fold("it quantizes on another grid")
    if is_op(node, "DequantizeLinear"):
        q = read_quantizer(graph, node)
        if index == 0 and wide.integer and wide.grid is not None and isinstance(q, Quantizer):
            same = q is wide.grid or (
                np.array_equal(q.scale, wide.grid.scale) and np.array_equal(q.zero_point, wide.grid.zero_point)
            )
            if same and _fits(q, wide, rank):
                return Route("carry", replace(wide, integer=False))
        return _fold("it dequantizes with other parameters")
    if wide.integer and is_op(node, "Clip"):
        same = wide.grid is not None and integer_clip(graph, node, wide.grid) == (wide.grid.qmin, wide.grid.qmax)
        return Route("carry", wide) if same and index == 0 else _fold("it clips to another range")
    if wide.integer and not is_op(
        node, "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool"
    ):
        return _fold("it computes with the integers")
    if is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _conv(graph, node, index, wide, rank)
    if is_op(node, "Concat"):
        return _concat(node, index, wide, rank, shapes)
    if is_op(node, "Mul", "Div"):
        return _scaled(graph, node, index, wide, rank)
    if index == 0 and node.domain in ("", "ai.onnx"):
        return _carry(graph, node, wide, shapes)
    return _fold(NOT_LINEAR)


def _scaled(graph: Graph, node: NodeProto, index: int, wide: Wide, rank: int | None) -> Route:
    """A multiplication by a positive constant, as in a GELU of small operators: the grid is multiplied, too."""
    c = graph.constant(node.input[1 - index])
    if c is None or c.size != 1 or c.dtype.kind != "f" or c.ndim > (rank or 1) or (node.op_type == "Div" and index):
        return _fold(NOT_LINEAR)
    factor = float(c.reshape(()))
    if not 0 < factor < np.inf:
        return _fold("it changes the sign")
    if wide.grid is not None and wide.grid.float_dtype != np.float32:
        return _fold("the products are too coarse for another quantizer")
    factor = 1 / factor if node.op_type == "Div" else factor
    grid = None if wide.grid is None else replace(wide.grid, scale=wide.grid.scale * factor)
    return Route("carry", replace(wide, grid=grid, factor=wide.factor * factor))


def _same(q: Quantizer, wide: Wide) -> bool:
    """Whether a quantizer leaves values on the wide tensor's grid as they are."""
    if wide.grid is None or wide.factor == 1 or q.scale.shape != wide.grid.scale.shape:
        return q.same_grid(wide.grid)
    # a factor and two steps, each a float32: all integers must stay clear of rounding ties
    near = np.all(np.abs(q.scale - wide.grid.scale) <= 1e-3 / (q.qmax - q.qmin) * q.scale)
    return bool(near) and q.same_grid(replace(wide.grid, scale=q.scale))


def _fits(q: Quantizer, wide: Wide, rank: int | None) -> bool:
    if q.axis is None:
        return True
    return rank is not None and q.axis % rank == wide.axis % rank


def concat_sizes(node: NodeProto, shapes: Mapping[str, Shape]) -> list[int] | None:
    """Narrow sizes of a Concat's inputs along its axis; None if one is unknown."""
    sizes = []
    for t in node.input:
        shape = shapes.get(t)
        if shape is None:
            return None
        size = shape[int(attribute(node, "axis", 0)) % len(shape)]
        if not isinstance(size, int):
            return None
        sizes.append(size)
    return sizes


def _concat(node: NodeProto, index: int, wide: Wide, rank: int | None, shapes: Mapping[str, Shape]) -> Route:
    axis = int(attribute(node, "axis", 0))
    if rank is None or axis % rank != wide.axis % rank:
        return _fold("it joins along another axis")
    sizes = concat_sizes(node, shapes)
    if sizes is None:
        return _fold("the joined channel counts are unknown")
    if sizes[index] != wide.narrow:
        return _fold("channel counts differ")
    before, after = sum(sizes[:index]), sum(sizes[index + 1 :])
    origin = np.concatenate([np.arange(before), wide.origin + before, np.arange(after) + before + wide.narrow])
    level = np.concatenate([np.zeros(before, np.int64), wide.level, np.zeros(after, np.int64)])
    return Route("carry", replace(wide, axis=axis % rank, origin=origin, level=level, narrow=sum(sizes)))


def join(parts: list[Wide | None], axis: int, sizes: list[int]) -> Wide:
    """Layout of a Concat of wide and narrow tensors.

    Args:
        parts: layout of every input; None for a narrow one.
        axis: the axis along which they are joined.
        sizes: narrow sizes of the inputs along the axis.
    """
    origin, level, offset = [], [], 0
    grid = next(p.grid for p in parts if p is not None)
    for part, size in zip(parts, sizes, strict=True):
        origin.append((np.arange(size) if part is None else part.origin) + offset)
        level.append(np.zeros(size, np.int64) if part is None else part.level)
        offset += size
        if part is not None and (part.grid is None or not part.grid.same_grid(grid)):
            grid = None
    halved = any(p.halved for p in parts if p is not None)
    return Wide(axis, np.concatenate(origin), np.concatenate(level), offset, grid, halved=halved)
