"""Constants of a rewritten model against those of its original, byte for byte, through what is declared.

A weight's channels may be repeated and reordered (`Edit.takes`), its integers put on coarser steps, its rows halved by
halving their steps.  Everything else must be what it was: dtype, dims, bytes, and the nodes between a constant and its
reader.  What lies in side files is compared block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnx_ocs.model import tensors
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.probes.rescaled import coarse
from onnx_ocs.qdq.bias import Bias
from onnx_ocs.qdq.weights import Weight, read_weight
from onnx_ocs.verification.bytewise import BLOCK, attributes, equal_arrays, same_tensor
from onnx_ocs.verification.values import Differs

__all__ = ["Constants", "Edit", "Expected"]

Expected = Array | TensorProto  # the latter where values lie in a side file


@dataclass(frozen=True, eq=False)
class Edit:
    """What is declared to become of a weight, in its reader's axes, in this order.

    Attributes:
        coarser: by what the steps of its channels have grown; None: they have not.
        takes: for each axis whose channels are repeated, the old channel of each new one.
        inside: for a grouped Conv, the old input channel of each new one in every group, (groups, n).
        halves: an axis, and what its channels are multiplied by.
    """

    coarser: Array | None = None
    takes: Mapping[int, Array] = field(default_factory=dict)
    inside: Array | None = None
    halves: tuple[int, Array] | None = None

    @property
    def nothing(self) -> bool:
        """Whether the weight stays what it is."""
        return self.coarser is None and not self.takes and self.inside is None and self.halves is None


class Constants:
    """The constants of both models.

    Attributes:
        refitted: constants of the rewritten model that a layer declares to have new values.
        allowed: those of them that the node at hand may read.
        expected: what they would hold if they had not been re-fitted.
    """

    def __init__(self, before: Graph, after: Graph, refitted: frozenset[str] = frozenset()) -> None:
        self.before, self.after, self.refitted = before, after, refitted
        self.allowed: frozenset[str] = frozenset()
        self.expected: dict[str, Expected] = {}
        self.changed: set[str] = set()
        self._same: set[tuple[str, str]] = set()

    def untouched(self) -> Iterator[str]:
        """What initializers under a name of the original differ from it, one sentence each."""
        for name, new in self.after.initializers.items():
            old = self.before.initializers.get(name)
            if old is None or name in self.refitted:
                continue
            if same_tensor(old, new):
                self._same.add((name, name))
            else:
                self.changed.add(name)
                yield f"the initializer '{name}' is not the original's"

    # ---- any constant -----------------------------------------------------------------------------------------------

    def same(self, new: str, old: str) -> None:
        """A constant that must be the original's, with all that stands in front of it.

        Raises:
            Differs: it is not.
        """
        if (new, old) in self._same:  # for another reader
            self._own(new)
            return
        a, b = self.after.producer.get(new), self.before.producer.get(old)
        if new in self.after.initializers and old in self.before.initializers:
            self._same_initializer(new, old)
        elif a is not None and b is not None:
            self._same_node(a, b)
            if list(a.output).index(new) != list(b.output).index(old):
                raise Differs(f"'{new}' is another output than '{old}'")
        else:
            raise Differs(f"the constant '{new}' is not stored as '{old}' was")
        self._same.add((new, old))

    def _own(self, new: str) -> None:
        """All new values in front of a constant are declared by the node at hand."""
        stack = [new] if self.refitted - self.allowed else []
        while stack:
            name = stack.pop()
            if name in self.refitted and name not in self.allowed:
                raise Differs(f"the constant '{name}' has new values, which another layer declares")
            node = self.after.producer.get(name)
            stack += [] if node is None else node.input

    def _same_initializer(self, new: str, old: str) -> None:
        if new in self.refitted:
            stored = self.before.initializers[old]
            self._declared(new, lambda: tensors.values(stored), stored if tensors.is_external(stored) else None)
        elif new in self.changed or not same_tensor(self.after.initializers[new], self.before.initializers[old]):
            raise Differs(f"the constant '{new}' does not hold what '{old}' held")

    def _same_node(self, a: NodeProto, b: NodeProto, without: tuple[str, ...] = ()) -> None:
        if (a.op_type, a.domain, len(a.input)) != (b.op_type, b.domain, len(b.input)):
            raise Differs(
                f"the constant '{a.output[0]}' is made by {a.op_type}, where {b.op_type} made '{b.output[0]}'"
            )
        if a.op_type == "Constant" and a.output[0] in self.refitted:
            name = b.output[0]
            self._declared(a.output[0], lambda: self.value(self.before, name))
            return
        if attributes(a, without) != attributes(b, without):
            raise Differs(f"the attributes of {a.op_type} '{a.name or a.output[0]}' are not the original's")
        for t, u in zip(a.input, b.input, strict=True):
            typed = is_op(b, "CastLike") and u != b.input[0] and not self.before.is_constant(u)  # gives a type only
            if (t or u) and not typed:
                self.same(t, u)

    def value(self, graph: Graph, name: str) -> Array:
        """A constant's value.

        Raises:
            Differs: it is no constant.
        """
        found = graph.constant(name) if name else None
        if found is None:
            raise Differs(f"'{name}' is no constant")
        return found

    def equal(self, new: str, expected: Array, flat: bool = False) -> None:
        """A constant that must hold these values.

        Args:
            new: the constant.
            expected: its values.
            flat: whether it may have further axes of size 1 in front.

        Raises:
            Differs: it does not.
        """
        if new in self.refitted:
            shape = self.value(self.after, new).shape if flat else expected.shape
            self._declared(new, lambda: expected.reshape(shape))
            return
        found = self.value(self.after, new)
        if flat and found.ndim and found.size == found.shape[-1]:
            found = found.reshape(-1) if expected.ndim else found.reshape(())
        if not equal_arrays(found, np.asarray(expected)):
            raise Differs(f"the constant '{new}' does not hold what the original and the declarations give")

    def _declared(self, new: str, expected: Any, stored: TensorProto | None = None) -> None:
        """A constant with new values: the right type and shape, and declared by the node at hand."""
        if new not in self.allowed:
            raise Differs(f"the constant '{new}' has new values, which another layer declares")
        wanted = np.asarray(expected())
        found = self.after.constant_shape(new)
        value = self.value(self.after, new)
        if found != wanted.shape or value.dtype != wanted.dtype:
            raise Differs(f"the re-fitted constant '{new}' has another type or shape than before")
        self.expected[new] = wanted if stored is None else stored

    # ---- weights ----------------------------------------------------------------------------------------------------

    def weight(self, new: NodeProto, old: NodeProto, edit: Edit) -> None:
        """A layer's weight, and the nodes and parameters in front of it.

        Raises:
            Differs: it is not what the original and the declarations give.
        """
        if edit.nothing:
            self.same(new.input[1], old.input[1])
            return
        was, now = read_weight(self.before, old, 1), read_weight(self.after, new, 1)
        if was is None or now is None or len(was.nodes) != len(now.nodes):
            raise Differs("its weight is not made as the original's is")
        for k, (a, b) in enumerate(zip(now.nodes, was.nodes, strict=True)):
            if (a.op_type, a.domain, len(a.input)) != (b.op_type, b.domain, len(b.input)):
                raise Differs(f"its weight passes {a.op_type}, where the original's passes {b.op_type}")
            if attributes(a) != attributes(b):
                raise Differs(f"the attributes of {a.op_type} '{a.name or a.output[0]}' are not the original's")
            for p in range(1, len(a.input)):
                if not (a.input[p] or b.input[p]):
                    continue
                if is_op(b, "QuantizeLinear", "DequantizeLinear"):
                    self._parameter(a.input[p], was, k, p, edit)
                else:
                    self.same(a.input[p], b.input[p])
        self._root(now.root, was, edit)

    def _parameter(self, new: str, was: Weight, k: int, p: int, edit: Edit) -> None:
        """A scale or zero-point in front of a weight."""
        old = self.value(self.before, was.nodes[k].input[p])
        axis = was.parameter_axis(self.before, k)
        expected = old
        if p == 1 and edit.coarser is not None:
            expected = (expected * edit.coarser).astype(old.dtype)
        if axis is not None and old.size > 1:
            if axis in edit.takes:
                expected = expected[edit.takes[axis]]
            if axis == 1 and edit.inside is not None:  # every group repeats its own channels
                raise Differs("its grouped weight has steps along the input channels")
        if p == 1 and edit.halves is not None and axis == edit.halves[0]:
            expected = (expected * edit.halves[1]).astype(old.dtype)
        self.equal(new, expected)

    def _root(self, new: str, was: Weight, edit: Edit) -> None:
        perm = was.perms[-1] if was.perms else tuple(range(len(was.shape)))
        takes = {perm[a]: positions for a, positions in edit.takes.items()}
        simple = edit.coarser is None and edit.inside is None
        simple = simple and not (edit.halves is not None and self._is_float(was.root))
        if simple and new not in self.refitted:
            self._taken(new, was.root, takes)
        else:
            self.equal(new, self._edited(was, perm, takes, edit))

    def _is_float(self, root: str) -> bool:
        if root in self.before.initializers:
            return bool(helper.tensor_dtype_to_np_dtype(self.before.initializers[root].data_type).kind == "f")
        return bool(self.value(self.before, root).dtype.kind == "f")

    def _edited(self, was: Weight, perm: tuple[int, ...], takes: Mapping[int, Array], edit: Edit) -> Array:
        x = self.value(self.before, was.root)
        if edit.coarser is not None:
            q = was.quantizer(self.before)
            if q is None:
                raise Differs("its weight has no steps that could grow")
            x = coarse(x, was, q, edit.coarser)
        for axis, positions in takes.items():
            x = np.take(x, positions, axis=axis)
        if edit.inside is not None:
            rows = np.repeat(edit.inside, was.shape[0] // len(edit.inside), axis=0)
            y = np.transpose(x, perm)
            y = np.take_along_axis(y, rows.reshape(*rows.shape, *[1] * (y.ndim - 2)), axis=1)
            x = np.transpose(y, np.argsort(perm))
        if edit.halves is not None and x.dtype.kind == "f":
            shape = [1] * x.ndim
            shape[perm[edit.halves[0]]] = -1
            x = (x * edit.halves[1].reshape(shape)).astype(x.dtype)
        return np.asarray(x)

    def _taken(self, new: str, old: str, takes: Mapping[int, Array]) -> None:
        """Whether a constant holds the other's values at these positions, block by block."""
        source = self.value(self.before, old)
        shape = tuple(len(takes.get(a, range(n))) for a, n in enumerate(source.shape))
        start = 0
        for part in self._parts(new):
            if part.dtype != source.dtype or part.shape[1:] != shape[1:] or not shape:
                raise Differs(f"the weight '{new}' has another type or shape than it should have")
            rows = slice(start, start + len(part))
            start = rows.stop
            wanted = source[takes[0][rows]] if 0 in takes else source[rows]
            for axis, positions in takes.items():
                if axis:
                    wanted = np.take(wanted, positions, axis=axis)
            if not equal_arrays(part, wanted):
                raise Differs(f"the weight '{new}' does not hold the channels of '{old}' that are declared")
        if start != shape[0]:
            raise Differs(f"the weight '{new}' has another shape than it should have")

    def _parts(self, name: str) -> Iterator[Array]:
        """A constant's values, some rows at a time."""
        if self.after.is_outside(name) and name in self.after.initializers:
            yield from tensors.arrays(self.after.initializers[name], BLOCK)
            return
        value = self.value(self.after, name)
        step = max(1, BLOCK // max(1, value[:1].nbytes)) if value.ndim else 1
        if not value.ndim:
            raise Differs(f"the weight '{name}' has no axes")
        yield from (value[k : k + step] for k in range(0, len(value), step))

    # ---- biases -----------------------------------------------------------------------------------------------------

    def bias(self, name: str, expected: Bias) -> None:
        """A layer's bias.

        Args:
            name: what the layer reads; empty for none.
            expected: what it should be.

        Raises:
            Differs: it is not.
        """
        node = self.after.producer.get(name) if name else None
        integer = is_op(node, "DequantizeLinear")
        if expected.kind == "none":
            if name:
                self._added(name)
            return
        if not name:
            raise Differs("it has lost its bias")
        if (expected.kind == "integer") != integer:
            raise Differs(f"its bias is {'' if integer else 'not '}dequantized, unlike what is declared")
        if node is None or not integer:
            self.equal(name, expected.value, flat=True)
            return
        assert expected.scale is not None
        old = expected.dequantize
        if old is not None and (
            (node.op_type, node.domain) != (old.op_type, old.domain)
            or attributes(node, ("axis",)) != attributes(old, ("axis",))
        ):
            raise Differs("the DequantizeLinear of its bias is not the original's")
        self.equal(node.input[0], expected.value, flat=True)
        scale = self.value(self.after, node.input[1])
        self.equal(node.input[1], expected.scale.astype(scale.dtype), flat=True)
        axes = [a.i for a in node.attribute if a.name == "axis"] or [1]
        rank = self.value(self.after, node.input[0]).ndim
        if scale.size > 1 and (not -rank <= axes[0] < rank or axes[0] % rank != rank - 1):
            raise Differs("the steps of its bias lie along another axis")
        has_zero = len(node.input) > 2 and node.input[2] != ""
        zero = self.value(self.after, node.input[2]).astype(np.int64) if has_zero else np.zeros((), np.int64)
        wanted = np.zeros((), np.int64) if expected.zero_point is None else expected.zero_point
        if not np.array_equal(
            np.broadcast_to(zero.reshape(-1), scale.size), np.broadcast_to(wanted.reshape(-1), scale.size)
        ):
            raise Differs("the zero-points of its bias are not the original's")

    def _added(self, name: str) -> None:
        """A bias where the original has none: declared as re-fitted, nothing without."""
        node = self.after.producer.get(name)
        stored = node.input[0] if node is not None and is_op(node, "DequantizeLinear") else name
        if stored not in self.refitted:
            raise Differs("it has a bias that the original lacks")
        value = self.value(self.after, stored)
        self._declared(stored, lambda: np.zeros_like(value))
        if node is not None and stored != name:
            self.expected[node.input[1]] = self.value(self.after, node.input[1])
