"""The trainable parts of a file as torch parameters, and what the network's constants and scales are with them.

A weight is held in steps of its grid, and rounded straight through; a bias in its own units; a scale by the logarithm
of what it has grown by.  Of rows that follow others only the others are held.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.reconstruction.biases import bias_shift, follows_weight
from onnx_ocs.reconstruction.interpreter import quantize
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.trainable import MOST_GROWTH, Trainable

__all__ = ["Parameters", "Result"]

ONE, ZERO = torch.ones(()), torch.zeros(())
MOST = float(np.log(MOST_GROWTH))
LARGEST = 2.0**30  # of an integer bias


class Parameters:
    """Parameters of a graph, at first those of the file.

    Attributes:
        layers: one for each of the trainable layers.
        steps: logarithms of the factors by which the trainable steps have grown.
    """

    def __init__(self, graph: Graph, parts: Trainable) -> None:
        self.parts = parts
        self.layers = [_Held(graph, x, parts) for x in parts.layers]
        self.steps = [torch.zeros(()) for _ in parts.steps]

    def groups(self) -> dict[str, list[Tensor]]:
        """All parameters, by kind."""
        return {
            "weights": [h.weight for h in self.layers],
            "biases": [h.bias for h in self.layers if h.bias is not None],
            "scales": [h.growth for h in self.layers if h.growth is not None],
            "steps": self.steps,
        }

    def all(self) -> list[Tensor]:
        """All parameters, in a fixed order."""
        return [x for group in self.groups().values() for x in group]

    def factors(self) -> list[Tensor]:
        """By what each of the trainable steps has grown."""
        return [g.clamp(-MOST, float(np.log(s.most))).exp() for g, s in zip(self.steps, self.parts.steps, strict=True)]

    def values(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The network's constants, by name, and its quantizers' scales, by what a Q or DQ writes."""
        constants: dict[str, Tensor] = {}
        scales: dict[str, Tensor] = {}
        factors = self.factors()
        for step, factor in zip(self.parts.steps, factors, strict=True):
            scales |= {o: factor * (step.now * share) for o, share in step.factors.items()}
        for h in self.layers:
            at = self.parts.inputs.get(h.layer.node.output[0])
            h.put(constants, scales, ONE if at is None else factors[at])
        return constants, scales


class Result:
    """What a layer's parameters have become, in numpy: integers and scale of the weight, wanted biases per row."""

    def __init__(self, held: _Held) -> None:
        layer = held.layer
        with torch.no_grad():
            integers = held.integers().numpy()
            growth = held.grown().numpy().astype(np.float64)
            bias = None if held.bias is None else held.rows_of(held.within(held.bias)).numpy().astype(np.float64)
        self.integers: Array = np.transpose(integers, held.perm).astype(np.int64)
        scale = layer.weight.scale * growth.reshape(layer.weight.scale.shape if growth.size > 1 else ())
        scale = scale.astype(layer.weight.dtype).astype(np.float64)
        self.scale: Array | None = None if np.array_equal(scale, layer.weight.scale) else scale
        self.bias: Array | None = bias if bias is None or layer.tie is None else bias - bias_shift(layer)


