"""What the torch network computes, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from zoo import execute

from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction.interpreter import Network, tensor


def same_numbers(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> None:
    """Both compute the same of one input."""
    with torch.no_grad():
        got = Network(Graph(model)).run({"x": tensor(x)})
    for wanted, value in zip(execute(model, {"x": x}), got.values(), strict=True):
        assert value.numpy().shape == wanted.shape
        np.testing.assert_allclose(value.numpy(), wanted, rtol=2e-5, atol=2e-5)
