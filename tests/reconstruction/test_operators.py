"""Operators in torch give the numbers of onnxruntime; forms that are not known are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph

pytest.importorskip("torch")
from torch_numbers import same_numbers

from onnx_ocs.reconstruction.interpreter import (
    Network,
)

Case = tuple[str, np.ndarray, tuple[Any, ...], dict[str, Any]]
X = np.random.default_rng(3).normal(size=(2, 4, 9, 7)).astype(np.float32)
TOKENS = np.random.default_rng(4).normal(size=(2, 5, 6)).astype(np.float32)
M = np.random.default_rng(5).normal(size=(6, 12)).astype(np.float32)
B, C6 = np.arange(6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


CASES: dict[str, Case] = {
    "slice": ("Slice", X, (ints(-3, 5), ints(99, 0), ints(3, 2), ints(1, -2)), {}),
    "slice_back": ("Slice", X, (ints(-1), ints(-99), ints(1), ints(-1)), {}),
    "split": ("Split", X, (ints(1, 3),), {"axis": 1, "outputs": 2}),
    "split_even": ("Split", X, (), {"axis": 1, "outputs": 2}),
    "gather": ("Gather", X, (ints(-1, 0, 2).reshape(1, 3),), {"axis": 1}),
    "gather_one": ("Gather", X, (np.asarray(1, np.int64),), {"axis": 2}),
    "flatten": ("Flatten", X, (), {"axis": 2}),
    "reshape": ("Reshape", X, (ints(0, -1, 7),), {}),
    "transpose": ("Transpose", X, (), {"perm": [0, 2, 3, 1]}),
    "squeeze": ("Squeeze", X[:, :1], (ints(1),), {}),
    "unsqueeze": ("Unsqueeze", X, (ints(0, -1),), {}),
    "mean_axes": ("ReduceMean", X, (), {"axes": [2, 3], "keepdims": 0}),
    "mean_input": ("ReduceMean", X, (ints(-1),), {"opset": 18}),
    "sum": ("ReduceSum", X, (ints(1),), {"keepdims": 0}),
    "softmax": ("Softmax", TOKENS, (), {"axis": 1}),
    "softmax_old": ("Softmax", TOKENS, (), {"opset": 11}),
    "log_softmax": ("LogSoftmax", TOKENS, (), {}),
    "layer_norm": ("LayerNormalization", TOKENS, (C6, B), {"epsilon": 1e-3}),
    "instance_norm": ("InstanceNormalization", X, (B[:4], C6[:4]), {}),
    "batch_norm": ("BatchNormalization", X, (C6[:4], B[:4], C6[1:5], B[1:5]), {}),
    "gemm": (
        "Gemm",
        TOKENS[0],
        (M[:4, :5], B[:4]),
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    "clip": ("Clip", X, (floats(-0.5).reshape(()), None), {}),
    "clip_old": ("Clip", X, (), {"min": -0.1, "max": 0.4, "opset": 10}),
    "hard_sigmoid": ("HardSigmoid", X, (), {"alpha": 0.25}),
    "hard_swish": ("HardSwish", X, (), {}),
    "gelu": ("Gelu", X, (), {"opset": 20}),
    "gelu_tanh": ("Gelu", X, (), {"opset": 20, "approximate": "tanh"}),
    "erf": ("Erf", X, (), {}),
    "tanh": ("Tanh", X, (), {}),
    "leaky": ("LeakyRelu", X, (), {"alpha": 0.2}),
    "prelu": ("PRelu", X, (C6[:4].reshape(4, 1, 1),), {}),
    "elu": ("Elu", X, (), {"alpha": 0.7}),
    "power": ("Pow", X, (floats(2.0).reshape(()),), {}),
    "divided": ("Div", ints(7, -7, 9), (ints(2, 2, -4),), {}),
    "expand": ("Expand", X[:, :1], (ints(2, 4, 1, 1),), {}),
    "shape": ("Shape", X, (), {"start": 1, "end": -1}),
    "cast": ("Cast", X * 5, (), {"to": TensorProto.INT64}),
    "max_of": ("Max", X, (C6[:1], floats(0.1)), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_of_onnxruntime(name: str, one_node: Any) -> None:
    op, x, constants, attributes = CASES[name]
    model = one_node(op, x, *constants, **attributes)
    same_numbers(model, x)


def test_forms_that_are_not_known_are_named(one_node: Any) -> None:
    with pytest.raises(UserError, match=r"the operator Hardmax .*y0"):
        Network(Graph(one_node("Hardmax", TOKENS)))
