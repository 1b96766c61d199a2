"""Edits of a graph: all go through here, so that names stay unique and what a pass touched is known.

Initializers are never changed in place unless it is asked for: they may be shared with strangers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_ocs.model import tensors
from onnx_ocs.model.folding import Taken
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.names import Names
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.model.order import inner_names, mentions_of, topological
from onnx_ocs.model.protobuf import drop_value_info
from onnx_ocs.model.spill import spill, spilled

__all__ = ["EditableGraph"]


class EditableGraph(Graph):
    """A graph that may be edited; edits are written back by :meth:`commit`.

    Attributes:
        model: the model; changed by :meth:`commit` only (but nodes' inputs are edited in place).
        initializers: of those that were added as arrays only what they are like (see `initializer`).
        touched: nodes added or edited since, by id; the pass manager writes provenance on them.
        memo: forgotten with every edit.
        reshaped: tensors whose shape an edit changed; their value_info is dropped by :meth:`commit`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index the model's main graph (the model is not copied)."""
        super().__init__(model)
        g = model.graph
        ends = (t.name for t in (*g.initializer, *g.input, *g.output))
        inside = (t for n in self.nodes if id(n) in self._mentions for t in inner_names(n))
        self._tensor_names = Names(ends, self.producer, self._readers, inside)
        self._node_names = Names(n.name for n in self.nodes)
        self._arrays: dict[str, Array | Taken] = {}  # constants that were added, and are not yet bytes
        self._added: list[NodeProto] = []
        self.touched: dict[int, NodeProto] = {}
        self.reshaped: set[str] = set()
        self._written = set(self.producer)
        # What nobody read from the start is the user's, and stays; inputs with a default keep their initializer.
        read = self._readers.keys() | self._captured.keys() | self.outputs
        self._idle = (self.initializers.keys() - read) | {i.name for i in g.input}
        self._idle_nodes = set(map(id, self.nodes)) - {id(n) for t, n in self.producer.items() if t in read}

    def initializer(self, name: str) -> TensorProto:
        """An initializer with its values."""
        value = self.constant(name) if name in self._arrays else None
        return self.initializers[name] if value is None else numpy_helper.from_array(value, name)

    def _evaluate(self, tensor: str) -> Array | None:
        added = self._arrays.get(tensor)
        if added is None:
            return super()._evaluate(tensor)
        return added.array() if isinstance(added, Taken) else added

    def fresh(self, name: str) -> str:
        """A tensor name that nothing in the graph has, like the given one."""
        return self._tensor_names.fresh(name)

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

    def add_like(self, tensor: str, name: str, value: Array) -> str:
        """Add other values of a constant's dtype and shape: in a file, where the constant lies in one."""
        stored = spilled(self.initializers.get(tensor), value)
        return self.add_initializer(name, value if stored is None else stored)

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
            if not spill(self.initializers[tensor], value):
                self.initializers[tensor].CopyFrom(numpy_helper.from_array(value, tensor))
            return
        node = self.producer[tensor]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value, tensor)))

    def add_node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, whose name is taken as it is, and return that output."""
        name = self._node_names.fresh(output + "/" + op)
        self._add(helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def clone_node(self, node: NodeProto, output: str) -> NodeProto:
        """Add a copy of a one-output node under a fresh name, writing the given tensor."""
        new = NodeProto()
        new.CopyFrom(node)
        new.name = self._node_names.fresh(label(node) + "_clone")
        new.output[0] = output
        self._add(new)
        return new

    def _add(self, node: NodeProto) -> None:
        self._added.append(node)
        self.touched[id(node)] = node
        inside = mentions_of([node])
        self._mentions.update(inside)
        self._index(node)
        self._tensor_names.update(node.input, node.output, inner_names(node) if inside else ())
        self._node_names.update([node.name])

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
        if stamp is not None:
            for n in self.touched.values():
                stamp(n)
        nodes, used = self._alive()
        gone = self._write_initializers(used)
        g = self.model.graph
        del g.node[:]
        g.node.extend(nodes)
        alive = set(map(id, nodes))
        written = {t for t, n in self.producer.items() if id(n) in alive}
        gone |= self.reshaped | (self._written - written)  # exporters say the shapes of constants, too
        drop_value_info(g, lambda name: name in gone)

    def _alive(self) -> tuple[list[NodeProto], set[str]]:
        """The nodes that are read or were idle from the start, sorted, and all that they and the outputs read."""
        nodes = topological([*self.nodes, *self._added], self._mentions)
        used = set(self.outputs)
        alive: list[NodeProto] = []
        for n in reversed(nodes):
            if id(n) in self._idle_nodes or not used.isdisjoint(n.output):
                alive.append(n)
                used.update(n.input)
                used.update(self._mentions.get(id(n), ()))
        return alive[::-1], used

    def _write_initializers(self, used: set[str]) -> set[str]:
        """Drop from the model what an edit left unread, whose names it returns, and write what was added."""
        g = self.model.graph
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
        return unread
