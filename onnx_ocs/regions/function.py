"""The function that reads a quantized tensor, and what it makes of values: errors count behind it.

In front of SiLU, GELU, HardSwish or ReLU large negative values do not matter, and large positive ones do.  Exporters
spell such functions in many ways: as one node, as two, as an erf or a tanh chain, with quantizers between the pieces
or without.  So nothing is matched by name.  From the tensor on, nodes that work value by value are followed, quantizers
passed, until all ways meet in one tensor: what lies between is the function.  onnxruntime computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.regions.region import Quantized
from onnx_ocs.runtime.session import RUN_ERRORS, as_written

__all__ = ["Function", "counts_beyond", "function_behind"]

Function = Callable[[Array], Array]

# value by value, and defined for all values
STRAIGHT = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
CURVED = frozenset({
    "Abs", "Celu", "Clip", "Elu", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min",
    "Mish", "Pow", "QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
})  # fmt: skip
KNOWN = STRAIGHT | CURVED
LIMIT = 32  # nodes of the longest spelling, quantizers between all pieces included
SAME = 0.01  # of a function's steepest slope, below which it is flat
SLOPES = 128  # places at which slopes are looked at
TRIED = np.append(np.geomspace(-1e4, -1e-3, 64), np.geomspace(1e-3, 1e4, 64))  # where a function must have values


@dataclass
class _Cone:
    """What is computed from one tensor, value by value.

    Attributes:
        graph: the graph.
        known: tensors of it, and by what name they are computed.
        integers: those of them that hold integers.
        nodes: pieces of the function, in order, quantizers left out.
        taken: ids of all nodes inside.
    """

    graph: Graph
    known: dict[str, str]
    integers: set[str]
    nodes: list[NodeProto] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)

    @property
    def open(self) -> set[str]:
        """By what names tensors are computed that others read, too."""
        return {name for t, name in self.known.items() if not self._spent(t)}

    def _spent(self, tensor: str) -> bool:
        readers = self.graph.readers(tensor)
        outside = tensor in self.graph.outputs or bool(self.graph.captured(tensor))
        return bool(readers) and not outside and all(id(r) in self.taken for r in readers)

    def ready(self) -> Iterator[NodeProto]:
        """Nodes that may be taken in next."""
        for t in list(self.known):
            yield from (r for r in self.graph.readers(t) if id(r) not in self.taken and self._fits(r))

    def _fits(self, node: NodeProto) -> bool:
        if len(node.output) != 1 or node.domain not in ("", "ai.onnx", "com.microsoft"):
            return False
        if self._passed(node):
            return node.input[0] in self.known
        if any(i in self.integers for i in node.input):
            return False
        if node.op_type not in KNOWN:
            return False
        rest = [i for i in node.input if i and i not in self.known]
        constants = {i: c for i in rest if self.graph.is_constant(i) and (c := self.graph.constant(i)) is not None}
        if len(constants) < len(rest) or any(c.size != 1 for c in constants.values()):
            return False
        if node.op_type not in ("Div", "Pow"):
            return True
        second = constants.get(node.input[1])  # another power, or a divisor that varies, is not defined everywhere
        return second is not None and (node.op_type == "Div" or float(second.reshape(())) in (1.0, 2.0, 3.0))

    def _passed(self, node: NodeProto) -> bool:
        """Whether a node changes nothing but the spelling: quantizers, and the Clip between them in QCDQ."""
        if node.input[0] in self.integers:
            return is_op(node, "DequantizeLinear", "Clip")
        return is_op(node, "QuantizeLinear", "Identity")

    def take(self, node: NodeProto) -> None:
        """Take a node in."""
        self.taken.add(id(node))
        if self._passed(node):
            self.known[node.output[0]] = self.known[node.input[0]]
            if not is_op(node, "DequantizeLinear", "Identity"):
                self.integers.add(node.output[0])
            return
        self.nodes.append(node)
        self.known[node.output[0]] = node.output[0]


def function_behind(graph: Graph, region: Quantized) -> Function | None:
    """The function that alone reads a quantized tensor; None where there is none, or where it is a straight line.

    Args:
        graph: the graph.
        region: the tensor's.

    Returns:
        The function of float64 values of any shape.
    """
    start = region.tensor
    cone = _Cone(graph, dict.fromkeys(region.outputs, start), set(region.outputs))
    count, end = 0, start
    while len(cone.taken) < LIMIT and (node := next(cone.ready(), None)) is not None:
        cone.take(node)
        if len(met := cone.open) == 1:
            count, (end,) = len(cone.nodes), met
    del cone.nodes[count:]
    if not any(_curved(n, graph) for n in cone.nodes):
        return None
    return _compiled(_model(cone, start, end).SerializeToString(deterministic=True))


def _curved(node: NodeProto, graph: Graph) -> bool:
    return node.op_type in CURVED or (node.op_type == "Mul" and not any(graph.is_constant(i) for i in node.input))


def _model(cone: _Cone, start: str, end: str) -> onnx.ModelProto:
    """The pieces of a function as a model from `x` to `y`, without the graph's names: equal functions are equal."""
    graph, names = cone.graph, {start: "x", end: "y"}
    constants: list[TensorProto] = []
    pieces = []
    for n in cone.nodes:
        piece = NodeProto()
        piece.CopyFrom(n)
        piece.ClearField("name")
        piece.ClearField("doc_string")
        for k, i in enumerate(cone.known.get(i, i) for i in n.input):
            if i and i not in names and graph.is_constant(i):
                value = np.asarray(graph.constant(i), np.float32).reshape(())
                names[i] = f"c{len(constants)}"
                constants.append(numpy_helper.from_array(value, names[i]))
            piece.input[k] = names[i] if i else i
        piece.output[0] = names.setdefault(n.output[0], f"t{len(names)}")
        pieces.append(piece)
    x, y = (helper.make_tensor_value_info(t, TensorProto.FLOAT, ["N"]) for t in ("x", "y"))
    opsets = [o for o in graph.model.opset_import if o.domain in ("", "ai.onnx", "com.microsoft")]
    made = helper.make_graph(pieces, "function", [x], [y], constants)
    return helper.make_model(made, opset_imports=opsets, ir_version=graph.model.ir_version)


@lru_cache(maxsize=64)
def _compiled(model: bytes) -> Function | None:
    """The function that a model computes; None where onnxruntime has no operator for it, or it has no values."""
    try:
        session = as_written(onnx.load_from_string(model), threads=1)
        some = session.run({"x": np.append(TRIED, 0).astype(np.float32)})["y"]
    except RUN_ERRORS:
        return None
    if not np.isfinite(some).all():  # a division by zero, an overflow
        return None

    def function(values: Array) -> Array:
        found = session.run({"x": np.asarray(values, np.float32).ravel()})["y"]
        return np.asarray(found, np.float64).reshape(np.shape(values))

    return function


def counts_beyond(function: Function | None, edge: float, far: float) -> bool:
    """Whether a function tells a value from the edge of a range beyond which it lies.

    Args:
        function: None: the value itself is read.
        edge: the end of the range.
        far: the value.
    """
    if function is None:
        return True
    grid = np.linspace(-1, 1, SLOPES + 1) * max(abs(edge), abs(far))
    steepest = np.abs(np.diff(function(grid))).max() / (grid[1] - grid[0])  # it may end with a factor of any size
    behind = function(np.asarray([edge, far]))
    return bool(abs(behind[1] - behind[0]) > SAME * steepest * abs(far - edge))
