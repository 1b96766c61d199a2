"""How an operator carries a wide tensor on: same axis, moved axis, repeated blocks, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute
from onnx_ocs.model.shapes import Shape
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.wide import Wide, concat_sizes

__all__ = ["NOT_LINEAR", "Route", "carry", "concat", "fits", "fold", "same", "scaled"]

NOT_LINEAR = "it is not linear per channel"  # along no axis, that is
Kind = Literal["weight", "grouped", "depthwise", "carry", "fold"]


@dataclass(frozen=True)
class Route:
    """What one reader does with a wide input.

    Attributes:
        kind: "weight" (dense layer), "grouped" (equal copies in every group), "depthwise" (a layer that reads the
            copies folded back), "carry", or "fold".
        output: layout of the node's output when it stays wide.
        axis: for "weight": the weight's input-channel axis.
        why: where the copies are folded back: why the node cannot read them.
    """

    kind: Kind
    output: Wide | None = None
    axis: int = 0
    why: str = ""

    @property
    def folds(self) -> bool:
        """Whether the node reads the narrow value."""
        return self.kind in ("depthwise", "fold")


def fold(why: str) -> Route:
    """The copies are folded back, and why."""
    return Route("fold", why=why)


def _reshape(graph: Graph, node: NodeProto, wide: Wide, shapes: Mapping[str, Shape]) -> Route:
    """Row-major: the channel stays whole if the elements behind it stay as many (or are merged into it)."""
    before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
    if before is None or after is None:
        return fold("the shapes are unknown")
    axis = wide.axis % len(before)
    inner = before[axis + 1 :]
    if not all(isinstance(d, int) for d in inner):
        return fold("the dimensions behind the channel are unknown")
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
    return fold("the reshape does not keep the channels")


def _shape_editable(graph: Graph, node: NodeProto, index: int) -> bool:
    return len(node.input) <= index or not node.input[index] or graph.is_constant(node.input[index])


def carry(graph: Graph, node: NodeProto, wide: Wide, shapes: Mapping[str, Shape]) -> Route:
    """Nodes that keep the layout: linear per channel, monotone on non-overlapping pieces, or pure data movement."""
    op, rank = node.op_type, len(shapes[node.input[0]] or ()) if node.input[0] in shapes else None
    if op in ("Identity", "Dropout"):
        return Route("carry", wide)
    if op in ("GlobalAveragePool", "AveragePool", "MaxPool"):
        return _pool(node, wide)
    if op == "ReduceMean":
        return _mean(graph, node, wide, rank)
    if op == "Transpose":
        return _transpose(node, wide, rank)
    if op in ("Flatten", "Reshape"):
        if op == "Flatten" and (rank is None or wide.axis % rank != int(attribute(node, "axis", 1))):
            return fold("the flatten mixes the channels with other axes")
        return _reshape(graph, node, wide, shapes) if _shape_editable(graph, node, 1) else fold("the shape is computed")
    if op in ("Squeeze", "Unsqueeze"):
        return _squeeze(graph, node, wide, rank)
    if op == "Pad":
        return _pad(graph, node, wide)
    if op in ("Resize", "Upsample") and not wide.integer:
        return _resize(graph, node, wide, rank)
    return fold(NOT_LINEAR)


def _pool(node: NodeProto, wide: Wide) -> Route:
    """max(sum of copies) = sum of max(copies): every copy is the same monotone function of the value."""
    largest = node.op_type == "MaxPool"
    if len([o for o in node.output if o]) > 1 or (largest and wide.grid is None):
        return fold("it needs the value itself")
    if wide.axis != 1:
        return fold("other axis")
    return Route("carry", wide if largest else replace(wide, grid=None))


def _axes(graph: Graph, node: NodeProto) -> list[int] | None:
    """The axes that a node names, as an attribute or as a constant input."""
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        found = graph.constant(node.input[1])
        axes = None if found is None else found.reshape(-1).tolist()
    return None if not axes else list(axes)


def _mean(graph: Graph, node: NodeProto, wide: Wide, rank: int | None) -> Route:
    axes = _axes(graph, node)
    if not axes or rank is None:
        return fold("it reduces unknown axes")
    axes, axis = sorted(a % rank for a in axes), wide.axis % rank
    if axis in axes:
        return fold("it reduces the channels")
    moved = axis if attribute(node, "keepdims", 1) else axis - sum(a < axis for a in axes)
    return Route("carry", replace(wide, axis=moved, grid=None))


def _transpose(node: NodeProto, wide: Wide, rank: int | None) -> Route:
    perm = list(attribute(node, "perm") or ())
    if not perm:
        if rank is None:
            return fold("the rank is unknown")
        perm = list(range(rank))[::-1]
    return Route("carry", replace(wide, axis=perm.index(wide.axis % len(perm))))


def _squeeze(graph: Graph, node: NodeProto, wide: Wide, rank: int | None) -> Route:
    axes = _axes(graph, node)
    if not axes or rank is None:
        return fold("its axes are unknown")
    axis = wide.axis % rank
    if node.op_type == "Squeeze":
        axes = [a % rank for a in axes]
        return Route("carry", replace(wide, axis=axis - sum(a < axis for a in axes)))
    for a in sorted(a % (rank + len(axes)) for a in axes):
        axis += a <= axis
    return Route("carry", replace(wide, axis=axis))


def _pad(graph: Graph, node: NodeProto, wide: Wide) -> Route:
    mode = attribute(node, "mode", b"constant")
    pads = graph.constant(node.input[1]) if len(node.input) > 1 else None
    value = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
    axes_given = len(node.input) > 3 and node.input[3]
    if pads is None or axes_given or wide.integer or (mode == b"constant" and (value is None or np.any(value))):
        return fold("it pads with something else than zeros")
    half = pads.size // 2
    axis = wide.axis % half
    return fold("it pads the channels") if pads[axis] or pads[axis + half] else Route("carry", wide)


def _resize(graph: Graph, node: NodeProto, wide: Wide, rank: int | None) -> Route:
    if attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize" or attribute(node, "axes"):
        return fold("this kind of resize is not supported")
    if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
        sizes = graph.constant(node.input[3])
        if sizes is None or rank is None or int(sizes[wide.axis % rank]) != wide.narrow:
            return fold("its sizes are computed")
    else:
        scales = graph.constant(node.input[2 if node.op_type == "Resize" and len(node.input) > 2 else 1])
        if scales is None or rank is None or scales.size != rank or scales[wide.axis % rank] != 1:
            return fold("its scales are computed")
    keeps = attribute(node, "mode", b"nearest") == b"nearest"
    return Route("carry", wide if keeps else replace(wide, grid=None))


def scaled(graph: Graph, node: NodeProto, index: int, wide: Wide, rank: int | None) -> Route:
    """A multiplication by a positive constant, as in a GELU of small operators: the grid is multiplied, too."""
    c = graph.constant(node.input[1 - index])
    if c is None or c.size != 1 or c.dtype.kind != "f" or c.ndim > (rank or 1) or (node.op_type == "Div" and index):
        return fold(NOT_LINEAR)
    factor = float(c.reshape(()))
    if not 0 < factor < np.inf:
        return fold("it changes the sign")
    if wide.grid is not None and wide.grid.float_dtype != np.float32:
        return fold("the products are too coarse for another quantizer")
    factor = 1 / factor if node.op_type == "Div" else factor
    grid = None if wide.grid is None else replace(wide.grid, scale=wide.grid.scale * factor)
    return Route("carry", replace(wide, grid=grid, factor=wide.factor * factor))


def same(q: Quantizer, wide: Wide) -> bool:
    """Whether a quantizer leaves values on the wide tensor's grid as they are."""
    if wide.grid is None or wide.factor == 1 or q.scale.shape != wide.grid.scale.shape:
        return q.same_grid(wide.grid)
    # a factor and two steps, each a float32: all integers must stay clear of rounding ties
    near = np.all(np.abs(q.scale - wide.grid.scale) <= 1e-3 / (q.qmax - q.qmin) * q.scale)
    return bool(near) and q.same_grid(replace(wide.grid, scale=q.scale))


def fits(q: Quantizer, wide: Wide, rank: int | None) -> bool:
    """Whether a quantizer has one step, or its steps lie along the channels."""
    if q.axis is None:
        return True
    return rank is not None and q.axis % rank == wide.axis % rank


def concat(node: NodeProto, index: int, wide: Wide, rank: int | None, shapes: Mapping[str, Shape]) -> Route:
    """A Concat along the channels: those of the other inputs are narrow."""
    axis = int(attribute(node, "axis", 0))
    if rank is None or axis % rank != wide.axis % rank:
        return fold("it joins along another axis")
    sizes = concat_sizes(node, shapes)
    if sizes is None:
        return fold("the joined channel counts are unknown")
    if sizes[index] != wide.narrow:
        return fold("channel counts differ")
    before, after = sum(sizes[:index]), sum(sizes[index + 1 :])
    origin = np.concatenate([np.arange(before), wide.origin + before, np.arange(after) + before + wide.narrow])
    level = np.concatenate([np.zeros(before, np.int64), wide.level, np.zeros(after, np.int64)])
    return Route("carry", replace(wide, axis=axis % rank, origin=origin, level=level, narrow=sum(sizes)))
