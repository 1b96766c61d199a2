"""Where a few values are so large that a quantizer with one step for a tensor has none left for the others.

In decoders one or two channels of the residual stream hold values thousands of times the rest, at one token (massive
activations, arXiv 2402.17762).  Norms hide them from most layers; the layer that writes them does see large inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

__all__ = ["Peak", "peaks"]

Array = npt.NDArray[Any]
USUAL = 99.9  # per cent of the values
LEVELS = 255  # steps of an 8-bit quantizer


@dataclass(frozen=True)
class Peak:
    """The largest value of a tensor [N, tokens, channels] against the others.

    Attributes:
        tensor: its name.
        largest: the largest absolute value.
        usual: what 99.9 % of the absolute values do not exceed.
        channel, token: where the largest is.
        levels: how many steps of an 8-bit quantizer from the smallest to the largest value are left for `usual`.
    """

    tensor: str
    largest: float
    usual: float
    channel: int
    token: int
    levels: float

    @property
    def copies(self) -> int:
        """How many copies of its channel bring the range down to what is usual."""
        return int(np.ceil(self.largest / self.usual)) - 1


def peaks(model: onnx.ModelProto, tensors: Sequence[str], feed: dict[str, Array]) -> list[Peak]:
    """The peaks of tensors on one batch, the one with the fewest levels left first.

    Args:
        model: the float model; not changed.
        tensors: names of float tensors [N, tokens, channels] in it.
        feed: an array for each input.
    """
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.output[:]
    graph.output.extend(helper.make_empty_tensor_value_info(t) for t in tensors)
    probe = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [_peak(t, v) for t, v in zip(tensors, session.run(list(tensors), feed), strict=True)]
    return sorted(found, key=lambda p: p.levels)


def _peak(tensor: str, value: Array) -> Peak:
    size = np.abs(value)
    usual = float(np.percentile(size, USUAL))
    _, token, channel = np.unravel_index(int(size.argmax()), size.shape)
    spread = float(max(value.max(), 0) - min(value.min(), 0))
    return Peak(tensor, float(size.max()), usual, int(channel), int(token), LEVELS * usual / spread)
