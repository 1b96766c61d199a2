"""A QDQ graph in torch: the same numbers as onnxruntime, and gradients through its quantizers.

    q = clip(round(x / s) + z, qmin, qmax),     dq/dx = 1/s and dq/ds = -x/s^2 where nothing is clipped, else 0

That is the straight-through estimator; behind the DequantizeLinear, (q - z) * s, the gradient for s becomes the one of
LSQ (Esser et al. 2020, eq. 3): round(x/s) - x/s inside, qmin - z or qmax - z outside.  QDrop (Wei et al. 2022) leaves
single values of the activations unquantized at random.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto
from torch import Tensor

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.model.order import mentioned
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.reconstruction.operators import Operator, find_operator
from onnx_ocs.runtime.session import Session

__all__ = ["Network", "quantize", "tensor"]


class _Quantize(torch.autograd.Function):  # type: ignore[misc, unused-ignore]  # torch may be absent
    """Integers, in float, with straight-through gradients; where `left` says so, x / scale + zero itself."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, bounds: tuple[float, float], left: Tensor | None, floor: float
    ) -> Tensor:
        steps = x / scale
        rounded = steps.round() + zero
        integers = rounded.clamp(*bounds)
        inside = integers == rounded
        if left is not None:
            plain = steps + zero
            integers = torch.where(left, plain.clamp(floor, None), integers)
            inside |= left & (plain >= floor)
        ctx.save_for_backward(steps, scale, inside)
        return integers

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        steps, scale, inside = ctx.saved_tensors
        inner = gradient * inside / scale
        by_scale = -(inner * steps).sum_to_size(scale.shape) if ctx.needs_input_grad[1] else None
        return inner, by_scale, None, None, None, None


def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor,
    low: float,
    high: float,
    left: Tensor | None = None,
    floor: float = -np.inf,
) -> Tensor:
    """Nearest integers of a grid, in float, with straight-through gradients for x and the scale.

    Args:
        x: what is quantized.
        scale: the step.
        zero: the zero-point.
        low: smallest integer.
        high: largest.
        left: where nothing is quantized.
        floor: what is not quantized does not fall below it.
    """
    found: Tensor = _Quantize.apply(x, scale, zero, (low, high), left, floor)
    return found


def tensor(value: Array) -> Tensor:
    """A constant in torch: indices and shapes as int64, all other numbers in float32."""
    if value.dtype == np.bool_:
        return torch.from_numpy(np.array(value))
    whole = value.dtype in (np.int64, np.int32)
    return torch.from_numpy(np.array(value, np.int64 if whole else np.float32, order="C"))


@dataclass(frozen=True, eq=False)
class Grid:
    """A Q or DQ node as it stands in the file.

    Attributes:
        quantizer: its grid.
        scale: its scale, as it is stored, float32.
        zero: its zero-point, float32.
        ceiling: largest integer that may come out where nothing is quantized: of a Clip that was folded into it.
    """

    quantizer: Quantizer
    scale: Tensor
    zero: Tensor
    ceiling: float

    def column(self, values: Tensor, rank: int) -> Tensor:
        """Parameters in a shape that broadcasts along the channel axis."""
        axis = self.quantizer.axis
        if axis is None:
            return values.reshape(())
        return values.reshape(-1, *[1] * (rank - 1 - axis % rank))


