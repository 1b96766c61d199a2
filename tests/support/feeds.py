"""Random samples for a model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper


def inputs(model: onnx.ModelProto, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random samples; inputs of any float type, with the first axis free or fixed."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for i in model.graph.input:
        dims = [d.dim_value for d in i.type.tensor_type.shape.dim][1:]
        feeds[i.name] = rng.standard_normal((count, *dims)).astype(
            helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)
        )
    return feeds