class _Held:
    """One layer's parameters.

    Attributes:
        layer: the layer.
        weight: in steps of the grid, as it is stored.
        bias: per row, in its units; None where it stays.
        growth: logarithm of the factor of each of the weight's scales; None where they stay.
    """

    def __init__(self, graph: Graph, layer: LinearMap, parts: Trainable) -> None:
        self.layer, stored, tie = layer, layer.weight, layer.tie
        assert stored.integers is not None
        rank = len(stored.chain.shape)
        self.perm = stored.chain.perms[-1] if stored.chain.perms else tuple(range(rank))
        integers = _float32(np.transpose(stored.integers, np.argsort(self.perm)))
        self.scale, self.zero = _float32(stored.scale), _float32(stored.zero)
        self.axis = self.perm[_output_axis(layer)]
        self.kept = None if tie is None else torch.from_numpy(tie.base)
        self.rows = None if tie is None else torch.from_numpy(tie.origin)
        self.weight = integers if self.kept is None else integers.index_select(self.axis, self.kept)
        scaled = layer.node.output[0] in parts.scaled
        self.growth = torch.zeros_like(self._base(self.scale)) if scaled else None
        self.outputs = [n.output[0] for n in stored.chain.nodes if is_op(n, "QuantizeLinear", "DequantizeLinear")]
        self.bias: Tensor | None = None
        if layer.bias is not None and layer.free:
            self._hold_bias(graph)

    def _hold_bias(self, graph: Graph) -> None:
        layer, stored = self.layer, self.layer.bias
        assert stored is not None
        root = graph.constant(stored.root)
        assert root is not None
        self.bias_shape = root.shape
        self.bias = self._base(_float32(stored.value.reshape(-1)))
        self.bias_scale, self.bias_zero = _float32(stored.scale), _float32(stored.zero)
        self.follows = follows_weight(graph, layer)
        self.shift = None if layer.tie is None else torch.from_numpy(bias_shift(layer))
        self.ends = (-LARGEST, LARGEST)
        if root.dtype.kind in "iu" and root.dtype.itemsize < 4:
            self.ends = float(np.iinfo(root.dtype).min), float(np.iinfo(root.dtype).max)

    def _column(self, values: Tensor) -> Tensor:
        """A scale or zero-point in a shape that broadcasts against the weight as it is stored."""
        if self.layer.weight.axis is None or values.numel() == 1:
            return values.reshape(())
        shape = [1] * len(self.perm)
        shape[self.perm[self.layer.weight.axis]] = -1
        return values.reshape(shape)

    def _base(self, values: Tensor) -> Tensor:
        """Of values per row those of rows that do not follow others."""
        return values if self.kept is None or values.numel() == 1 else values[self.kept]

    def rows_of(self, values: Tensor) -> Tensor:
        """Values of all rows."""
        return values if self.rows is None or values.numel() == 1 else values[self.rows]

    def within(self, bias: Tensor) -> Tensor:
        """A bias within what its integers can say."""
        if self.layer.bias is None or self.layer.bias.kind != "integers":
            return bias
        step, zero = (self._base(v.reshape(-1)) for v in (self.bias_scale, self.bias_zero))
        low, high = ((end - zero) * step for end in self.ends)
        return bias.clamp(low, high)

    def integers(self) -> Tensor:
        """The weight's integers now."""
        found = quantize(self.weight, ONE, ZERO, self.layer.weight.low, self.layer.weight.high)
        return found if self.rows is None else found.index_select(self.axis, self.rows)

    def grown(self) -> Tensor:
        """By what the weight's scales have grown."""
        return ONE if self.growth is None else self.rows_of(self.growth.clamp(-MOST, MOST).exp())

    def put(self, constants: dict[str, Tensor], scales: dict[str, Tensor], factor: Tensor) -> None:
        """This layer's constants and scales now, where the step of its input has grown by a factor."""
        growth, root = self.grown(), self.integers()
        scale = self.scale * growth.reshape(self.scale.shape if growth.numel() > 1 else ())
        if self.growth is not None:
            scales |= dict.fromkeys(self.outputs, scale)
        if self.layer.weight.kind == "floats":
            root = (root - self._column(self.zero)) * self._column(scale)
        constants[self.layer.weight.root] = root
        if self.bias is not None:
            constants[self._bias_root] = self._stored_bias(scales, growth * factor).reshape(self.bias_shape)

    @property
    def _bias_root(self) -> str:
        assert self.layer.bias is not None
        return self.layer.bias.root

    def _stored_bias(self, scales: dict[str, Tensor], factor: Tensor) -> Tensor:
        """The bias as its constant holds it: integers, or floats."""
        assert self.bias is not None and self.layer.bias is not None
        if self.layer.bias.kind != "integers":
            wide = self.rows_of(self.bias)
            return wide if self.shift is None else (wide.double() - self.shift).float()
        step = self.bias_scale
        if self.follows:
            step = step * factor.reshape(step.shape if factor.numel() > 1 else ())
            scales[self.layer.bias.scales[-1][0].output[0]] = step
        step, zero = step.reshape(-1), self.bias_zero.reshape(-1)
        integers = self.rows_of(quantize(self.bias, self._base(step), self._base(zero), *self.ends))
        return integers if self.shift is None else integers - (self.shift / step.detach()).round().float()


def _output_axis(layer: LinearMap) -> int:
    """The axis of a weight along which its rows lie, as the layer sees it."""
    if layer.node.op_type == "MatMul":
        return -1 if layer.weight.index else -2
    if layer.node.op_type == "Gemm":
        return 0 if attribute(layer.node, "transB", 0) else 1
    return 0 if layer.node.op_type == "Conv" else 1


def _float32(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32, order="C"))
