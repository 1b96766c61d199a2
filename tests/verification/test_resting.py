"""What verification expects of a bias behind copies of a whole range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnx_ocs.qdq.bias import Bias
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.verification.resting import taken_out
from onnx_ocs.verification.values import Differs, Wide

FLOAT = np.dtype(np.float32)
GRID = Quantizer(np.asarray(0.5), np.asarray(3), None, np.dtype(np.uint8), FLOAT, 0, 15)
ORIGIN, LEVEL = np.asarray([0, 1, 2, 1, 1, 2]), np.asarray([0, 0, 0, 1, 2, -1])
WIDE = Wide(1, ORIGIN, LEVEL, 3, full=True, grid=GRID)
WEIGHT = np.asarray([[1, -2, 3], [4, 5, -6]], np.float32)[:, :, None, None] * np.asarray([1, 0.25], np.float32).reshape(
    2, 1, 1, 1
)
STEPS = Quantizer(np.asarray([1, 0.25]), np.zeros(2, np.int64), 0, np.dtype(np.int8), FLOAT, -128, 127)
CONV = helper.make_node("Conv", ["x", "w", "b"], ["y"])
BIAS = Bias("integer", np.asarray([100, 200], np.int32), 0.5 * STEPS.scale, np.zeros((), np.int64))


def expected(bias: Bias, factors: Any = 1.0) -> Bias:
    return taken_out(CONV, WEIGHT, STEPS, bias, WIDE, np.asarray(factors))


def test_integers() -> None:
    # two copies of channel 1 stand at -3, one of channel 2 at 12
    assert expected(BIAS).value.tolist() == [100 - (-2 * -6 + 3 * 12), 200 - (5 * -6 + -6 * 12)]


def test_floats() -> None:
    got = expected(Bias("float", np.asarray([1.0, 2.0], np.float32)))
    assert got.value.tolist() == [1 - 48 * 0.5, 2 + 102 * 0.125]


def test_coarser_weights() -> None:
    bias = replace(BIAS, scale=BIAS.scale * np.asarray([1, 2.0]))  # type: ignore[operator]
    assert expected(bias, [1.0, 2.0]).value.tolist() == [52, 200 - (2 * -6 + -3 * 12)]  # 5 / 2 is rounded to even


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"node": helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])}, "pads"),
        ({"node": helper.make_node("Conv", ["x", "w"], ["y"], group=2)}, "pads"),
        ({"node": helper.make_node("ConvTranspose", ["x", "w"], ["y"])}, "pads"),
        ({"node": helper.make_node("Gemm", ["x", "w"], ["y"], beta=2.0)}, "pads"),
        ({"w": None}, "not known"),
        ({"wide": replace(WIDE, grid=None)}, "not known"),
        ({"bias": replace(BIAS, scale=BIAS.scale * 2)}, "accumulator"),  # type: ignore[operator]
        ({"bias": Bias("none", np.zeros(2))}, "accumulator"),
        ({"bias": replace(BIAS, value=np.asarray([100, 2**31 - 1], np.int32))}, "does not hold"),
    ],
)
def test_refused(change: dict[str, Any], told: str) -> None:
    given = {"node": CONV, "weight": WEIGHT, "w": STEPS, "bias": BIAS, "wide": WIDE, "factors": np.ones(())} | change
    with pytest.raises(Differs, match=told):
        taken_out(**given)
