"""Layers with a constant quantized weight, as one linear map: rows of values in, rows of values out.

    y[outputs[g, i]] = factor * sum over k of weight.flat[index[g, i, k]] * x[columns[g, k]] + bias

Conv of any rank, dense, grouped and depthwise, ConvTranspose (a Conv with the input spread out and the kernel
reversed), Gemm, and MatMul with the weight on either side all have this form, where x is the patch of the layer's
input that one output position sees (`onnx_ocs.reconstruction.patches`).  Depthwise layers with copies, whose sums are
formed behind them, have it too: one system for each channel of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.copies import Tie, folded, layouts, ties
from onnx_ocs.reconstruction.stored import Stored, read_stored
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.wide import Wide

__all__ = ["WIDE", "LinearMap", "canonical", "read_maps"]

WIDE = 8192  # inputs of one output, of which every fold has moments of its own
WIDEST = 11264  # of a matrix that is fitted in parts: moments, their factor and copies are 1 GB each, four to six
Side = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """One layer that may be fitted again, in this form.

    Attributes:
        node: the Conv, ConvTranspose, Gemm or MatMul.
        weight: its weight.
        bias: its bias, or None where it has none.
        bias_node: who adds the bias: the node itself, or the Add behind a MatMul.
        bias_index: at which input.
        free: whether the bias may be given new values (or be added).
        fixed: what is added now, float64 (channels,).
        x: name of its input.
        y: name of its output, behind the bias; behind the sum where copies are added up.
        axis: channel axis of y.
        channels: rows of the weight and of the bias, copies included.
        positions: in the flattened weight, int64 (G, m, K), -1 where a group has fewer inputs; None: all, as they are.
        columns: which inputs each group sees, int64 (G, K); -1 likewise.
        rows: row of the weight and of the bias, int64 (G, m); copies' rows are left out.
        outputs: channel of the float model's tensor, int64 (G, m).
        factor: alpha of a Gemm.
        tie: rows that follow others; None without.
        wide: layout of the input's channels; None where it has no copies.
        only: the rows of a matrix that are looked at; None: all.
    """

    node: NodeProto
    weight: Stored
    bias: Stored | None
    bias_node: NodeProto
    bias_index: int
    free: bool
    fixed: Array
    x: str
    y: str
    axis: int
    channels: int
    positions: Array | None
    columns: Array
    rows: Array
    outputs: Array
    factor: float
    tie: Tie | None
    wide: Wide | None
    only: Array | None = None

    @property
    def name(self) -> str:
        """What the report calls it."""
        return label(self.node)

    @property
    def index(self) -> Array:
        """Positions in the flattened weight, int64 (G, m, K); -1 where a group has fewer inputs; large, so not held."""
        if self.positions is not None:
            return self.positions
        form = canonical(self.node, self.weight.index, self.weight.chain.shape)
        assert form is not None
        return form[0] if self.only is None else form[0][:, self.only]

    @property
    def used(self) -> Array:
        """Which inputs there are, bool (G, m, K)."""
        if self.is_matrix:
            return np.ones((1, self.rows.shape[1], self.columns.shape[1]), bool)
        return np.asarray(self.index >= 0)

    @property
    def is_matrix(self) -> bool:
        """Whether the weight is one matrix, as it is or turned: then no position need be looked up."""
        return self.positions is None and is_op(self.node, "MatMul", "Gemm")

    @property
    def turned(self) -> bool:
        """Whether the rows of a matrix are the columns of the weight."""
        if is_op(self.node, "MatMul"):
            return self.weight.index == 1
        return not attribute(self.node, "transB", 0)

    def part(self, rows: Array) -> LinearMap:
        """Some rows of a matrix as a layer."""
        return replace(self, only=rows, rows=self.rows[:, rows], outputs=self.outputs[:, rows])

    @property
    def dense(self) -> bool:
        """Whether every output sees all inputs."""
        return len(self.columns) == 1 and bool(np.array_equal(self.columns[0], np.arange(self.columns.shape[1])))

    @property
    def depthwise(self) -> bool:
        """Whether there is a group for each channel, which sees it at all kernel positions, in order."""
        groups, taps = self.columns.shape
        alone = len(self.weight.chain.shape) > 2 and int(np.prod(self.weight.chain.shape[2:])) == taps
        return alone and bool(np.array_equal(self.columns, np.arange(groups)[:, None] + groups * np.arange(taps)))

    def matrix(self, values: Array) -> Array:
        """A weight-like array in the reader's axes, as (G, m, K); 0 where a group has fewer inputs."""
        if self.is_matrix:
            if self.only is not None:
                values = values[:, self.only] if self.turned else values[self.only]
            found = np.array(values, np.float64, order="C")
            return (found.T if self.turned else found)[None]
        flat = np.append(np.asarray(values, np.float64).reshape(-1), 0.0)
        return np.asarray(flat[self.index])


