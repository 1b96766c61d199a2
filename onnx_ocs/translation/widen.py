"""The rewrite itself: widen quantized activations and let everything that reads them follow.

    a_hat = Q(a) + Q(relu(a - X_clip)) + ... + Q(relu(a - n * X_clip))       upper side (OCS+, eq. 6)
          + Q(min(a + X_low, 0)) + ...                                       lower side, late only
    a_hat = Q(a / 2) + Q(a / 2)                                              halved channels (OCS)

The decisions are applied in one pass over the nodes in topological order.  A tensor that becomes wide is *published*:
each of its readers is routed (`onnx_ocs.regions.routes`); those that cannot read the copies get the value folded back
under the tensor's old name, so that graph outputs and subgraphs see no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.model.shapes import Shape, infer_shapes
from onnx_ocs.qdq.bias import read_bias, write_bias
from onnx_ocs.qdq.weights import edit_weight, read_weight, take
from onnx_ocs.records.layouts import record_layout
from onnx_ocs.regions.carry import Route
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Key, Region
from onnx_ocs.regions.routes import route
from onnx_ocs.regions.wide import Wide, join
from onnx_ocs.translation import early
from onnx_ocs.translation.decision import Decision, Widened

__all__ = ["widen", "widened"]


class _Widening:
    def __init__(self, graph: EditableGraph, shapes: Mapping[str, Shape], decisions: Sequence[Decision]) -> None:
        self.graph, self.shapes = graph, shapes
        self.results = [Widened(d) for d in decisions]
        self.decided = {id(n): k for k, d in enumerate(decisions) for n in d.region.nodes}
        self.plans: dict[int, dict[int, tuple[Route, Wide]]] = {}
        self.owners: dict[str, frozenset[int]] = {}
        self.sources: dict[int, str] = {}

    def run(self) -> list[Widened]:
        for node in self.graph.nodes:
            if id(node) in self.decided:
                self.start(node)
            elif id(node) in self.plans:
                self.follow(node, self.plans.pop(id(node)))
        return self.results

    # ---- regions ----------------------------------------------------------------------------------------------------

    def start(self, node: NodeProto) -> None:
        """Make the copies in front of a region's QuantizeLinear."""
        k = self.decided[id(node)]
        decision = self.results[k].decision
        wide = decision.wide
        if k not in self.sources:
            if decision.mode == "early":
                self.sources[k] = early.apply(self.graph, decision.region, wide)
            else:
                self.sources[k] = self.halves(k) if wide.halved else self.late(k)
        self.graph.set_input(node, 0, self.sources[k])
        self.parameters(node, wide)
        self.publish(node.output[0], wide, frozenset([k]))

    def late(self, k: int) -> str:
        """Copies made in float behind the activation: Gather, Sub, Relu (Min) where the quantizer is none, Concat."""
        graph, decision = self.graph, self.results[k].decision
        wide, tensor = decision.wide, decision.region.tensor
        q = decision.region.quantizer
        order = np.argsort(np.where(wide.level > 0, 1, np.where(wide.level < 0, 2, 0)), kind="stable")
        origin, level = wide.origin[order], wide.level[order]
        parts = [tensor]
        for sign, size in ((1, q.x_clip), (-1, q.x_low)):
            chosen = np.flatnonzero(level * sign > 0)
            if not chosen.size:
                continue
            name = f"{tensor}_{'up' if sign > 0 else 'low'}"
            channels = origin[chosen]
            part = tensor
            if not np.array_equal(channels, np.arange(wide.narrow)):
                index = graph.add_initializer(name + "_channels", channels.astype(np.int64))
                part = graph.add_node("Gather", [tensor, index], graph.fresh(name + "_outliers"), axis=wide.axis)
            shift = level[chosen] * np.broadcast_to(size, (wide.narrow,))[channels]
            constant = graph.add_initializer(name + "_shift", self.broadcast(shift.astype(q.float_dtype), wide, tensor))
            part = graph.add_node("Sub", [part, constant], graph.fresh(name + "_shifted"))
            if sign > 0 and not q.rectifies:  # other quantizers are a ReLU themselves
                part = graph.add_node("Relu", [part], graph.fresh(name + "_copies"))
            elif sign < 0:
                zero = graph.add_initializer(name + "_zero", np.zeros((), q.float_dtype))
                part = graph.add_node("Min", [part, zero], graph.fresh(name + "_copies"))
            parts.append(part)
        out = graph.add_node("Concat", parts, graph.fresh(tensor + "_wide"), axis=wide.axis)
        if not np.array_equal(order, np.arange(order.size)):
            index = graph.add_initializer(tensor + "_order", np.argsort(order).astype(np.int64))
            out = graph.add_node("Gather", [out, index], graph.fresh(tensor + "_grouped"), axis=wide.axis)
        return out

    def halves(self, k: int) -> str:
        """Halves made in float behind the activation: Gather, Mul."""
        graph, decision = self.graph, self.results[k].decision
        wide, tensor = decision.wide, decision.region.tensor
        q = decision.region.quantizer
        index = graph.add_initializer(tensor + "_channels", wide.origin.astype(np.int64))
        part = graph.add_node("Gather", [tensor, index], graph.fresh(tensor + "_twice"), axis=wide.axis)
        factor = self.broadcast((1 / wide.units()[wide.origin]).astype(q.float_dtype), wide, tensor)
        factors = graph.add_initializer(tensor + "_factor", factor)
        return graph.add_node("Mul", [part, factors], graph.fresh(tensor + "_halved"))

    def broadcast(self, values: Array, wide: Wide, tensor: str) -> Array:
        """Per-channel values in a shape that broadcasts along the channel axis; a scalar where they are all equal."""
        if values.size and np.all(values == values[0]):
            return np.asarray(values[0])
        behind = -1 - wide.axis if wide.axis < 0 else len(self.shapes[tensor]) - 1 - wide.axis
        return values.reshape(-1, *[1] * behind)

    def parameters(self, node: NodeProto, wide: Wide) -> None:
        """Extend a Q's or DQ's per-channel parameters."""
        for p in (1, 2):
            value = self.graph.constant(node.input[p]) if len(node.input) > p and node.input[p] else None
            if value is not None and value.size > 1:
                wider = self.graph.add_initializer(node.input[p] + "_wide", value[wide.origin])
                self.graph.set_input(node, p, wider)

    # ---- readers ----------------------------------------------------------------------------------------------------

    def publish(self, tensor: str, wide: Wide, owners: frozenset[int], record: bool = True) -> None:
        """Route every reader of a tensor that has become wide."""
        graph = self.graph
        shapes = self.shapes
        follow: list[tuple[NodeProto, int, Route]] = []
        folds = tensor in graph.outputs or bool(graph.captured(tensor))
        for reader in graph.readers(tensor):
            for index, name in enumerate(reader.input):
                if name != tensor:
                    continue
                r = Route("fold", why="it starts a region of its own") if id(reader) in self.decided else None
                r = r or route(graph, reader, index, wide, shapes)
                if record and not wide.integer:
                    self.record(reader, owners)
                if r.kind == "fold":
                    folds = True
                else:
                    follow.append((reader, index, r))
                    if is_op(reader, "QuantizeLinear"):
                        for k in owners:
                            self.results[k].carried.append(tensor)
        graph.reshaped.add(tensor)
        name = tensor
        if folds:
            name = graph.fresh(tensor + "_wide")
            graph.rename_output(tensor, name)
            graph.reshaped.discard(tensor)
            self.fold(name, tensor, wide)
        self.owners[name] = owners
        if is_op(graph.producer.get(name), "QuantizeLinear"):
            for k in owners:
                self.results[k].quantized[tensor] = (name, wide)
            record_layout(graph.producer[name], tensor, wide)
        for reader, index, r in follow:
            if folds:
                graph.set_input(reader, index, name)
            self.plans.setdefault(id(reader), {})[index] = (r, wide)

    def record(self, reader: NodeProto, owners: frozenset[int]) -> None:
        for k in owners:
            if label(reader) not in self.results[k].consumers:
                self.results[k].consumers.append(label(reader))

    def fold(self, source: str, target: str, wide: Wide) -> None:
        """Write the narrow value of a wide tensor: base plus copies (integers: the base alone, as in the original).

        Few channels have copies, and fewer have many.  So a sum is only as wide as there are channels with a further
        copy, and at the end every channel is taken from where it was complete.
        """
        graph = self.graph
        base = np.flatnonzero(wide.level == 0)
        extra = np.flatnonzero(wide.level != 0)
        if wide.integer or not extra.size:
            self.pick(source, base, wide, target)
            return
        order = extra[np.argsort(wide.origin[extra], kind="stable")]
        owner_of = wide.origin[order]
        starts = np.searchsorted(owner_of, owner_of, side="left")
        turn = np.arange(order.size) - starts  # 0 for a channel's first copy, 1 for its second, ...
        rest = np.flatnonzero(np.bincount(owner_of, minlength=wide.narrow) == 0)
        complete, size, where = [source], wide.origin.size, base.copy()
        last = wide.axis in (-1, len(self.shapes.get(target, ())) - 1)
        if not rest.size:
            complete, size = [], 0
        elif not last and 2 * rest.size < size:  # on the last axis picking some is dearer than copying all
            complete, size = [self.pick(source, base[rest], wide, graph.fresh(target + "_rest"))], rest.size
            where[rest] = np.arange(size)
        total, width, place = source, wide.origin.size, base  # where a channel's sum so far is
        for t in range(int(turn.max()) + 1):
            copies = turn == t
            channels = owner_of[copies]
            if not np.array_equal(place[channels], np.arange(width)):
                total = self.pick(total, place[channels], wide, graph.fresh(target + "_base"))
            part = self.pick(source, order[copies], wide, graph.fresh(target + "_copy"))
            ending = channels.size - np.count_nonzero(turn == t + 1)
            everything = ending == wide.narrow
            total = graph.add_node("Add", [total, part], target if everything else graph.fresh(target + "_sum"))
            if everything:
                return
            width, place = channels.size, np.zeros_like(base)
            place[channels] = np.arange(width)
            if ending:
                complete.append(total)
                where[channels] = size + np.arange(width)
                size += width
        together = graph.add_node("Concat", complete, graph.fresh(target + "_sums"), axis=wide.axis)
        self.pick(together, where, wide, target)

    def pick(self, source: str, where: Array, wide: Wide, target: str) -> str:
        """Channels of a tensor by position.

        A Gather even where they are a run: onnxruntime moves Q and DQ across a Slice, and some versions break there.
        """
        index = self.graph.add_initializer(target + "_channels", where.astype(np.int64))
        return self.graph.add_node("Gather", [source, index], target, axis=wide.axis)

    def follow(self, node: NodeProto, plan: dict[int, tuple[Route, Wide]]) -> None:
        """Edit one reader that takes the wide value."""
        graph = self.graph
        owners = frozenset().union(*(self.owners[node.input[i]] for i in plan))
        if is_op(node, "Concat"):
            parts = [plan[i][1] if i in plan else None for i in range(len(node.input))]
            axis = next(r.output.axis for r, _ in plan.values() if r.output is not None)
            sizes = [w.narrow if w else int(self.shapes[t][axis] or 0) for t, w in zip(node.input, parts, strict=True)]
            self.publish(node.output[0], join(parts, axis, sizes), owners)
            return
        r, wide = next(iter(plan.values()))
        if r.kind == "weight":
            take(graph, node, 1, r.axis, wide.origin)
        elif r.kind == "grouped":
            self.grouped(node, r, wide)
        elif r.kind == "depthwise":
            self.depthwise(node, wide)
        elif is_op(node, "QuantizeLinear", "DequantizeLinear"):
            self.parameters(node, wide)
        elif is_op(node, "Reshape"):
            self.reshape(node, wide, r.output)
        elif is_op(node, "Resize") and len(node.input) > 3 and node.input[3]:
            sizes_now = graph.constant(node.input[3])
            assert sizes_now is not None
            wider = sizes_now.copy()
            wider[wide.axis] = wide.origin.size
            graph.set_input(node, 3, graph.add_initializer(node.input[3] + "_wide", wider))
        graph.touched[id(node)] = node
        if r.output is not None:
            # behind a depthwise layer the copies are only summed up: its readers see what they saw before
            self.publish(node.output[0], r.output, owners, record=r.kind != "depthwise")

    def grouped(self, node: NodeProto, r: Route, wide: Wide) -> None:
        """A grouped layer whose groups all get the same number of copies."""
        groups = int(attribute(node, "group", 1))
        if node.op_type == "ConvTranspose":
            take(self.graph, node, 1, 0, wide.origin)
            return
        size = wide.narrow // groups
        inside = wide.origin.reshape(groups, -1) - np.arange(groups)[:, None] * size

        def edit(w: Array) -> Array:
            rows = np.repeat(inside, w.shape[0] // groups, axis=0)
            return np.take_along_axis(w, rows.reshape(*rows.shape, *[1] * (w.ndim - 2)), axis=1)

        edit_weight(self.graph, node, 1, edit, 1, np.arange(size))

    def depthwise(self, node: NodeProto, wide: Wide) -> None:
        """A depthwise layer with more groups: every copy is filtered like its channel, the bias stays with the base."""
        graph = self.graph
        groups = int(attribute(node, "group", 1))
        weight = read_weight(graph, node, 1)
        assert weight is not None
        rows, levels = wide.spread(weight.shape[0] // groups)
        take(graph, node, 1, 0, rows)
        for a in node.attribute:
            if a.name == "group":
                a.i = wide.origin.size
        bias = read_bias(graph, node, 2, weight.shape[0])
        if bias is not None and bias.kind != "none":
            nothing = np.zeros(1, np.int64) if bias.zero_point is None else bias.zero_point
            nothing = np.broadcast_to(nothing, bias.value.shape)[rows].astype(bias.value.dtype)
            value = np.where(levels == 0, bias.value[rows], nothing)
            write_bias(graph, node, 2, bias, value.astype(bias.value.dtype), rows)

    def reshape(self, node: NodeProto, wide: Wide, out: Wide | None) -> None:
        target = self.graph.constant(node.input[1])
        assert target is not None and out is not None
        if target[out.axis] > 0:
            wider = target.copy()
            wider[out.axis] = out.origin.size
            self.graph.set_input(node, 1, self.graph.add_initializer(node.input[1] + "_wide", wider))


def widen(graph: EditableGraph, shapes: Mapping[str, Shape], decisions: Sequence[Decision]) -> list[Widened]:
    """Apply decisions to a graph (not yet committed).

    Args:
        graph: the graph; edited.
        shapes: shapes of the original model.
        decisions: checked decisions (`early.check` passed for those in early mode).

    Returns:
        One result for each decision, in order.
    """
    return _Widening(graph, shapes, decisions).run()


def widened(
    model: onnx.ModelProto,
    decide: Callable[[Graph, Mapping[Key, Region]], Sequence[Decision]],
) -> onnx.ModelProto:
    """A widened copy of a model, to look at what it costs.

    Args:
        model: the model; not changed.
        decide: what to do, given the copy's graph and its regions by tensor and what their quantizers write.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph, shapes = EditableGraph(new), infer_shapes(new)
    regions = {r.key: r for r in find_regions(graph, shapes) if isinstance(r, Region)}
    widen(graph, shapes, decide(graph, regions))
    graph.commit()
    return new
