"""What training aims at: the float model's outputs, and what its layers give.

Where quantization is coarse the gradient that comes through twenty rounded layers says little.  So every layer's
output is drawn towards its counterpart, too, as far as what follows can express it (knowledge distillation with hints,
Romero et al. 2015).  Where a layer's output is only added to another branch, it is the sum that counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from torch import Tensor

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.reconstruction.bounds import reach
from onnx_ocs.reconstruction.interpreter import tensor
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.pairing import Pair, pair_layers
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import RUN_ERRORS, as_written

__all__ = ["Hint", "Teacher"]


@dataclass(frozen=True, eq=False)
class Hint:
    """A tensor inside, and its counterpart.

    Attributes:
        ours: its name in the quantized model.
        theirs: names in the float model, whose sum counts.
        axis: channel axis.
        rows: which of our channels count (copies do not); None for all.
        low: the smallest value that what follows can express, in a shape that broadcasts.
        high: the largest.
        gain: what the counterpart is multiplied by, in a shape that broadcasts; None: nothing.
    """

    ours: str
    theirs: tuple[str, ...]
    axis: int
    rows: Tensor | None
    low: Tensor
    high: Tensor
    gain: Tensor | None = None

    def ours_in(self, got: Mapping[str, Tensor]) -> Tensor:
        """Our value, as far as it counts."""
        x = got[self.ours]
        return self._seen(x if self.rows is None else x.index_select(self.axis % x.ndim, self.rows))

    def theirs_in(self, wanted: Mapping[str, Array]) -> Tensor:
        """The float model's value, as far as it counts."""
        x = tensor(wanted[self.theirs[0]])
        x = x if self.gain is None else x * self.gain
        return self._seen(x if len(self.theirs) == 1 else x + tensor(wanted[self.theirs[1]]))

    def _seen(self, x: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(x, self.high), self.low)


class Teacher:
    """The float model, asked for outputs and hints.

    Args:
        graph: of the quantized model.
        layers: its trainable layers.
        floats: the float model, or a stand-in that has the quantized model's names.
        genuine: whether it is the float model.
        feeds: a few samples.

    Raises:
        UserError: it does not run on the samples, or its outputs are not the quantized model's.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[LinearMap],
        floats: onnx.ModelProto,
        genuine: bool,
        feeds: Sequence[Mapping[str, Array]],
    ) -> None:
        ours = as_written(graph.model).run(feeds[0])
        session = as_written(floats)
        try:
            theirs = session.run(feeds[0])
        except RUN_ERRORS as e:
            raise UserError(f"the float model does not run on the samples: {first_line(e)}") from None
        pairs = zip(ours, theirs, strict=False)  # in order: their names may differ
        self.outputs = {o: t for o, t in pairs if ours[o].dtype == np.float32 == theirs[t].dtype}
        if not self.outputs or any(ours[o].shape != theirs[t].shape for o, t in self.outputs.items()):
            raise UserError("the float model has other outputs than the quantized model: give the one it was made from")
        found = pair_layers(graph, layers, floats if genuine else None, None if genuine else floats, feeds)
        hints = [_hint(graph, x, p) for x, p in zip(layers, found, strict=True) if p is not None]
        inside = {t for h in hints if h is not None for t in h.theirs}
        self._session = as_written(expose(floats, sorted(inside)), threads=1) if inside else session
        here = as_written(expose(graph.model, [h.ours for h in hints if h is not None])).run(feeds[0])
        there = self._session.run(feeds[0])
        self.hints = [h for h in hints if h is not None and _fits(h, there, here)]

    def answer(self, feed: Mapping[str, Array]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Outputs by our names, and what is wanted of every hint."""
        got = self._session.run(feed)
        return {o: tensor(got[t]) for o, t in self.outputs.items()}, [h.theirs_in(got) for h in self.hints]


def _hint(graph: Graph, layer: LinearMap, pair: Pair) -> Hint | None:
    ours: str = layer.y
    theirs: tuple[str, ...] = (pair.tensor,)
    if pair.other is not None and (added := _sum(graph, layer.y)) is not None:
        ours, theirs = added, (pair.tensor, pair.other[0])
    if ours in graph.outputs:
        return None
    rows = None if layer.tie is None else torch.from_numpy(layer.tie.base)
    found = reach(graph, replace(layer, y=ours))
    bounds = (np.asarray(-np.inf), np.asarray(np.inf)) if found is None else (found.low, found.high)
    behind = -1 - (layer.axis if layer.axis < 0 else layer.axis - len(layer.weight.chain.shape))
    low, high = (tensor(b.reshape(-1, *[1] * behind) if b.size > 1 else b.reshape(())) for b in bounds)
    gain = None if pair.gain is None else tensor(pair.gain.astype(np.float32).reshape(-1, *[1] * behind))
    return Hint(ours, theirs, layer.axis, rows, low, high, gain)


def _sum(graph: Graph, tensor: str) -> str | None:
    """Where a layer's output is added to another branch."""
    for _ in range(4):
        readers = graph.value_readers(tensor)
        if len(readers) != 1:
            return None
        if is_op(readers[0], "Add"):
            return str(readers[0].output[0])
        tensor = str(readers[0].output[0])
    return None


def _fits(hint: Hint, theirs: Mapping[str, Array], ours: Mapping[str, Array]) -> bool:
    """Whether a hint's two sides have the same shape."""
    shape = np.broadcast_shapes(*(theirs[t].shape for t in hint.theirs))
    mine = list(ours[hint.ours].shape)
    if hint.rows is not None:
        mine[hint.axis] = len(hint.rows)
    return tuple(mine) == shape
