"""An index over one ONNX graph, to read it by; `onnx_ocs.model.edit` edits it.

`Graph` holds the main graph of a `ModelProto`: who produces a tensor, who reads it, which tensors are constants.
It reads constants through initializers (also those repeated as graph inputs), Constant nodes and small chains of
Identity, Cast, CastLike, Reshape, Transpose, QuantizeLinear, Clip and DequantizeLinear.  Subgraphs (If, Loop, Scan)
and local functions are never entered: a node that holds a subgraph simply reads every outer tensor that the subgraph
mentions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from onnx_ocs.model import tensors
from onnx_ocs.model.folding import fold
from onnx_ocs.model.nodes import ONNX_DOMAINS, QDQ_DOMAINS, RANDOM, Array, attribute, is_op
from onnx_ocs.model.order import mentioned, mentions_of, topological

__all__ = ["Array", "Graph", "attribute", "tensor_outputs"]

REMEMBERED = 1 << 16  # bytes up to which a side file's values are kept once they were read
FOLDABLE = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "QuantizeLinear",
    "DequantizeLinear", "Clip",
})  # fmt: skip


class Graph:
    """The main graph of a model, indexed.

    Attributes:
        model: the model.
        nodes: the nodes in topological order.
        producer: tensor name -> the node that writes it.
        initializers: tensor name -> its TensorProto.
        inputs: names of the graph inputs that are not initializers.
        outputs: names of the graph outputs.
        opset: version of the ai.onnx operator set.
        memo: what has been read off nodes, by id of the node (and input).
        grids: quantizers that have been read, by the names of their parameters and their attributes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index the model's main graph (the model is not copied)."""
        g = model.graph
        self.model = model
        self.opset = max((o.version for o in model.opset_import if o.domain in ONNX_DOMAINS), default=1)
        self.initializers: dict[str, TensorProto] = {t.name: t for t in g.initializer}
        self.inputs = {i.name for i in g.input} - self.initializers.keys()
        self.outputs = {o.name for o in g.output}
        nodes = list(g.node)
        self._mentions = mentions_of(nodes)
        self.nodes = topological(nodes, self._mentions)
        self.producer: dict[str, NodeProto] = {}
        self._readers: dict[str, dict[int, NodeProto]] = defaultdict(dict)
        self._captured: dict[str, list[NodeProto]] = defaultdict(list)
        for n in self.nodes:
            self._index(n)
        self._constants: dict[str, Array | None] = {}
        self.memo: dict[Any, Any] = {}
        self.grids: dict[Any, Any] = {}

    def _index(self, n: NodeProto) -> None:
        for o in n.output:
            if o:
                self.producer[o] = n
        for t in n.input:
            if t:
                self._readers[t][id(n)] = n
        for t in dict.fromkeys(self._mentions.get(id(n), ())):
            if t:
                self._captured[t].append(n)

    def readers(self, tensor: str) -> list[NodeProto]:
        """Nodes that read the tensor as an input, each once."""
        found = self._readers.get(tensor)
        return list(found.values()) if found else []

    def initializer(self, name: str) -> TensorProto:
        """An initializer with its values."""
        return self.initializers[name]

    def captured(self, tensor: str) -> list[NodeProto]:
        """Nodes whose subgraphs mention the tensor."""
        return self._captured.get(tensor, [])

    def value_readers(self, tensor: str) -> list[NodeProto]:
        """Readers that use the tensor's value or shape; CastLike's second input gives a type only."""
        return [n for n in self.readers(tensor) if not (is_op(n, "CastLike") and n.input[0] != tensor)]

    def private(self, tensor: str) -> bool:
        """Whether one node alone uses the tensor's value: no graph output, no subgraph, one reader."""
        return tensor not in self.outputs and not self.captured(tensor) and len(self.value_readers(tensor)) == 1

    def constant(self, tensor: str) -> Array | None:
        """The value of a tensor that cannot change at run time, or None."""
        if tensor not in self._constants:
            self._constants[tensor] = None  # a guard against cycles; overwritten below
            value = self._evaluate(tensor)
            if value is not None and value.nbytes > REMEMBERED and self.is_outside(tensor):
                del self._constants[tensor]  # mapped from a side file, or made from one: held only while it is used
                return value
            self._constants[tensor] = value
        return self._constants[tensor]

    def constant_shape(self, tensor: str) -> tuple[int, ...] | None:
        """The shape of a constant, or None if it is none."""
        if tensor in self.initializers:
            return tuple(self.initializers[tensor].dims)
        value = self.constant(tensor)
        return None if value is None else value.shape

    def is_constant(self, tensor: str) -> bool:
        """Whether `constant` gives a value; weights behind a DequantizeLinear or in side files are not read."""
        if tensor in self.initializers:
            return True
        if self._root(tensor) is None:
            return False
        n = self.producer[tensor]
        dequantized = is_op(n, "DequantizeLinear") and n.input[0] in self.initializers
        if tensor in self._constants or not (dequantized or self.is_outside(tensor)):
            return self.constant(tensor) is not None
        while tensor not in self.initializers:
            n = self.producer[tensor]
            if n.domain not in QDQ_DOMAINS or not all(self.is_constant(t) for t in n.input[1:] if t):
                return False
            if n.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scale = self.constant(n.input[1]) if len(n.input) > 1 else None
                if scale is None or scale.ndim > 1 or attribute(n, "block_size", 0):
                    return False
                stored = self.initializers.get(n.input[0])
                if stored is not None and scale.size > 1:
                    axis = int(attribute(n, "axis", 1))
                    if not -len(stored.dims) <= axis < len(stored.dims) or stored.dims[axis] != scale.size:
                        return False
            tensor = n.input[0]
        return True

    def is_outside(self, tensor: str) -> bool:
        """Whether a constant's values come from a side file."""
        root = self._root(tensor)
        return root in self.initializers and tensors.is_external(self.initializers[root])

    def is_stored(self, tensor: str) -> bool:
        """Whether a constant's values lie in an initializer or a Constant node, where an edit can replace them."""
        return tensor in self.initializers or is_op(self.producer.get(tensor), "Constant")

    def steady(self) -> list[NodeProto]:
        """The nodes that compute the same for every input, such as weights' DequantizeLinear, in order."""
        known, found = self.initializers.keys() - {i.name for i in self.model.graph.input}, list[NodeProto]()
        for n in self.nodes:
            if not n.op_type.startswith(RANDOM) and all(t in known for t in mentioned(n)):
                known |= set(n.output)
                found.append(n)
        return found

    def extent(self, tensor: str) -> tuple[float, float] | None:
        """Smallest and largest value of a constant; None if it has none."""
        if self.is_outside(tensor):
            if tensor not in self.initializers:
                return None
            parts: Iterable[Array] = tensors.arrays(self.initializers[tensor])
        else:
            value = self.constant(tensor)
            parts = [] if value is None else [value]
        ends = [(float(p.min()), float(p.max())) for p in parts if p.size and p.dtype.kind in "fiu"]
        return (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else None

    def _evaluate(self, tensor: str) -> Array | None:
        if tensor in self.initializers:
            return tensors.values(self.initializers[tensor])
        n = self.producer.get(tensor)
        if n is None or n.domain not in QDQ_DOMAINS:
            return None
        if n.op_type == "Constant":
            for a in n.attribute:
                if a.name == "value":
                    return tensors.values(a.t)
                if a.name in ("value_float", "value_floats"):
                    return np.asarray(helper.get_attribute_value(a), np.float32)
                if a.name in ("value_int", "value_ints"):
                    return np.asarray(helper.get_attribute_value(a), np.int64)
            return None
        if n.op_type not in FOLDABLE or not n.input or self._root(tensor) is None:
            return None
        args = [self.constant(t) if t else None for t in n.input]
        if n.op_type != "CastLike" and any(a is None for a, t in zip(args, n.input, strict=True) if t):
            return None
        try:
            return fold(n, args)
        except (ValueError, IndexError, TypeError):  # shapes that do not fit, in a damaged file
            return None

    def _root(self, tensor: str) -> str | None:
        """The constant at the end of a chain of first inputs, if that is what is there (nothing is evaluated)."""
        for _ in range(64):
            if tensor in self.initializers:
                return tensor
            n = self.producer.get(tensor)
            if n is None:
                return None
            if n.op_type == "Constant":
                return tensor
            if n.op_type not in FOLDABLE or not n.input:
                return None
            tensor = n.input[0]
        return None


def tensor_outputs(model: onnx.ModelProto) -> list[str]:
    """Names of the graph outputs that are tensors, in order: sequences and maps are not compared."""
    return [o.name for o in model.graph.output if o.type.WhichOneof("value") in (None, "tensor_type")]
