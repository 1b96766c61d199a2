"""QDQ graphs in torch: the numbers of onnxruntime, operator by operator and network by network, and LSQ's gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import CASES, build, execute

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.interpreter import (  # noqa: E402
    Network,
    quantize,
    tensor,
)

SUBGRAPHS = {"branch", "inner_names"}  # cases with an If
X = np.random.default_rng(3).normal(size=(2, 4, 9, 7)).astype(np.float32)
TOKENS = np.random.default_rng(4).normal(size=(2, 5, 6)).astype(np.float32)
W = np.random.default_rng(5).normal(size=(6, 2, 3, 2)).astype(np.float32)
DOWN = np.random.default_rng(6).normal(size=(4, 3, 3, 2)).astype(np.float32)
B, C6 = np.arange(6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


def one(
    op: str, x: np.ndarray, *constants: np.ndarray | None, opset: int = 17, outputs: int = 1, **attributes: Any
) -> Any:
    names = ["x", *("" if c is None else f"c{k}" for k, c in enumerate(constants))]
    outs = [f"y{k}" for k in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [onnx.ValueInfoProto(name=o) for o in outs],
        [numpy_helper.from_array(c, f"c{k}") for k, c in enumerate(constants) if c is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset < 21 else 10
    return model


OPERATORS: dict[str, tuple[onnx.ModelProto, np.ndarray]] = {
    name: (one(op, x, *c, **a), x)
    for name, (op, x, c, a) in {
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
            (W.reshape(6, 12)[:4, :5], B[:6]),
            {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0, "skip": 1},
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
    }.items()
    if not a.pop("skip", 0)
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    model, x = OPERATORS[name]
    with torch.no_grad():
        got = Network(Graph(model)).run({"x": tensor(x)})
    for wanted, value in zip(execute(model, {"x": x}), got.values(), strict=True):
        assert value.numpy().shape == wanted.shape
        np.testing.assert_allclose(value.numpy(), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", sorted(CASES.keys() - SUBGRAPHS))
def test_networks(name: str) -> None:
    """Every topology and every dialect, at ORT_DISABLE_ALL; float16 is computed in float32 here."""
    model, feed = build(name)
    with torch.no_grad():
        got = Network(Graph(model)).run({k: tensor(v) for k, v in feed.items()})
    if not CASES[name].loads:
        pytest.skip("onnxruntime does not load it")
    for (o, value), wanted in zip(got.items(), execute(model, feed), strict=True):
        exact = wanted.astype(np.float64)
        style = CASES[name].style
        tolerance = 5e-3 if style.half else 1e-4 if "16" in style.dtype else 2e-6  # of 16 bits: one step on a tie
        assert np.abs(value.numpy() - exact).max() <= tolerance * np.abs(exact).max(), o


@pytest.mark.parametrize("name", sorted(SUBGRAPHS))
def test_subgraphs_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="the operator If"):
        Network(Graph(build(name)[0]))


def test_forms_that_are_not_known_are_named() -> None:
    with pytest.raises(UserError, match=r"the operator Hardmax .*y0"):
        Network(Graph(one("Hardmax", TOKENS)))
    with pytest.raises(UserError, match="the operator MaxPool"):  # its indices are asked for
        Network(Graph(one("MaxPool", X, outputs=2, kernel_shape=[2, 2])))
    cubic = Network(Graph(one("Resize", X, None, floats(1, 1, 2, 2), mode="cubic")))
    with pytest.raises(UserError, match="this kind of resize"):
        cubic.run({"x": tensor(X)})


def test_gradients_are_those_of_lsq() -> None:
    """d(k s)/ds is round(x/s) - x/s where nothing is clipped, and the bound where something is."""
    x = torch.tensor([-0.3, 0.26, 0.61, 5.0], requires_grad=True)
    s = torch.tensor(0.25, requires_grad=True)
    (quantize(x, s, torch.zeros(()), 0, 3) * s).sum().backward()
    steps = np.asarray([0.26, 0.61]) / 0.25
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert float(s.grad) == pytest.approx(float(np.sum(np.rint(steps) - steps)) + 0 + 3, rel=1e-5)


def test_what_is_left_unquantized_keeps_a_saturation_that_is_a_relu() -> None:
    x, one_step = torch.linspace(-1, 9, 41), torch.ones(())
    left = torch.ones(41, dtype=torch.bool)
    assert torch.equal(quantize(x, one_step, torch.zeros(()), 0, 3, left, 0), x.clamp(0))
    assert torch.equal(quantize(x, one_step, torch.zeros(()), 0, 3, left), x)
