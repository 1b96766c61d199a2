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
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op, label
from onnx_ocs.model.shapes import Shape, infer_shapes
from onnx_ocs.qdq.weights import edit_weight, take
from onnx_ocs.records.layouts import record_layout
from onnx_ocs.regions.carry import Route
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Key, Region
from onnx_ocs.regions.routes import route
from onnx_ocs.regions.wide import Wide, join
from onnx_ocs.translation import early, late
from onnx_ocs.translation.constant import take_out
from onnx_ocs.translation.decision import Decision, Widened
from onnx_ocs.translation.foldback import fold
from onnx_ocs.translation.unsigned import can_be_unsigned, unsigned

__all__ = ["widen", "widened"]


class _Widening:
    def __init__(
        self, graph: EditableGraph, shapes: Mapping[str, Shape], decisions: Sequence[Decision], signed: bool
    ) -> None:
        self.graph, self.shapes, self.signed = graph, shapes, signed
        self.results = [Widened(d) for d in decisions]
        self.decisions = [d if signed else self.stored(d) for d in decisions]
        self.decided = {id(n): k for k, d in enumerate(decisions) for n in d.region.nodes}
        self.plans: dict[int, dict[int, tuple[Route, Wide]]] = {}
        self.owners: dict[str, frozenset[int]] = {}
        self.sources: dict[int, str] = {}
        self.parts: dict[int, list[late.Part]] = {}

    def run(self) -> list[Widened]:
        for node in self.graph.nodes:
            if id(node) in self.decided:
                self.start(node)
            elif id(node) in self.plans:
                self.follow(node, self.plans.pop(id(node)))
        return self.results

    # ---- regions ----------------------------------------------------------------------------------------------------

    def start(self, node: NodeProto) -> None:
        """Make the copies in front of a region's QuantizeLinear, or beside it."""
        k = self.decided[id(node)]
        decision = self.decisions[k]
        graph, region, wide, owners = self.graph, decision.region, decision.wide, frozenset([k])
        if decision.mode == "late" and not wide.halved:
            if k not in self.parts:
                self.parts[k] = late.parts(graph, region, wide, self.behind(region.tensor, wide.axis))
            if not self.signed and late.joins(graph, region, node):
                self.publish(node.output[0], wide, owners, late.integers(graph, node, self.parts[k], wide))
                return
        if k not in self.sources:
            if decision.mode == "early":
                self.sources[k] = early.apply(graph, region, wide)
            elif wide.halved:
                self.sources[k] = late.halves(graph, region, wide, self.behind(region.tensor, wide.axis))
            else:
                self.sources[k] = late.floats(graph, region, self.parts[k], wide)
        graph.set_input(node, 0, self.sources[k])
        late.parameters(graph, node, wide.origin)
        self.publish(node.output[0], wide, owners)

    def stored(self, decision: Decision) -> Decision:
        """A decision about late copies, their integers without a sign where that can be."""
        region = decision.region
        if decision.mode == "early" or decision.halved or not can_be_unsigned(self.graph, region):
            return decision
        return replace(decision, region=unsigned(self.graph, region))

    def behind(self, tensor: str, axis: int) -> int:
        """Number of axes behind one; negative where the tensor's rank is not known."""
        return -1 - axis if axis < 0 else len(self.shapes.get(tensor, ())) - 1 - axis

    # ---- readers ----------------------------------------------------------------------------------------------------

    def publish(self, tensor: str, wide: Wide, owners: frozenset[int], beside: str | None = None) -> None:
        """Route every reader of a tensor that has become wide.

        Args:
            tensor: its name in the original.
            wide: the layout.
            owners: the regions whose copies it holds.
            beside: the wide tensor, where the narrow one (of integers: the bases) is still there.
        """
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
                if not wide.integer:
                    self.record(reader, owners)
                if r.folds:
                    folds = True
                else:
                    follow.append((reader, index, r))
                    if is_op(reader, "QuantizeLinear"):
                        for k in owners:
                            self.results[k].carried.append(tensor)
        name = beside or tensor
        if beside is None:
            graph.reshaped.add(tensor)
        if folds and beside is None:
            name = graph.fresh(tensor + "_wide")
            graph.rename_output(tensor, name)
            graph.reshaped.discard(tensor)
            fold(graph, name, tensor, wide, self.behind(tensor, wide.axis))
        self.owners[name] = owners
        if beside is not None or is_op(graph.producer.get(name), "QuantizeLinear"):
            for k in owners:
                self.results[k].quantized[tensor] = (name, wide)
            record_layout(graph.producer[name], tensor, wide)
        for reader, index, r in follow:
            if name != tensor:
                graph.set_input(reader, index, name)
            self.plans.setdefault(id(reader), {})[index] = (r, wide)

    def record(self, reader: NodeProto, owners: frozenset[int]) -> None:
        for k in owners:
            if label(reader) not in self.results[k].consumers:
                self.results[k].consumers.append(label(reader))

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
            if wide.full:
                take_out(graph, node, wide)
            take(graph, node, 1, r.axis, wide.origin)
        elif r.kind == "grouped":
            self.grouped(node, r, wide)
        elif is_op(node, "QuantizeLinear", "DequantizeLinear"):
            late.parameters(graph, node, wide.origin)
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
            self.publish(node.output[0], r.output, owners)

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

    def reshape(self, node: NodeProto, wide: Wide, out: Wide | None) -> None:
        target = self.graph.constant(node.input[1])
        assert target is not None and out is not None
        if target[out.axis] > 0:
            wider = target.copy()
            wider[out.axis] = out.origin.size
            self.graph.set_input(node, 1, self.graph.add_initializer(node.input[1] + "_wide", wider))


def widen(
    graph: EditableGraph, shapes: Mapping[str, Shape], decisions: Sequence[Decision], signed: bool = False
) -> list[Widened]:
    """Apply decisions to a graph (not yet committed).

    Args:
        graph: the graph; edited.
        shapes: shapes of the original model.
        decisions: checked decisions (`early.check` passed for those in early mode).
        signed: whether signed integers must keep their sign (else those of late copies lose it, or are joined).

    Returns:
        One result for each decision, in order.
    """
    return _Widening(graph, shapes, decisions, signed).run()


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
