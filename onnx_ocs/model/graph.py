"""An index over one ONNX graph, and the few edits that passes make to it.

`Graph` holds the main graph of a `ModelProto`: who produces a tensor, who reads it, which tensors are constants.
It reads constants through initializers (also those repeated as graph inputs), Constant nodes and small chains of
Identity, Cast, CastLike, Reshape, Transpose, QuantizeLinear, Clip and DequantizeLinear.  All edits go through it, so
that names stay unique, initializers are never changed in place (they may be shared with strangers) and what a
pass touched is known.  Subgraphs (If, Loop, Scan) and local functions are never entered: a node that holds a subgraph
simply reads every outer tensor that the subgraph mentions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_ocs.model import tensors
from onnx_ocs.model.folding import Taken, fold
from onnx_ocs.model.nodes import ONNX_DOMAINS, QDQ_DOMAINS, Array, attribute, is_op, label
from onnx_ocs.model.order import inner_names, mentions_of, topological

__all__ = ["Array", "Graph", "attribute"]

REMEMBERED = 1 << 16  # bytes up to which a side file's values are kept once they were read
FOLDABLE = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "QuantizeLinear",
    "DequantizeLinear", "Clip",
})  # fmt: skip


class Graph:
    """The main graph of a model, indexed; edits are written back by :meth:`commit`.

    Attributes:
        model: the model; changed by :meth:`commit` only (but nodes' inputs are edited in place).
        nodes: the nodes in topological order.
        producer: tensor name -> the node that writes it.
        initializers: tensor name -> its TensorProto (see `initializer`).
        inputs: names of the graph inputs that are not initializers.
        outputs: names of the graph outputs.
        opset: version of the ai.onnx operator set.
        touched: nodes added or edited since, by id; the pass manager writes provenance on them.
        memo: what has been read off nodes, by id of the node (and input); forgotten with every edit.
        grids: quantizers that have been read, by the names of their parameters and their attributes.
        reshaped: tensors whose shape an edit changed; their value_info is dropped by :meth:`commit`.
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
        self._taken = {t.name for t in g.initializer} | {i.name for i in g.input} | self.outputs
        self._names: set[str] = set()
        self._turn: dict[str, int] = {}
        self._captured: dict[str, list[NodeProto]] = defaultdict(list)
        for n in self.nodes:
            self._index(n)
        self._written = set(self.producer)
        self._constants: dict[str, Array | None] = {}
        self._arrays: dict[str, Array | Taken] = {}  # constants that were added, and are not yet bytes
        self._added: list[NodeProto] = []
        self.touched: dict[int, NodeProto] = {}
        self.reshaped: set[str] = set()
        self.memo: dict[Any, Any] = {}
        self.grids: dict[Any, Any] = {}
        # What nobody read from the start is the user's, and stays; inputs with a default keep their initializer.
        read = self._readers.keys() | self._captured.keys() | self.outputs
        self._idle = (self.initializers.keys() - read) | {i.name for i in g.input}
        self._idle_nodes = {id(n) for n in self.nodes if read.isdisjoint(n.output)}

    def _index(self, n: NodeProto) -> None:
        for o in n.output:
            if o:
                self.producer[o] = n
        for t in n.input:
            if t:
                self._readers[t][id(n)] = n
        self._taken.update(n.input, n.output)
        if id(n) in self._mentions:
            self._taken.update(inner_names(n))
            for t in dict.fromkeys(self._mentions[id(n)]):
                if t:
                    self._captured[t].append(n)
        self._names.add(n.name)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def readers(self, tensor: str) -> list[NodeProto]:
        """Nodes that read the tensor as an input, each once."""
        found = self._readers.get(tensor)
        return list(found.values()) if found else []

    def initializer(self, name: str) -> TensorProto:
        """An initializer with its values; `initializers` holds only what those are like that were added as arrays."""
        if name not in self._arrays:
            return self.initializers[name]
        value = self.constant(name)
        assert value is not None
        return numpy_helper.from_array(value, name)

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
        if tensor in self._arrays:
            added = self._arrays[tensor]
            return added.array() if isinstance(added, Taken) else added
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

    # ---- edits ------------------------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """A tensor name that nothing in the graph has, like the given one."""
        candidate = name
        while candidate in self._taken:
            self._turn[name] = self._turn.get(name, 0) + 1
            candidate = f"{name}_{self._turn[name]}"
        self._taken.add(candidate)
        return candidate

    def take(self, tensor: str, axis: int, positions: Array) -> Taken | TensorProto:
        """Positions of a constant along an axis, not yet put together; of one in a side file, a reference."""
        stored, added = self.initializers.get(tensor), self._arrays.get(tensor)
        if isinstance(added, Taken):
            return added.take(axis, positions)
        if stored is not None and (reference := tensors.take(stored, axis, positions)) is not None:
            return reference
        value = self.constant(tensor)
        assert value is not None
        return Taken(value, {axis: positions})

    def add_initializer(self, name: str, value: Array | Taken | TensorProto) -> str:
        """Add a constant under a fresh name and return that name; an array must not change any more."""
        name = self.fresh(name)
        if isinstance(value, TensorProto):
            value.name = name
            self.initializers[name] = value
        else:  # it becomes bytes where it is to lie in the end
            self._arrays[name] = value if isinstance(value, Taken) else np.asarray(value, order="C")
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self.initializers[name] = TensorProto(name=name, data_type=kind, dims=value.shape)
        return name

    def is_stored(self, tensor: str) -> bool:
        """Whether a constant's values lie in an initializer or a Constant node, where `overwrite` can replace them."""
        return tensor in self.initializers or is_op(self.producer.get(tensor), "Constant")

    def overwrite(self, tensor: str, value: Array) -> None:
        """Give a constant that is stored (`is_stored`) new values in place; dtype and shape must be the old ones.

        All who read it see them: the caller has made sure that nobody minds.
        """
        self.memo.clear()
        self.grids.clear()
        self._constants.clear()
        if tensor in self._arrays:
            self._arrays[tensor] = np.asarray(value, order="C")
            return
        if tensor in self.initializers:
            self.initializers[tensor].CopyFrom(numpy_helper.from_array(value, tensor))
            return
        node = self.producer[tensor]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value, tensor)))

    def add_node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, whose name is taken as it is, and return that output."""
        name, k = output + "/" + op, 1
        while name in self._names:
            name, k = f"{output}/{op}_{k}", k + 1
        self._add(helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def clone_node(self, node: NodeProto, output: str) -> NodeProto:
        """Add a copy of a one-output node under a fresh name, writing the given tensor."""
        new = NodeProto()
        new.CopyFrom(node)
        new.name = ""
        new.output[0] = output
        k, new.name = 1, label(node) + "_clone"
        while new.name in self._names:
            new.name, k = f"{label(node)}_clone_{k}", k + 1
        self._add(new)
        return new

    def _add(self, node: NodeProto) -> None:
        self._added.append(node)
        self.touched[id(node)] = node
        self._mentions |= mentions_of([node])
        self._index(node)

    def set_input(self, node: NodeProto, index: int, tensor: str) -> None:
        """Let a node read another tensor at one input."""
        self.memo.clear()
        self.touched[id(node)] = node
        old = node.input[index] if index < len(node.input) else ""
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = tensor
        if old and old not in node.input:
            self._readers[old].pop(id(node), None)
        if tensor:
            self._readers[tensor][id(node)] = node

    def rename_output(self, tensor: str, name: str) -> None:
        """Let the producer of a tensor write it under another name (its readers are not moved)."""
        self.memo.clear()
        node = self.producer.pop(tensor)
        self.touched[id(node)] = node
        node.output[list(node.output).index(tensor)] = name
        self.producer[name] = node

    @property
    def added(self) -> list[NodeProto]:
        """The nodes that were added, in the order of their adding."""
        return list(self._added)

    def commit(self, stamp: Callable[[NodeProto], None] | None = None) -> None:
        """Write nodes and initializers back: sorted, without what an edit left unread.

        Args:
            stamp: called with every node that was added or edited, to write provenance on it.
        """
        g = self.model.graph
        if stamp is not None:
            for n in self.touched.values():
                stamp(n)
        nodes = topological([*self.nodes, *self._added], self._mentions)
        used = set(self.outputs)
        alive: list[NodeProto] = []
        for n in reversed(nodes):
            if id(n) in self._idle_nodes or not used.isdisjoint(n.output):
                alive.append(n)
                used.update(n.input)
                used.update(self._mentions.get(id(n), ()))
        nodes = alive[::-1]
        known = {t.name for t in g.initializer}
        unread = known - used - self._idle
        if unread:  # sorted to the end and cut off: no other weight is copied
            g.initializer.sort(key=lambda t: t.name in unread)
            del g.initializer[len(g.initializer) - sum(t.name in unread for t in g.initializer) :]
        for name, t in self.initializers.items():
            if name not in used or name in known:
                continue
            value, new = self.constant(name) if name in self._arrays else None, g.initializer.add()
            if value is not None and value.dtype.kind in "fiub":
                new.CopyFrom(t)
                new.raw_data = numpy_helper.tobytes_little_endian(value)
            else:  # as it is, or several to a byte
                new.CopyFrom(self.initializer(name))
            if self._arrays.pop(name, None) is not None:  # it is held once
                self._constants.pop(name, None)
                self.initializers[name] = new
        del g.node[:]
        g.node.extend(nodes)
        written = {o for n in nodes for o in n.output}
        for k in reversed(range(len(g.value_info))):
            name = g.value_info[k].name
            if name in self.reshaped or (name not in written and name in self._written):
                del g.value_info[k]
