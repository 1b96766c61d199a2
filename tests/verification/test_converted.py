"""The proof of a conversion asks onnxruntime alone: whatever the converter gets wrong, it says."""

from __future__ import annotations

from collections.abc import Callable

import feeds
import numpy as np
import onnx
import pytest
from integer_nets import every_operator, integer_sums
from onnx import numpy_helper

from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.qoperator.convert import convert
from onnx_ocs.verification.converted import check_converted

MODEL = every_operator()


def samples(model: onnx.ModelProto) -> Samples:
    return open_samples(feeds.inputs(model, 2), model)


@pytest.mark.parametrize("model", [MODEL, integer_sums()], ids=["operators", "sums"])
def test_passes(model: onnx.ModelProto) -> None:
    assert check_converted(model, convert(model), samples(model), 2) == []


def edited(tensor: Callable[[onnx.ModelProto], str], change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    new = convert(MODEL)
    t = next(t for t in new.graph.initializer if t.name == tensor(new))
    t.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(t)), t.name))
    return new


def input_of(op: str, k: int, which: int = 0) -> Callable[[onnx.ModelProto], str]:
    return lambda m: [n for n in m.graph.node if n.op_type == op][which].input[k]


def bias_scale(m: onnx.ModelProto) -> str:
    return next(n.input[1] for n in m.graph.node if n.op_type == "DequantizeLinear" and len(n.input) == 2)


@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        (input_of("QuantizeLinear", 1, 3), lambda v: v * np.float32(1.01)),
        (bias_scale, lambda v: v * np.float32(1.1)),
    ],
)  # fmt: skip
def test_another_constant(
    tensor: Callable[[onnx.ModelProto], str], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    failures = check_converted(MODEL, edited(tensor, change), samples(MODEL), 2)
    assert failures and all(f.startswith("at ") for f in failures)


def test_another_operator() -> None:
    new = convert(MODEL)
    next(n for n in new.graph.node if n.op_type == "LeakyRelu").attribute[0].f = 0.5
    assert check_converted(MODEL, new, samples(MODEL), 2)


def test_other_ends() -> None:
    new = convert(MODEL)
    new.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert check_converted(MODEL, new, samples(MODEL)) == ["graph inputs or outputs are not the original's"]
