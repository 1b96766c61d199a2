"""Convolutions, pools, padding and resizing in torch give the numbers of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph

pytest.importorskip("torch")
from torch_numbers import same_numbers

from onnx_ocs.reconstruction.interpreter import (
    Network,
    tensor,
)

Case = tuple[str, np.ndarray, tuple[Any, ...], dict[str, Any]]
X = np.random.default_rng(3).normal(size=(2, 4, 9, 7)).astype(np.float32)
W = np.random.default_rng(5).normal(size=(6, 2, 3, 2)).astype(np.float32)
DOWN = np.random.default_rng(6).normal(size=(4, 3, 3, 2)).astype(np.float32)
B = np.arange(6, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


CASES: dict[str, Case] = {
    "conv": ("Conv", X, (W, B), {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    "conv_same": ("Conv", X, (W, B), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv_same_lower": ("Conv", X, (W,), {"group": 2, "auto_pad": "SAME_LOWER"}),
    "conv_1d": ("Conv", X[:, :, 0], (W[:, :, 0], B), {"group": 2, "pads": [1, 1]}),
    "conv_3d": ("Conv", X[:, :, None], (W[:, :, None],), {"group": 2}),
    "transposed": ("ConvTranspose", X, (DOWN, B[:3]), {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
    "transposed_more": ("ConvTranspose", X, (DOWN, B[:3]), {"strides": [2, 3], "output_padding": [1, 2]}),
    "transposed_groups": ("ConvTranspose", X, (DOWN,), {"group": 2, "dilations": [2, 1]}),
    "transposed_shape": ("ConvTranspose", X, (DOWN,), {"strides": [2, 2], "output_shape": [18, 14]}),
    "max": ("MaxPool", X, (), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}),
    "max_ceil": ("MaxPool", X, (), {"kernel_shape": [2, 2], "strides": [2, 3], "ceil_mode": 1}),
    "max_dilated": ("MaxPool", X, (), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "mean": ("AveragePool", X, (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "mean_padding": ("AveragePool", X, (), {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    "mean_ceil": ("AveragePool", X, (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "mean_same": ("AveragePool", X, (), {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "global_mean": ("GlobalAveragePool", X, (), {}),
    "global_max": ("GlobalMaxPool", X, (), {}),
    "pad": ("Pad", X, (ints(0, 0, 1, 2, 0, 0, 0, 1), floats(1.5).reshape(())), {}),
    "pad_reflect": ("Pad", X, (ints(0, 0, 2, 1, 0, 0, 1, 3),), {"mode": "reflect"}),
    "pad_edge": ("Pad", X, (ints(0, 1, 2, 0, 0, 0, 1, 0),), {"mode": "edge"}),
    "crop": ("Pad", X, (ints(0, 0, -1, 0, 0, 0, 0, -2),), {}),
    "nearest": (
        "Resize",
        X,
        (None, floats(1, 1, 2, 3)),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "nearest_half": ("Resize", X, (None, floats(1, 1, 1.5, 0.5)), {}),
    "linear": ("Resize", X, (None, None, ints(2, 4, 13, 5)), {"mode": "linear"}),
    "linear_corners": (
        "Resize",
        X,
        (None, floats(1, 1, 2, 2)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_of_onnxruntime(name: str, one_node: Any) -> None:
    op, x, constants, attributes = CASES[name]
    model = one_node(op, x, *constants, **attributes)
    same_numbers(model, x)


def test_forms_that_are_not_known_are_named(one_node: Any) -> None:
    with pytest.raises(UserError, match="the operator MaxPool"):  # its indices are asked for
        Network(Graph(one_node("MaxPool", X, outputs=2, kernel_shape=[2, 2])))
    cubic = Network(Graph(one_node("Resize", X, None, floats(1, 1, 2, 2), mode="cubic")))
    with pytest.raises(UserError, match="this kind of resize"):
        cubic.run({"x": tensor(X)})
