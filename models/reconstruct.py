"""Reconstruction of a low-bit QDQ model: its integers and steps are trained until it answers as the float network does.

What AdaRound, BRECQ, NWQ and their kin do block by block or over the whole network, in its plainest form: all weights,
biases and activation steps at once, by gradient descent with straight-through rounding on unlabelled calibration
samples, so that the class scores diverge least from the float network's.  Without something like it 2-bit weights are
of no use, and the papers' W2A2 figures all have it.  Any file that is made of the operators below will do, rewritten
or not; its graph stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from models.tables.metrics import first_output
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer

__all__ = ["reconstruct"]

Array = npt.NDArray[Any]
STEPS, BATCH, RATE = 300, 32, 1e-3


def _rounded(x: Tensor) -> Tensor:
    """Nearest integers, with the gradient of the identity."""
    return x + (x.round() - x).detach()


def _conv(n: NodeProto, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    pads = list(attribute(n, "pads", [0, 0, 0, 0]))
    x = functional.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    return functional.conv2d(x, w, b, stride=list(attribute(n, "strides", [1, 1])), groups=attribute(n, "group", 1))


def _gemm(n: NodeProto, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return functional.linear(x, w if attribute(n, "transB", 0) else w.T, b)


OPS: dict[str, Callable[..., Tensor]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "Relu": lambda n, x: x.relu(),
    "Add": lambda n, x, y: x + y,
    "Sub": lambda n, x, y: x - y,
    "Mul": lambda n, x, y: x * y,
    "Gather": lambda n, x, i: x.index_select(attribute(n, "axis", 0), i),
    "Concat": lambda n, *x: torch.cat(x, attribute(n, "axis")),
    "MaxPool": lambda n, x: functional.max_pool2d(x, attribute(n, "kernel_shape"), attribute(n, "strides")),
    "GlobalAveragePool": lambda n, x: x.mean((2, 3), keepdim=True),
    "Flatten": lambda n, x: x.flatten(attribute(n, "axis", 1)),
    "Identity": lambda n, x: x,
}


class _Trainable:
    """A QDQ graph in torch: weights and biases in float behind their grids, activation steps by what they grow."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = Graph(model)
        self.change: dict[str, Tensor] = {}  # logarithm of what a step grows by, by the constant that holds the step
        self.latent: dict[str, Tensor] = {}  # by the DQ's output; weights and biases in float
        self.grids: dict[str, Quantizer] = {}  # by the Q's or the DQ's output
        self.constants: dict[str, Tensor] = {}
        for n in self.graph.nodes:
            if is_op(n, "DequantizeLinear") and n.input[0] in self.graph.initializers:
                self._parameter(n)
            elif is_op(n, "QuantizeLinear"):
                q = read_quantizer(self.graph, n)
                assert isinstance(q, Quantizer)
                self.grids[n.output[0]] = q
                self.change[n.input[1]] = torch.zeros((), requires_grad=True)
            elif not is_op(n, "DequantizeLinear", "Clip", *OPS):
                raise UserError(f"reconstruction does not know the operator {n.op_type}")
        for name in self.graph.initializers:
            value = self.graph.constant(name)
            assert value is not None
            self.constants[name] = torch.from_numpy(np.array(value))

    def _parameter(self, n: NodeProto) -> None:
        q, value = read_quantizer(self.graph, n), self.graph.constant(n.input[0])
        assert isinstance(q, Quantizer) and value is not None
        self.grids[n.output[0]] = q
        scale = self._column(q, value.ndim)
        self.latent[n.output[0]] = torch.tensor(value * scale, dtype=torch.float32, requires_grad=True)

    @staticmethod
    def _column(q: Quantizer, rank: int) -> Array:
        shape = [1] * rank
        if q.axis is not None:
            shape[q.axis] = -1
        return q.scale.reshape(shape)

    def run(self, feed: Mapping[str, Tensor]) -> Tensor:
        """The first output."""
        known: dict[str, Any] = {**self.constants, **feed}
        held: dict[str, Tensor] = {}  # floats that flow where integers are written
        for n in self.graph.nodes:
            out = n.output[0]
            if out in self.latent:
                known[out] = self._on_grid(out)
            elif is_op(n, "QuantizeLinear"):
                q, step = self.grids[out], self._step(n.input[1])
                low, high = (int(v - q.zero_point.flat[0]) for v in (q.qmin, q.qmax))
                held[out] = _rounded((known[n.input[0]] / step).clamp(low, high)) * step
            elif is_op(n, "Clip") and n.input[0] in held:
                held[out] = held[n.input[0]]
            elif is_op(n, "DequantizeLinear"):
                known[out] = held[n.input[0]]
            else:
                known[out] = OPS[n.op_type](n, *(known[t] for t in n.input if t))
        return known[self.graph.model.graph.output[0].name]

    def _step(self, name: str) -> Tensor:
        """An activation's step, in the shape in which it is stored."""
        return self.constants[name] * self.change[name].exp()

    def _on_grid(self, name: str) -> Tensor:
        """A weight on its grid; a bias as it is, as its grid is fine."""
        q, x = self.grids[name], self.latent[name]
        if q.dtype == np.int32:
            return x
        scale = torch.tensor(self._column(q, x.ndim), dtype=torch.float32)
        return _rounded((x / scale).clamp(self._low(name), -self._low(name))) * scale

    def _low(self, name: str) -> int:
        """The lowest integer of a weight's grid: of a stored int8 the one that its values reach."""
        value = self.graph.constant(self.graph.producer[name].input[0])
        assert value is not None
        bits = int(np.abs(value.astype(np.int64)).max(initial=1)).bit_length()
        return 1 - (1 << bits)

    def written(self) -> onnx.ModelProto:
        """The model with the trained integers and steps."""
        model, new = self.graph.model, {}
        for name in self.change:
            new[name] = self._step(name).detach().numpy()
        for n in self.graph.nodes:
            if is_op(n, "Conv", "Gemm"):
                new |= self._layer(n, new)
        for t in model.graph.initializer:
            if t.name in new:
                t.CopyFrom(numpy_helper.from_array(new[t.name], t.name))
        return model

    def _layer(self, n: NodeProto, steps: Mapping[str, Array]) -> dict[str, Array]:
        weight = self.graph.producer[n.input[1]]
        scale, found = self._column(self.grids[n.input[1]], 4 if is_op(n, "Conv") else 2), {}
        low, x = self._low(n.input[1]), self.latent[n.input[1]].detach().numpy()
        found[weight.input[0]] = np.clip(np.rint(x / scale), low, -low).astype(np.int8)
        if len(n.input) > 2 and n.input[2]:
            bias, activation = self.graph.producer[n.input[2]], self.graph.producer[n.input[0]]
            product = steps[activation.input[1]] * self.grids[n.input[1]].scale.astype(np.float32)
            found[bias.input[1]] = product.astype(np.float32)
            value = self.latent[n.input[2]].detach().numpy() / product
            found[bias.input[0]] = np.clip(np.rint(value), -(2**30), 2**30).astype(np.int32)
        return found


def reconstruct(model: onnx.ModelProto, float_model: Path, samples: Mapping[str, Array], steps: int = STEPS) -> None:
    """Train a low-bit model's integers and steps, in place.

    Args:
        model: made by `models.lowbit`, with ReLU, for classes; rewritten or not.
        float_model: what its class scores shall be like.
        samples: calibration samples, an array for each input.
        steps: of gradient descent.

    Raises:
        UserError: the model has an operator that is not supported.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    wanted = torch.from_numpy(first_output(float_model, samples).astype(np.float32)).log_softmax(1)
    feed = {k: torch.from_numpy(v) for k, v in samples.items()}
    net = _Trainable(model)
    optimizer = torch.optim.Adam([*net.latent.values(), *net.change.values()], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(wanted), (BATCH,))
        got = net.run({k: v[rows] for k, v in feed.items()}).log_softmax(1)
        loss = functional.kl_div(got, wanted[rows], log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.written()
    onnx.checker.check_model(model, full_check=True)
