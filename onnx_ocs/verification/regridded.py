"""The original with the grids that a rewritten file declares: the yardstick where quantizers were left out or split.

Built from the original and the declarations, without any code of the rewriter.  What is compared is whether the
rewritten file is this model, node by node and byte by byte, and nothing else; so an edit that is not declared, or
another one than is declared, is a difference.  What may be declared:

    left out     Q [Clip] DQ, on one grid: its readers read what Q read.  Layers still read DQ.
    split        inputs of a Concat behind which a pair stood: a Q and a DQ of their own, on any grid of that type
    zero point   Q and every DQ on its grid that reads its integers, which nobody else may read
    16 bits      Q [Clip] and every DQ behind it: the type and the zero-point, without the Clip; the domain, where the
                 opset has no such types.  Steps are declared by themselves

A quantizer that saturates at 0 where its input goes below, stands for a ReLU: it must not be left out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.names import Names
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.model.order import mentioned, topological
from onnx_ocs.model.protobuf import drop_value_info
from onnx_ocs.model.spill import spilled
from onnx_ocs.qdq.intervals import value_bounds
from onnx_ocs.qdq.layers import LAYERS
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.records.grids import Gains, LeftOut, Part, Sixteen, Split, ZeroPoint, read_edits
from onnx_ocs.verification.factors import Factors
from onnx_ocs.verification.gained import Gained
from onnx_ocs.verification.values import Differs

__all__ = ["regridded"]

MOVING = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Clip"})
FIRST16 = 21  # the first opset in which Q and DQ have types of 16 bits
CONTRIB = "com.microsoft"


def regridded(original: onnx.ModelProto, rewritten: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The original as the rewritten file says that it was regridded.

    Args:
        original: the model before; not changed.
        rewritten: the model after, whose metadata declare the edits.

    Returns:
        The yardstick (the original itself where nothing is declared), and the number of edits.

    Raises:
        Differs: an edit is damaged, or cannot be made on the original.
    """
    try:
        given, declared = read_edits(original), read_edits(rewritten)
    except ValueError as e:
        raise Differs(str(e)) from None
    if declared[: len(given)] != given:
        raise Differs("it does not repeat what the original says of its grids")
    edits = declared[len(given) :]
    if not edits:
        return original, 0
    model = onnx.ModelProto()
    model.CopyFrom(original)
    idle = _idle(original)
    for edit in edits:
        y = _Yardstick(model)
        if isinstance(edit, LeftOut):
            y.leave_out(edit)
        elif isinstance(edit, Split):
            y.split(edit)
        elif isinstance(edit, Sixteen):
            y.lengthen(edit)
        elif isinstance(edit, Gains):
            y.give(edit)
        else:
            y.move(edit)
        y.finish(idle)
    loose = [e.joined for e in edits if isinstance(e, Split) and _still_joined(model, e.joined)]
    if loose:
        raise Differs(f"the inputs of '{loose[0]}' have grids of their own, and the one behind it is still there")
    return model, len(edits)


def _idle(model: onnx.ModelProto) -> set[str]:
    """What nobody reads in the original stays."""
    read = {t for n in model.graph.node for t in mentioned(n)} | {o.name for o in model.graph.output}
    written = {o for n in model.graph.node for o in n.output}
    named = written | {t.name for t in model.graph.initializer}
    return (named - read) | {i.name for i in model.graph.input}


def _still_joined(model: onnx.ModelProto, joined: str) -> bool:
    """Whether all that a Concat writes goes through one quantizer still."""
    readers = [n for n in model.graph.node if joined in n.input]
    return bool(readers) and all(is_op(n, "QuantizeLinear") for n in readers)