def canonical(node: NodeProto, index: int, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
    """Positions in the flattened weight (G, m, K), and the inputs (G, K), of a layer; None if it has no such form.

    Inputs are numbered kernel position by kernel position, all channels of one after the other.
    """
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    if is_op(node, "MatMul"):
        if len(shape) != 2:
            return None
        matrix = numbers if index == 0 else numbers.T
        return matrix[None], np.arange(matrix.shape[1])[None]
    if is_op(node, "Gemm"):
        if index != 1 or len(shape) != 2:
            return None
        matrix = numbers if attribute(node, "transB", 0) else numbers.T
        return matrix[None], np.arange(matrix.shape[1])[None]
    if index != 1 or len(shape) < 3:
        return None
    groups = int(attribute(node, "group", 1))
    if shape[0] % groups:
        return None
    kernel = int(np.prod(shape[2:]))
    if is_op(node, "Conv"):
        inside = shape[1]
        found = numbers.reshape(groups, shape[0] // groups, inside, kernel).transpose(0, 1, 3, 2)
    else:
        inside = shape[0] // groups
        found = numbers.reshape(groups, inside, shape[1], kernel)[..., ::-1].transpose(0, 2, 3, 1)
    columns = (
        np.arange(groups)[:, None, None] * inside
        + np.arange(kernel)[None, :, None] * (inside * groups)
        + np.arange(inside)[None, None]
    )
    return found.reshape(groups, found.shape[1], kernel * inside), columns.reshape(groups, -1)


def read_maps(graph: Graph) -> list[LinearMap | Refusal]:
    """All layers with a constant quantized weight, in topological order, each as if nobody else read its constants.

    Layers whose weight is not quantized are left out; of those that are no such map it is said why.
    """
    tied, wides = ties(graph), layouts(graph)
    found: list[LinearMap | Refusal] = []
    for n in graph.nodes:
        if not is_layer(n) or len(n.input) < 2:
            continue
        for index in (1, 0) if n.op_type == "MatMul" else (1,):
            other = n.input[1 - index]
            if graph.is_constant(other) or not _quantized(graph, n, index):
                continue
            found.append(_map(graph, n, index, tied.get(id(n)), wides))
    return found


def _quantized(graph: Graph, node: NodeProto, index: int) -> bool:
    """Whether a constant behind a DequantizeLinear is read there, of whatever form."""
    tensor = str(node.input[index])
    behind = False
    for _ in range(16):
        n = graph.producer.get(tensor)
        if tensor in graph.initializers or is_op(n, "Constant"):
            return behind
        if n is None or not n.input or not (is_op(n, *MOVES) or is_op(n, "QuantizeLinear", "DequantizeLinear")):
            return False
        behind = behind or is_op(n, "DequantizeLinear")
        tensor = str(n.input[0])
    return False


MOVES = ("Transpose", "Reshape", "Cast", "CastLike", "Identity", "Clip", "Squeeze", "Unsqueeze", "Flatten")


def _map(graph: Graph, node: NodeProto, index: int, tie: Tie | None, wides: Mapping[str, Wide]) -> LinearMap | Refusal:
    at = label(node)
    weight = read_stored(graph, node, index)
    if isinstance(weight, str):
        return Refusal("weight_form", f"the weight cannot be given new values: {weight}", at)
    if weight.kind == "plain" or weight.low >= weight.high:
        return Refusal("weight_form", "the weight is not on a grid of integers", at)
    form = canonical(node, index, weight.chain.shape)
    if form is None:
        return Refusal("weight_form", f"a weight of {len(weight.chain.shape)} axes is no matrix", at)
    positions, columns = form
    most = WIDEST if is_op(node, "MatMul", "Gemm") and tie is None else WIDE
    if positions.shape[2] > most:
        return Refusal("too_wide", f"each output reads {positions.shape[2]} inputs, more than {most}", at)
    axis = {"MatMul": -1 if index else -2}.get(node.op_type, 1)
    groups, inside, _ = positions.shape
    rows = outputs = np.arange(groups * inside).reshape(groups, inside)
    x, y = str(node.input[1 - index]), str(node.output[0])
    wide = wides.get(x)
    found = _bias(graph, node, axis, groups * inside)
    if isinstance(found, Refusal):
        return found
    bias, bias_node, bias_index, free, fixed, y = found
    if wide is not None and groups > 1 and groups == wide.origin.size:
        together = _together(graph, y, Wide(1, *wide.spread(inside), wide.narrow * inside, None), positions, columns)
        if together is None:
            return Refusal("copies", "what is added up behind it could not be followed", at)
        positions, columns, rows, y = together
        outputs, tie = np.arange(len(rows))[:, None], None
    if tie is not None:
        if tie.halved or tie.origin.size != rows.size or groups > 1 or not _follows(weight, positions, tie):
            return Refusal("copies", "its rows do not follow each other as the layout says", at)
        positions, rows = positions[:, tie.base], rows[:, tie.base]
        outputs = np.arange(tie.base.size)[None]
    factor, own = float(attribute(node, "alpha", 1.0)) if node.op_type == "Gemm" else 1.0, positions is not form[0]
    if not factor:
        return Refusal("weight_form", "alpha is 0", at)
    return LinearMap(
        node, weight, bias, bias_node, bias_index, free, fixed, x, y, axis, groups * inside,
        positions if own else None, columns, rows, outputs, factor, tie, wide,
    )  # fmt: skip


def _follows(weight: Stored, positions: Array, tie: Tie) -> bool:
    """Whether copies' rows hold the same values as their channels' rows."""
    rows = weight.value.reshape(-1)[positions[0]]
    return bool(np.array_equal(rows, rows[tie.base[tie.origin]]))


def _together(
    graph: Graph, y: str, wide: Wide, positions: Array, columns: Array
) -> tuple[Array, Array, Array, str] | None:
    """One system for each channel of the sum behind a depthwise layer with copies."""
    target = folded(graph, y, wide)
    if target is None or positions.shape[1] * len(positions) != wide.origin.size:
        return None
    inside, size = positions.shape[1:]
    members = [np.flatnonzero(wide.origin == c) for c in range(wide.narrow)]
    most = max(len(m) for m in members)
    index = np.full((wide.narrow, 1, most * size), -1)
    seen = np.full((wide.narrow, most * size), -1)
    for c, rows in enumerate(members):
        for k, row in enumerate(rows):
            index[c, 0, k * size : (k + 1) * size] = positions[row // inside, row % inside]
            seen[c, k * size : (k + 1) * size] = columns[row // inside]
    return index, seen, np.asarray([rows[0] for rows in members])[:, None], target


def _bias(
    graph: Graph, node: NodeProto, axis: int, channels: int
) -> tuple[Stored | None, NodeProto, int, bool, Array, str] | Refusal:
    """A layer's bias, who reads it and where, whether it may change, what it is now, and the tensor behind it."""
    y, nothing = str(node.output[0]), np.zeros(channels)
    if node.op_type != "MatMul":
        if len(node.input) < 3 or not node.input[2]:
            return None, node, 2, _may_add(graph, node), nothing, y
        return _usable(graph, node, node, 2, channels, y)
    readers = graph.readers(y)
    if len(readers) == 1 and is_op(readers[0], "Add") and y not in graph.outputs and not graph.captured(y):
        add = readers[0]
        k = 1 if add.input[0] == y else 0
        shape = graph.constant_shape(add.input[k]) if graph.is_constant(add.input[k]) else None
        behind = -1 - axis  # axes behind the channels
        along = shape is not None and len(shape) > behind and shape[len(shape) - 1 - behind] == channels
        if shape is not None and along and int(np.prod(shape)) == channels:
            return _usable(graph, node, add, k, channels, str(add.output[0]))
    return None, node, 2, False, nothing, y


def _may_add(graph: Graph, node: NodeProto) -> bool:
    """Whether a missing bias can be added: a float one would cost a layer of integers its kernel."""
    n = graph.producer.get(node.input[0])
    q = read_quantizer(graph, n) if is_op(n, "DequantizeLinear") and n is not None else None
    return q is None or (isinstance(q, Quantizer) and q.scale.size == 1 and q.float_dtype == np.float32)


def _usable(
    graph: Graph, node: NodeProto, adder: NodeProto, index: int, channels: int, y: str
) -> tuple[Stored | None, NodeProto, int, bool, Array, str] | Refusal:
    now = graph.constant(adder.input[index])
    beta = float(attribute(node, "beta", 1.0)) if is_op(node, "Gemm") else 1.0
    if now is None or now.size not in (1, channels) or not beta:
        return Refusal("bias_form", "its bias is not one constant per output channel", label(node))
    fixed = np.broadcast_to(now.reshape(-1).astype(np.float64) * beta, (channels,))
    bias = read_stored(graph, adder, index)
    if isinstance(bias, str) or bias.value.size != channels:
        return None, adder, index, False, fixed, y
    return bias, adder, index, True, fixed, y
