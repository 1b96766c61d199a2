from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from regions_of import find, regions_of

from onnx_ocs.calibration.outliers import measure
from onnx_ocs.regions.region import Region

Array = np.ndarray[Any, Any]


def plain_masses(a: Array, axis: int, top: Array, low: Array, copies: int) -> tuple[Array, Array]:
    """Sum of |a| in each interval that a copy would save, one value at a time."""
    channels = a.shape[axis]
    upper, lower = np.zeros((channels, copies)), np.zeros((channels, copies))
    for where, v in np.ndenumerate(a):
        c = where[axis]
        for i in range(copies):
            if (i + 1) * top[c] < v <= (i + 2) * top[c]:
                upper[c, i] += v
            if (i + 1) * low[c] < -v <= (i + 2) * low[c]:
                lower[c, i] -= v
    return upper, lower


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("none_mid", "conv1"), ("depthwise_per_channel", "relu1"), ("matmul_gelu", "mul2"), ("channels_last", "relu1")],
)
def test_measured_masses_are_those_of_a_plain_loop(name: str, tensor: str) -> None:
    model, feed = zoo.build(name)
    _, regions = regions_of(model)
    k = find(regions, tensor)
    r = regions[k]
    assert isinstance(r, Region)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name=tensor))
    a = 2 * zoo.execute(probe, feed)[-1]
    got = measure([r], 3, [{tensor: a[:1]}, {tensor: a[1:]}])[0]
    top, low = (np.broadcast_to(v, (r.walk.channels,)) for v in (r.quantizer.x_clip, r.quantizer.x_low))
    upper, lower = plain_masses(a, r.walk.axis, top, low, 3)
    np.testing.assert_allclose(got.upper, upper, rtol=1e-5)
    np.testing.assert_allclose(got.lower, lower, rtol=1e-5)
    assert upper.any() and lower.any() == (name == "none_mid") and got.measured
    moved = np.moveaxis(a, r.walk.axis, 0).reshape(r.walk.channels, -1).astype(np.float64)
    beyond = (moved > top[:, None]) | (moved < -low[:, None])
    assert got.share_clipped == pytest.approx(np.abs(moved[beyond]).sum() / np.abs(moved).sum(), rel=1e-5)
    assert (got.range_used == 1) == (name != "matmul_gelu")


@pytest.mark.parametrize(("reach", "expected"), [(1.0, 1.0), (0.5, 0.5), (0.125, 0.125), (4.0, 1.0)])
def test_share_of_the_range_that_is_used(reach: float, expected: float) -> None:
    model, _ = zoo.build("conv_relu_conv")
    _, regions = regions_of(model)
    r = regions[find(regions, "relu1")]
    assert r.quantizer is not None
    a = np.zeros((1, 8, 2, 2), np.float32)
    a[0, 3, 1, 1] = reach * float(r.quantizer.x_clip)
    got = measure([r], 1, [{"relu1": a}])[0]
    assert got.range_used == pytest.approx(expected)
    assert (got.share_clipped == 1) == (reach > 1) and got.upper.sum() == 0  # 4 * X_clip is beyond the first copy


def test_nothing_measured_on_nothing() -> None:
    model, _ = zoo.build("conv_relu_conv")
    _, regions = regions_of(model)
    got = measure(regions, 2, [])
    assert all(not o.upper.any() and not o.lower.any() and o.share_clipped == 0 for o in got.values())
