"""Wide quantizers in float, against the formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zoo
from regions_of import graph_and_regions
from zoo import Net, Style

from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.verification.oracle import WideQuantizer, oracle

COPIES, LOW = np.asarray([0, 1, 2, 0]), np.asarray([0, 0, 1, 3])
GRID = Quantizer(np.asarray(0.5), np.asarray(3), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 15)


def wide(q: Quantizer = GRID, axis: int = 1, rank: int | None = 4, halved: bool = False) -> WideQuantizer:
    return WideQuantizer(q, axis, COPIES, 0 * LOW if halved else LOW, rank, halved)


def test_limits_grow_with_the_copies() -> None:
    low, high = wide().limits()
    assert low.tolist() == [-3, -3, -6, -12] and high.tolist() == [12, 24, 36, 12]
    low, high = wide(halved=True).limits()
    assert low.tolist() == [-3] * 4 and high.tolist() == [12] * 4


def test_steps_grow_where_channels_are_halved() -> None:
    assert wide().step() == np.float32(0.5)
    np.testing.assert_array_equal(wide(halved=True).step(), np.float32([0.5, 1, 1.5, 0.5]).reshape(4, 1, 1))
    per_channel = replace(GRID, scale=np.asarray([1.0, 2.0, 3.0, 4.0]), axis=1)
    np.testing.assert_array_equal(wide(per_channel).step(), np.float32([1, 2, 3, 4]).reshape(4, 1, 1))


@pytest.mark.parametrize(
    ("axis", "rank", "shape"), [(1, 4, (4, 1, 1)), (3, 4, (4,)), (-1, None, (4,)), (-2, None, (4, 1)), (1, 2, (4,))]
)
def test_columns_broadcast_along_the_axis(axis: int, rank: int | None, shape: tuple[int, ...]) -> None:
    w = wide(axis=axis, rank=rank)
    assert w.column(np.arange(4)).shape == shape
    assert w.column(np.full(4, 7)).shape == () and w.column(np.full(4, 7)) == 7  # one number is enough


def test_a_column_needs_the_rank() -> None:
    with pytest.raises(ValueError, match="needs the tensor's rank"):
        wide(rank=None).column(np.arange(4))


STYLES: list[dict[str, Any]] = [{}, {"bits": 3}, {"opset": 10}, {"dtype": "int8"}, {"half": True, "opset": 19}]


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("style", STYLES, ids=str)
def test_the_oracle_computes_the_formula(style: dict[str, Any], halved: bool) -> None:
    """k = clip(round(a / s)) with more levels (halved: larger steps), and a_hat = k s."""
    n = Net(Style(**style), x=zoo.IMAGE)
    n.qdq("x", "mid", scale=0.125)
    model = n.model("x_dq")
    q = graph_and_regions(model)[1]["x"].quantizer
    assert q is not None
    w = wide(q, halved=halved)
    before = model.SerializeToString()
    new, names = oracle(model, {"x_q": w})
    assert model.SerializeToString() == before and names.keys() == {"x_q"}
    new.graph.output.add(name=names["x_q"])
    x = np.random.default_rng(0).standard_normal((5, *zoo.IMAGE)).astype(n.float)
    x *= 0.125 * 2 * float(q.qmax - q.qmin)
    got, k = zoo.execute(new, {"x": x})
    step = 0.125 * ((COPIES + 1) if halved else np.ones(4)).reshape(4, 1, 1)
    low, high = (v.reshape(4, 1, 1) for v in w.limits())
    want = np.clip(np.rint(x.astype(np.float64) / step), low, high)
    np.testing.assert_array_equal(k, want)
    np.testing.assert_allclose(got, want * step, rtol=1e-3 if style.get("half") else 1e-6)
    assert {n.op_type for n in new.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
