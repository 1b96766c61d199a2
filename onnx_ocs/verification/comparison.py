"""The nodes of a rewritten model against those of its original, in order (`onnx_ocs.verification.structure`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op, label
from onnx_ocs.model.order import mentioned
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.qdq.layers import LAYERS
from onnx_ocs.verification.bytewise import attributes
from onnx_ocs.verification.carry import Carrying, join
from onnx_ocs.verification.constants import Constants, Expected
from onnx_ocs.verification.construct import construct
from onnx_ocs.verification.container import container
from onnx_ocs.verification.declared import OURS, Declared
from onnx_ocs.verification.early import demands, through
from onnx_ocs.verification.layers import Layers
from onnx_ocs.verification.quantizers import Quantizers
from onnx_ocs.verification.values import Differs, Shifted, Value, Wide

__all__ = ["DAMAGED", "Comparison", "Structure"]

DAMAGED = (ValueError, KeyError, IndexError, TypeError, OverflowError, AttributeError, AssertionError, UserError)


class _Lost(Exception):
    """A node reads what another one failed to write: that one was reported."""


@dataclass(eq=False)
class Structure:
    """What the comparison found.

    Attributes:
        failures: what is not the original's and not declared, one sentence each.
        notes: what is worth knowing.
        declared: the file's declarations.
        steps: the original's quantizers with the declared steps.
        unfollowed: layers whose integer bias keeps the scale that it had before its input's step changed.
        expected: for every re-fitted constant, what it would hold without.
    """

    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    declared: Declared = field(default_factory=Declared)
    steps: Steps | None = None
    unfollowed: set[str] = field(default_factory=set)
    expected: dict[str, Expected] = field(default_factory=dict)


class Comparison:
    """One comparison of two models."""

    def __init__(self, before: Graph, after: Graph, found: Structure) -> None:
        assert found.steps is not None
        self.before, self.after, self.found = before, after, found
        self.shapes = infer_shapes(before.model)
        refits = found.declared.refitted
        self.owned = {
            out: frozenset(e.name for e in (r.weight, r.weight_scale, r.bias, r.bias_scale) if e is not None)
            for out, r in refits.items()
        }
        self.constants = Constants(before, after, frozenset().union(*self.owned.values()))
        self.layers = Layers(self.constants, found.steps, self.shapes)
        self.carrying = Carrying(self.constants, self.shapes)
        self.quantizers = Quantizers(self.constants, found.declared, found.steps, self.shapes)
        self.demands = demands(before, after, found.declared.layouts, found.steps)
        self.quantized = {before.producer[q].input[0]: w for q, (_, w) in found.declared.layouts.items()}
        self.values: dict[str, Value] = {t: Value(t) for t in after.inputs}
        self.lost: set[str] = set()
        self.matched: set[int] = set()
        self.tensors = {*before.producer, *before.inputs, *before.initializers}
        names: dict[str, list[NodeProto]] = {}
        for n in before.nodes:
            names.setdefault(n.name, []).append(n)
        self.named = {k: v[0] for k, v in names.items() if k and len(v) == 1}

    def run(self) -> None:
        """Go through the rewritten model."""
        fail = self.found.failures.append
        for why in (*container(self.before, self.after), *self.constants.untouched()):
            fail(why)
        for new in self.after.nodes:
            outputs = [o for o in new.output if o]
            if outputs and all(self.after.is_constant(o) for o in outputs):
                continue
            try:
                self.node(new)
            except _Lost:
                self.lost.update(outputs)
            except Differs as d:
                self.lost.update(outputs)
                fail(f"{new.op_type} '{label(new)}': {d}")
            except DAMAGED as e:
                self.lost.update(outputs)
                fail(f"{new.op_type} '{label(new)}' cannot be compared ({type(e).__name__}: {e})")
        self.finish()
        self.found.unfollowed = self.layers.unfollowed
        self.found.expected = self.constants.expected

    def finish(self) -> None:
        """Outputs, and what is missing or left over."""
        fail = self.found.failures.append
        for o in (o.name for o in self.before.model.graph.output):
            if o in self.lost:
                continue
            try:
                self.same(o, o)
            except (Differs, _Lost) as d:
                fail(f"graph output '{o}': {d}")
        for n in self.before.nodes:
            outputs = [o for o in n.output if o]
            if id(n) not in self.matched and not (outputs and all(self.before.is_constant(o) for o in outputs)):
                fail(f"{n.op_type} '{label(n)}' of the original is missing")
        old = {o for n in self.before.nodes for o in n.output}
        for n in self.after.nodes:
            read = [o for o in n.output if o in self.after.outputs or self.after.readers(o) or self.after.captured(o)]
            if not read and old.isdisjoint(n.output):
                fail(f"{n.op_type} '{label(n)}' is not the original's, and nobody reads it")

    # ---- tensors ----------------------------------------------------------------------------------------------------

    def value(self, tensor: str) -> Value | None:
        """What is known of a tensor; None for a constant."""
        if tensor in self.lost:
            raise _Lost
        if tensor in self.values:
            return self.values[tensor]
        if self.after.is_constant(tensor):
            return None
        raise Differs(f"'{tensor}' is not known")

    def same(self, new: str, old: str) -> None:
        """A tensor that must be the original's."""
        if not new or not old:
            if new != old:
                raise Differs(f"it reads '{new}' where the original reads '{old}'")
            return
        v = self.value(new)
        if v is None:
            self.constants.same(new, old)
            return
        if v.of != old:
            raise Differs(f"it reads '{new}', which is the original's '{v.of}', where the original reads '{old}'")
        if v.form is not None and not self.identity(v):
            raise Differs(f"it reads '{new}', which does not hold the channels of the original's '{old}'")

    def identity(self, v: Value) -> bool:
        """Whether rows that were gathered are all channels, as they are."""
        form, shape = v.form, self.shapes.get(v.of)
        if not isinstance(form, Shifted) or not form.plain() or shape is None:
            return False
        count = shape[form.axis] if -len(shape) <= form.axis < len(shape) else None
        return count == form.origin.size and np.array_equal(form.origin, np.arange(form.origin.size))

    def behind(self, of: str, axis: int) -> int:
        """Number of axes behind one; a large number where that is not known."""
        if axis < 0:
            return -1 - axis
        return len(self.shapes[of]) - 1 - axis if of in self.shapes else 1 << 20

    # ---- nodes ------------------------------------------------------------------------------------------------------

    def node(self, new: NodeProto) -> None:
        """Compare one node, and say what it writes."""
        old = self.counterpart(new)
        if old is None:
            self.added(new)
            return
        if id(old) in self.matched:
            raise Differs(f"it is there twice: the original has '{label(old)}' once")
        self.matched.add(id(old))
        self.frame(new, old)
        form = self.follow(new, old)
        for o, was in zip(new.output, old.output, strict=True):
            if not o and not was:
                continue
            if not o or not was or (o != was and o in self.tensors):
                raise Differs(f"it writes '{o}', where the original writes '{was}'")
            self.values[o] = Value(was, form).settled()

    def counterpart(self, new: NodeProto) -> NodeProto | None:
        """The original's node that this one should be; None if it is an added one."""

        def fits(old: NodeProto | None) -> bool:
            return old is not None and (old.op_type, old.domain) == (new.op_type, new.domain)

        out = next((o for o in new.output if o), "")
        if fits(found := self.before.producer.get(out)):
            return found
        if fits(found := self.named.get(new.name)):
            return found
        # No name of its own, and its output renamed: by what it reads.  A depthwise layer's groups may have grown
        free = ("group",) if is_op(new, "Conv") else ()
        for t in new.input:
            v = self.values.get(t)
            for old in self.before.readers(v.of) if v is not None else ():
                renamed = not fits(self.after.producer.get(old.output[0])) and id(old) not in self.matched
                if fits(old) and old.name == new.name and renamed and attributes(old, free) == attributes(new, free):
                    return old
        return None

    def frame(self, new: NodeProto, old: NodeProto) -> None:
        """Name, description and metadata, and what its subgraphs read."""
        if (new.name, new.doc_string, new.overload) != (old.name, old.doc_string, old.overload):
            raise Differs("its name or description is not the original's")
        theirs = [[(p.key, p.value) for p in n.metadata_props if not p.key.startswith(OURS)] for n in (new, old)]
        if theirs[0] != theirs[1]:
            raise Differs("its metadata are not the original's")
        if len(new.output) != len(old.output):
            raise Differs("it has another number of outputs")
        own = set(new.input)
        for t in dict.fromkeys(mentioned(new)):
            if t not in own and t in self.tensors:
                self.same(t, t)

    def follow(self, new: NodeProto, old: NodeProto) -> Wide | Shifted | None:
        """Inputs, attributes and constants of a node that the original has."""
        self.constants.allowed = self.allowed(new)
        if is_op(old, *LAYERS):
            return self.layer(new, old)
        if attributes(new) != attributes(old):
            raise Differs("its attributes are not the original's")
        if len(new.input) != len(old.input):
            raise Differs("it has another number of inputs")
        if is_op(old, "QuantizeLinear", "DequantizeLinear") and not self.before.is_constant(old.input[0]):
            v = self.value(new.input[0])
            if v is None or v.of != old.input[0]:
                self.same(new.input[0], old.input[0])
            if v is not None and self.identity(v):
                v = Value(v.of)
            return self.quantizers(new, old, v)
        values = [self.value(t) if t else None for t in new.input]
        wide = [k for k, v in enumerate(values) if v is not None and isinstance(v.form, Wide)]
        if any(v is not None and isinstance(v.form, Shifted) and not self.identity(v) for v in values):
            return self.shifted(new, old, values)
        if wide:
            return self.carried(new, old, values, wide)
        self.all_same(new.input, old.input)
        return None

    def allowed(self, new: NodeProto) -> frozenset[str]:
        """Re-fitted constants that a node may read: its own, or for an Add those of the MatMul before it."""
        found = self.owned.get(new.output[0], frozenset())
        if self.owned and is_op(new, "Add"):
            for t in new.input:
                if is_op(self.after.producer.get(t), "MatMul"):
                    found |= self.owned.get(t, frozenset())
        return found

    def layer(self, new: NodeProto, old: NodeProto) -> Wide | Shifted | None:
        """A layer, whose weight and bias may be repeated."""
        v = self.value(new.input[0])
        wide = v.form if v is not None and isinstance(v.form, Wide) else None
        demand = self.demands.get(old.output[0])
        if wide is None:
            self.same(new.input[0], old.input[0])
        elif v is not None and v.of != old.input[0]:
            raise Differs(f"it reads '{new.input[0]}', where the original reads '{old.input[0]}'")
        if not self.before.is_constant(old.input[1]):
            if wide is not None or demand is not None or attributes(new) != attributes(old):
                raise Differs("its weight is computed, or its attributes are not the original's")
            self.all_same(new.input[1:], old.input[1:])
            return None
        if len(old.input) > 2 and old.input[2] and not self.before.is_constant(old.input[2]):
            self.same(new.input[2], old.input[2])
            if wide is not None or demand is not None:
                raise Differs("its bias is computed")
            if attributes(new) != attributes(old):
                raise Differs("its attributes are not the original's")
            self.constants.same(new.input[1], old.input[1])
            return None
        return self.layers(new, old, wide, demand)

    def all_same(self, new: Sequence[str], old: Sequence[str]) -> None:
        """Tensors that must all be the original's."""
        if len(new) != len(old):
            raise Differs("it has another number of inputs")
        for t, u in zip(new, old, strict=True):
            self.same(t, u)

    def carried(self, new: NodeProto, old: NodeProto, values: list[Value | None], wide: list[int]) -> Wide:
        """A node that reads channels and their copies."""
        for k in wide:
            v = values[k]
            assert v is not None
            if v.of != old.input[k]:
                raise Differs(f"it reads '{new.input[k]}', where the original reads '{old.input[k]}'")
        first = values[wide[0]]
        assert first is not None and isinstance(first.form, Wide)
        if is_op(old, "Concat"):
            return self.joined(new, old, values)
        if len(wide) > 1 or any(v is not None for k, v in enumerate(values) if k != wide[0]):
            raise Differs("it reads channels and their copies together with another tensor")
        if is_op(old, "Clip") and first.form.integer and wide == [0]:
            return self.quantizers.clip(new, old, first.form)
        return self.carrying(new, old, wide[0], first.form)

    def joined(self, new: NodeProto, old: NodeProto, values: list[Value | None]) -> Wide:
        """A Concat of which some inputs have copies."""
        axis, parts = int(attribute(old, "axis", 0)), list[Wide | int]()
        shape = next((self.shapes[t] for t in old.input if t in self.shapes), None)
        if shape is None:
            raise Differs("the rank of what it joins is not known")
        for t, u, v in zip(new.input, old.input, values, strict=True):
            if v is not None and isinstance(v.form, Wide):
                if v.form.sums is not None or v.form.axis % len(shape) != axis % len(shape):
                    raise Differs("it joins channels along another axis than theirs")
                parts.append(v.form)
                continue
            self.same(t, u)
            size = self.shapes[u][axis] if u in self.shapes else None
            if not isinstance(size, int):
                raise Differs(f"the number of channels of '{u}' is not known")
            parts.append(size)
        return join(parts, axis % len(shape))

    def shifted(self, new: NodeProto, old: NodeProto, values: list[Value | None]) -> Shifted:
        """A node between a layer and a quantizer of copies."""
        at = [k for k, v in enumerate(values) if v is not None]
        v = values[at[0]]
        if len(at) != 1 or v is None or not isinstance(v.form, Shifted) or v.of != old.input[at[0]]:
            raise Differs("it reads channels for a quantizer of copies, and is not in front of one")
        return through(self.constants, new, old, at[0], v.form, self.demands.get(old.output[0]))

    def added(self, new: NodeProto) -> None:
        """A node that the original does not have."""
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in new.attribute):
            raise Differs("it is not the original's, and nothing declares it")
        values = [self.value(t) if t else None for t in new.input]
        out = new.output[0]
        value = self.quantizers.part(new, values[0]) if is_op(new, "QuantizeLinear") else None
        if value is None:
            values = [self.quantizers.bases(v) for v in values]
            value = construct(new, values, self.constants, self.behind, self.quantized).settled()
        value = self.quantizers.joined(out, value)
        if out in self.tensors and value.of == out and self.identity(value):
            value = replace(value, form=None)
        if out in self.tensors and (value.of != out or value.form is not None):
            raise Differs(f"it writes '{out}', and does not give the original's channels")
        self.values[out] = value