class _Yardstick:
    """A model that is edited once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, Graph(model)
        self.added: list[NodeProto] = []
        self.gone: set[int] = set()
        self.retyped: set[str] = set()  # tensors whose type is another one, so that nothing is said of them any more
        self.names = Names(self.graph.initializers, self.graph.producer)

    def _node(self, output: str, *ops: str) -> NodeProto:
        n = self.graph.producer.get(output)
        if n is None or not is_op(n, *ops) or self.graph.is_constant(output):
            raise Differs(f"the original has no {' or '.join(ops)} that writes '{output}'")
        return n

    def _grid(self, n: NodeProto) -> Quantizer:
        q = read_quantizer(self.graph, n)
        if not isinstance(q, Quantizer):
            raise Differs(f"the grid of '{label(n)}' cannot be read")
        return q

    def _free(self, *names: str) -> None:
        g = self.graph
        for name in names:
            if not name or name in g.producer or name in g.initializers or name in g.inputs:
                raise Differs(f"a new tensor is called '{name}', as one of the original is")

    # ---- left out ---------------------------------------------------------------------------------------------------

    def leave_out(self, e: LeftOut) -> None:
        """Readers of a DequantizeLinear read what its QuantizeLinear read."""
        dq = self._node(e.dequantized, "DequantizeLinear")
        source = self._source(dq)
        output, layers, taken = e.dequantized in self.graph.outputs, False, 0
        for r in self.graph.readers(e.dequantized):
            if is_op(r, *LAYERS):
                layers = True
                continue
            for k, t in enumerate(r.input):
                if t == e.dequantized:
                    r.input[k], taken = source, taken + 1
        if output != (e.identity is not None):
            raise Differs(f"'{e.dequantized}' is left out as if it was {'no' if output else 'a'} graph output")
        if not output and not taken:
            raise Differs(f"'{e.dequantized}' is left out, and nobody but layers reads it")
        if output:
            if layers or self.graph.captured(e.dequantized):
                raise Differs(f"'{e.dequantized}' is left out, and layers read it")
            self.gone.add(id(dq))
            self.added.append(helper.make_node("Identity", [source], [e.dequantized], name=e.identity))

    def _source(self, dq: NodeProto) -> str:
        """What the QuantizeLinear in front of a DequantizeLinear reads, on the same grid."""
        n = self.graph.producer.get(dq.input[0])
        clip = n if is_op(n, "Clip") else None
        if clip is not None:
            n = self.graph.producer.get(clip.input[0])
        if n is None or not is_op(n, "QuantizeLinear") or self.graph.is_constant(n.input[0]):
            raise Differs(f"'{dq.output[0]}' is left out, and no quantizer stands in front of it")
        q, d = self._grid(n), self._grid(dq)
        same = q.same_parameters(d) and q.axis == d.axis
        if not same or (clip is not None and integer_clip(self.graph, clip, q) != (q.qmin, q.qmax)):
            raise Differs(f"'{dq.output[0]}' is left out, and has another grid than the quantizer in front of it")
        source = str(n.input[0])
        if q.rectifies and value_bounds(self.graph, [source])[source][0] < 0:
            raise Differs(f"'{dq.output[0]}' is left out, whose quantizer stands for a ReLU")
        return source

    # ---- split ------------------------------------------------------------------------------------------------------

    def split(self, e: Split) -> None:
        """Inputs of a Concat get a pair of their own."""
        concat = self._node(e.joined, "Concat")
        behind = [n for n in self.graph.readers(e.joined) if is_op(n, "QuantizeLinear")]
        if not behind:
            raise Differs(f"the Concat that writes '{e.joined}' is split, and no quantizer stands behind it")
        written = [t for p in e.parts for t in (p.quantized, p.dequantized)]
        self._free(*written)
        if len({*written}) < len(written) or len({p.input for p in e.parts}) < len(e.parts):
            raise Differs(f"the Concat that writes '{e.joined}' is split twice at one place")
        for p in e.parts:
            if not 0 <= p.input < len(concat.input) or self.graph.is_constant(concat.input[p.input]):
                raise Differs(f"the Concat that writes '{e.joined}' has no input {p.input} to be quantized")
            self._pair(concat, p, behind[0])

    def _pair(self, concat: NodeProto, p: Part, like: NodeProto) -> None:
        q = self._grid(like)
        fits = np.isfinite(p.scale) and 0 < p.scale == float(np.asarray(p.scale, q.float_dtype))
        if not fits or not q.qmin <= p.zero_point <= q.qmax:
            raise Differs(f"the grid that '{p.quantized}' is said to have cannot be")
        scale = self._constant(p.quantized, np.asarray(p.scale, q.float_dtype))
        zero = self._constant(p.quantized, np.asarray(p.zero_point).astype(q.dtype))
        nodes = ("QuantizeLinear", concat.input[p.input], p.quantized), ("DequantizeLinear", p.quantized, p.dequantized)
        for (op, source, out), name in zip(nodes, p.names, strict=True):
            self.added.append(helper.make_node(op, [source, scale, zero], [out], name=name, domain=like.domain))
        concat.input[p.input] = p.dequantized

    def _constant(self, like: str, value: Array) -> str:
        stored = spilled(self.graph.initializers.get(like), value)  # a large one stays in a file
        new = self.model.graph.initializer.add()
        new.CopyFrom(numpy_helper.from_array(value) if stored is None else stored)
        new.name = name = self.names.fresh(like + "_yardstick")
        return name

    # ---- zero-points ------------------------------------------------------------------------------------------------

    def move(self, e: ZeroPoint) -> None:
        """A QuantizeLinear and the DequantizeLinears behind it get another zero-point."""
        n = self._node(e.quantized, "QuantizeLinear")
        q = self._grid(n)
        if q.scale.size != 1 or int(q.zero_point) != e.before or not q.qmin <= e.now <= q.qmax:
            raise Differs(f"the zero-point that '{e.quantized}' is said to have had, or to have now, cannot be")
        scale = self.graph.constant(n.input[1])
        assert scale is not None
        zero = self._constant(e.quantized, np.full(scale.shape, e.now).astype(q.dtype))
        nodes, tensors = [n], [e.quantized]
        while tensors:
            t = tensors.pop()
            if t in self.graph.outputs or self.graph.captured(t):
                raise Differs(f"the integers '{t}', whose zero-point has changed, are read outside the graph's nodes")
            for r in self.graph.value_readers(t):
                if is_op(r, "DequantizeLinear"):
                    d = self._grid(r)
                    if not d.same_parameters(q):
                        raise Differs(f"'{r.output[0]}' is dequantized with parameters of its own")
                    nodes.append(r)
                elif r.op_type in MOVING and is_op(r, r.op_type) and r.input[0] == t:
                    tensors.append(r.output[0])
                else:
                    raise Differs(f"'{label(r)}' reads the integers '{t}', whose zero-point has changed")
        for m in nodes:
            del m.input[2:]
            m.input.append(zero)

    # ---- gains ------------------------------------------------------------------------------------------------------

    def give(self, e: Gains) -> None:
        """Channels of what a QuantizeLinear reads are multiplied, and what reads them divides."""
        nodes = [self._node(t, "QuantizeLinear") for t in e.quantized]
        grids = [self._grid(n) for n in nodes]
        alike = all(g.same_parameters(grids[0]) and g.axis == grids[0].axis for g in grids)
        if not alike or len({n.input[0] for n in nodes}) != 1:
            raise Differs(f"{list(e.quantized)} are said to have gains together, and are no grid of one tensor")
        Gained(Factors(self.graph, self._constant, self.added, self.names.fresh)).give(nodes, grids[0], e)

    # ---- 16 bits ----------------------------------------------------------------------------------------------------

    def lengthen(self, e: Sixteen) -> None:
        """A QuantizeLinear and the DequantizeLinears behind it get integers of 16 bits."""
        n = self._node(e.quantized, "QuantizeLinear")
        q, limits = self._grid(n), np.iinfo(np.dtype(e.type))
        if q.scale.size != 1 or int(q.zero_point) != e.before or not limits.min <= e.now <= limits.max:
            raise Differs(f"the zero-point that '{e.quantized}' is said to have had, or to have now, cannot be")
        if q.qmax - q.qmin > 255 or q.dtype.name.startswith("u") != e.type.startswith("u"):
            raise Differs(f"the integers of '{e.quantized}' are {q.dtype.name}, which do not become {e.type}")
        if q.rectifies and e.now != limits.min:
            raise Differs(f"'{e.quantized}' saturates at 0, as a ReLU does, and would not with 16 bits")
        nodes = [n, *self._behind(e.quantized, q)]
        old = max((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=1) < FIRST16
        if old and all(o.domain != CONTRIB for o in self.model.opset_import):
            self.model.opset_import.add(domain=CONTRIB, version=1)
        zeros: dict[tuple[int, ...], str] = {}
        for m in nodes:
            scale = self.graph.constant(m.input[1])
            assert scale is not None
            if scale.shape not in zeros:
                zeros[scale.shape] = self._constant(e.quantized, np.full(scale.shape, e.now, e.type))
            del m.input[2:]
            m.input.append(zeros[scale.shape])
            if old:
                m.domain = CONTRIB

    def _behind(self, quantized: str, q: Quantizer) -> list[NodeProto]:
        """All that reads integers: DequantizeLinears on their grid, behind a Clip too, which they read around now."""
        found: list[NodeProto] = []
        stack = [quantized]
        while stack:
            t = stack.pop()
            if t in self.graph.outputs or self.graph.captured(t):
                raise Differs(f"the integers '{t}', which have 16 bits now, are read outside the graph's nodes")
            self.retyped.add(t)
            for r in self.graph.readers(t):
                if is_op(r, "DequantizeLinear") and self._grid(r).same_parameters(q):
                    r.input[0] = quantized
                    found.append(r)
                elif is_op(r, "Clip") and r.input[0] == t == quantized:
                    stack.append(str(r.output[0]))
                else:
                    raise Differs(f"'{label(r)}' reads the integers '{t}', which have 16 bits now")
        return found

    # ---- the end ----------------------------------------------------------------------------------------------------

    def finish(self, idle: Iterable[str]) -> None:
        """Write the nodes back in order, without what nobody reads any more."""
        g, kept = self.model.graph, set(idle)
        known = _named(g)
        nodes = [NodeProto.FromString(n.SerializeToString()) for n in self.graph.nodes if id(n) not in self.gone]
        nodes += self.added
        used = {o.name for o in g.output}
        alive = []
        for n in reversed(topological(nodes)):
            if not kept.isdisjoint(n.output) or not used.isdisjoint(n.output):
                alive.append(n)
                used.update(mentioned(n))
        del g.node[:]
        g.node.extend(reversed(alive))
        for k in reversed(range(len(g.initializer))):
            if g.initializer[k].name not in used | kept:
                del g.initializer[k]
        gone = known - _named(g)  # what is said of tensors that never were there stays, as some quantizers leave it
        drop_value_info(g, lambda name: name in gone or name in self.retyped)


def _named(g: GraphProto) -> set[str]:
    """The tensors that a graph has: what its nodes write, its inputs and initializers."""
    return {o for n in g.node for o in n.output} | {i.name for i in g.input} | {t.name for t in g.initializer}