class Network:
    """A QDQ graph as a function of its inputs, of some of its constants, and of its quantizers' scales.

    What depends on none of them is computed once, by onnxruntime.

    Args:
        graph: the graph; not changed.
        free: names of constants that are given anew at every run.
        ceilings: by what a Q writes, the largest value that exists in front of it.
        asked: tensors that come out besides the graph's outputs.

    Raises:
        UserError: an operator is not known, or a quantizer is no uniform grid; the message names it.
    """

    def __init__(
        self,
        graph: Graph,
        free: Collection[str] = (),
        ceilings: Mapping[str, float] | None = None,
        asked: Collection[str] = (),
    ) -> None:
        self.outputs = [*(o.name for o in graph.model.graph.output), *asked]
        live, varying = {*graph.inputs}, {*graph.inputs, *free}
        fixed: list[NodeProto] = []
        self._nodes: list[tuple[NodeProto, Operator | None]] = []
        self._grids: dict[str, Grid] = {}
        self._clips: set[str] = set()
        self._live: set[str] = live  # what depends on an input, so that its quantizers may be left out
        for n in graph.nodes:
            if varying.isdisjoint(mentioned(n)):
                fixed.append(n)
                continue
            varying.update(n.output)
            if not live.isdisjoint(n.input):
                live.update(n.output)
            self._nodes.append((n, self._known(graph, n, ceilings or {})))
        self._wanted = frozenset(self.outputs)
        self._last: dict[str, int] = {}
        for k, (n, _) in enumerate(self._nodes):
            self._last |= dict.fromkeys(n.input, k)
        read = (self._last.keys() | {*self.outputs}) - varying
        self._constants = {k: tensor(v) for k, v in _computed(graph, fixed, read).items()}

    def _known(self, graph: Graph, n: NodeProto, ceilings: Mapping[str, float]) -> Operator | None:
        """How a node is computed; None for those of quantizers."""
        if is_op(n, "QuantizeLinear", "DequantizeLinear"):
            q = read_quantizer(graph, n)
            if not isinstance(q, Quantizer):
                raise UserError(f"refinement does not know the quantizer '{label(n)}': {q.message}")
            top = float(np.min(ceilings.get(n.output[0], np.inf) / q.scale + q.zero_point))
            scale, zero = (torch.from_numpy(v.astype(np.float32)) for v in (q.scale, q.zero_point))
            self._grids[n.output[0]] = Grid(q, scale, zero, top)
            return None
        above = graph.producer.get(n.input[0]) if is_op(n, "Clip") else None
        if above is not None and is_op(above, "QuantizeLinear"):
            q = read_quantizer(graph, above)
            if isinstance(q, Quantizer) and integer_clip(graph, n, q) == (q.qmin, q.qmax):
                self._clips.add(n.output[0])  # the quantizer does it
                return None
        known = find_operator(n, graph.opset)
        if known is None:
            raise UserError(f"refinement does not know the operator {n.op_type} (node '{label(n)}')")
        return known

    def run(
        self,
        feed: Mapping[str, Tensor],
        values: Mapping[str, Tensor] | None = None,
        scales: Mapping[str, Tensor] | None = None,
        drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The graph's outputs, and what else was asked for.

        Args:
            feed: the inputs.
            values: the constants that were said to be free.
            scales: by what a Q or DQ writes, its scale now, in the shape of the quantizer's.
            drop: share of the activations' values that are not quantized.
            generator: of the choice which.
        """
        known: dict[str, Any] = {**self._constants, **feed, **(values or {})}
        found: dict[str, Tensor] = {}
        for k, (n, operator) in enumerate(self._nodes):
            out = n.output[0]
            if operator is not None:
                result = operator(n, *(known[t] if t else None for t in n.input))
                known |= zip(n.output, result, strict=False) if isinstance(result, (tuple, list)) else {out: result}
            elif out in self._clips:
                known[out] = known[n.input[0]]
            else:
                scale = (scales or {}).get(out, self._grids[out].scale)
                share = drop if out in self._live else 0.0
                known[out] = self._quantizer(n, known[n.input[0]], scale, share, generator)
            found |= {o: known[o] for o in n.output if o in self._wanted}
            for t in n.input:
                if t and self._last[t] == k:
                    known.pop(t, None)
        return {o: found.get(o, known.get(o)) for o in self.outputs}

    def _quantizer(
        self, n: NodeProto, x: Tensor, scale: Tensor, drop: float, generator: torch.Generator | None
    ) -> Tensor:
        grid = self._grids[n.output[0]]
        scale, zero = grid.column(scale, x.ndim), grid.column(grid.zero, x.ndim)
        if is_op(n, "DequantizeLinear"):
            return (x.float() - zero) * scale
        q = grid.quantizer
        if not drop:
            return quantize(x, scale, zero, q.qmin, q.qmax)
        left = torch.empty(x.shape, dtype=torch.uint8).random_(generator=generator) < int(256 * drop)
        # a saturation that stands for a ReLU, or for a ReLU6, belongs to the network
        if grid.ceiling < np.inf:
            left &= x / scale + zero <= grid.ceiling
        return quantize(x, scale, zero, q.qmin, q.qmax, left, q.qmin if q.rectifies else -np.inf)


def _computed(graph: Graph, nodes: list[NodeProto], wanted: Collection[str]) -> dict[str, Array]:
    """Values of constants, and of what is computed from constants alone."""
    found = {t: graph.constant(t) for t in wanted if t in graph.initializers}
    written = [t for n in nodes for t in n.output if t in wanted]
    if written:
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        g = model.graph
        for field in (g.node, g.input, g.output, g.value_info):
            del field[:]
        g.node.extend(nodes)
        g.output.extend(onnx.ValueInfoProto(name=t) for t in written)
        found |= Session(model).run({})
    return {k: v for k, v in found.items() if v is not None}
