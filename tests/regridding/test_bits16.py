"""Quantizers of 16 bits hold the old range on a finer grid, in every dialect, and what reads them follows."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
import zoo
from feeds import inputs
from regridded_models import lengthened
from tiny import model, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.grids import SHORTS, Sixteen, read_edits
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regridding.bits16 import check_16, grid_16, range_16, type_16
from onnx_ocs.regridding.grids import Extremes

Model = onnx.ModelProto


def pair(dtype: str, zero: int, opset: int = 17, bits: int | None = None) -> Model:
    """x -> Q [Clip] DQ -> y, a step of 0.1."""
    kind = np.dtype(zoo.DTYPES[dtype])
    values = {"s": np.float32(0.1), "z": np.asarray(zero, kind)}
    nodes = [node("QuantizeLinear", "x s z", "q")]
    if bits:
        low, high = zoo.integer_range(dtype, bits)
        values |= {"low": np.asarray(low, kind), "high": np.asarray(high, kind)}
        nodes += [node("Clip", "q low high", "c")]
    nodes += [node("DequantizeLinear", f"{'c' if bits else 'q'} s z", "d"), node("Identity", "d", "y")]
    return model(nodes, values, {"x": ["N", 3]}, opset=opset)


def region(m: Model, index: int = 0) -> Region:
    found = find_regions(Graph(m), infer_shapes(m))[index]
    assert isinstance(found, Region)
    return found


def quantizers(m: Model) -> list[Quantizer]:
    graph = Graph(m)
    nodes = [n for n in graph.nodes if n.op_type == "QuantizeLinear" and not graph.is_constant(n.input[0])]
    return [q for n in nodes if isinstance(q := read_quantizer(graph, n), Quantizer)]


# ---- grids ----------------------------------------------------------------------------------------------------------

PAIRS = [
    ("uint8", 0, 17, None), ("uint8", 128, 17, None), ("uint8", 255, 13, None), ("int8", 0, 21, None),
    ("int8", -128, 17, None), ("int8", 7, 21, None), ("uint4", 3, 21, None), ("int4", 0, 21, None),
    ("uint8", 0, 17, 4), ("uint8", 0, 17, 3), ("int8", 0, 17, 4), ("int8", -2, 21, 2),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "zero", "opset", "bits"), PAIRS)
def test_the_range_stays_and_so_does_every_old_value(dtype: str, zero: int, opset: int, bits: int | None) -> None:
    before = pair(dtype, zero, opset, bits)
    after = lengthened(before)
    (old,), (new,) = quantizers(before), quantizers(after)
    assert new.dtype.name in SHORTS and new.dtype.name.startswith("u") == dtype.startswith("u")
    whole = 65535 % (old.qmax - old.qmin) == 0 or old.symmetric
    top = float(np.maximum(old.x_clip, old.x_low) if old.symmetric else old.x_clip)  # symmetric: as far up as down
    assert new.x_low == pytest.approx(float(old.x_low), abs=float(new.scale))
    assert new.x_clip == pytest.approx(top, abs=1.01 * float(new.scale))
    assert new.x_clip >= old.x_clip * (1 - 1e-6) and new.rectifies == old.rectifies and new.symmetric == old.symmetric
    grid = ((np.arange(old.qmin, old.qmax + 1) - old.zero_point) * np.float32(0.1)).astype(np.float32)
    old_values = {"x": np.repeat(grid[:, None], 3, 1)}
    anything = {"x": np.linspace(-40, 40, 3000, dtype=np.float32).reshape(-1, 3)}
    for level in ("disable_all", "enable_all"):
        (held,) = zoo.execute(after, old_values, level)
        assert np.abs(held - old_values["x"]).max() < (2e-6 if whole else float(new.scale)) * max(1, np.abs(grid).max())
        (found,) = zoo.execute(after, anything, level)
        wanted = np.clip(anything["x"], -float(new.x_low), float(new.x_clip))
        assert np.abs(found - wanted).max() <= float(new.scale) * 0.501
    assert {o.domain for o in after.opset_import} == ({"", "com.microsoft"} if opset < 21 else {""})
    assert {n.domain for n in after.graph.node if "uantize" in n.op_type} == {"com.microsoft" if opset < 21 else ""}
    assert not any(n.op_type == "Clip" for n in after.graph.node)


def test_the_exact_steps() -> None:
    assert float(quantizers(lengthened(pair("uint8", 0)))[0].scale) == np.float32(np.float64(np.float32(0.1)) / 257)
    assert int(quantizers(lengthened(pair("uint8", 3)))[0].zero_point) == 3 * 257
    assert float(quantizers(lengthened(pair("int8", 0)))[0].scale) == np.float32(0.1) / 256
    assert type_16(region(pair("int4", 0, 21)).quantizer) == np.int16


def test_a_side_grows_only_where_it_is_no_activation() -> None:
    seen = Extremes(np.full(1, -30.0), np.full(1, 40.0))
    both, relu = region(pair("uint8", 128)), region(pair("uint8", 0))
    assert range_16(both, seen) == (-60.0, 80.0)
    assert range_16(relu, seen) == (0.0, 80.0), "it saturates at 0, as a ReLU does"
    little = Extremes(np.full(1, -0.5), np.full(1, 0.5))
    assert range_16(both, little) == range_16(both, None) == pytest.approx((-12.8, 12.7))
    six = zoo.Net(x=(3, 6, 6))
    t = six.qdq(six.conv(six.qdq("x", "mid")), scale=6 / 255)
    folded = six.model(six.conv(t))
    layer = region(folded, 1)
    assert layer.folded and range_16(layer, seen) == pytest.approx((0.0, 6.0), rel=1e-6)
    assert grid_16(layer, seen).scale * 65535 == pytest.approx(6.0, rel=1e-6)
    clipped = model(
        [node("Clip", "x lo hi", "c"), node("QuantizeLinear", "c s z", "q"), node("DequantizeLinear", "q s z", "y")],
        {"lo": np.float32(-1), "hi": np.float32(1), "s": np.float32(0.001), "z": np.uint8(128)}, {"x": ["N", 3]},
    )  # fmt: skip
    assert range_16(region(clipped), seen) == (-1.0, 1.0), "a Clip in front bounds it"


# ---- what cannot be -------------------------------------------------------------------------------------------------


def why_not(m: Model, types: tuple[str, ...] = SHORTS) -> str | None:
    graph = Graph(m)
    found = [check_16(graph, r, None, types) for r in find_regions(graph, infer_shapes(m))]
    return found[0].code if found[0] is not None else None


def test_refusals() -> None:
    d = node("DequantizeLinear", "q s z", "y")
    values = {"s": np.float32(0.1), "z": np.uint8(3)}
    shape = {"x": ["N", 3, 4, 4]}
    assert why_not(pair("uint8", 0), ()) == "target" == why_not(pair("uint16", 0, 21))
    per = {"s": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.uint8)}
    q, dq = node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", "y", axis=1)
    assert why_not(model([q, dq], per, shape)) == "blocked"
    half = {"s": np.float16(0.1), "z": np.uint8(3)}
    cast = node("Cast", "x", "h", to=onnx.TensorProto.FLOAT16)
    assert why_not(model([cast, node("QuantizeLinear", "h s z", "q"), d], half, shape, opset=21)) == "half_precision"
    q = node("QuantizeLinear", "x s z", "q")
    assert why_not(model([q, d], values, shape)) is None
    assert why_not(model([q, d], values, shape, ["y", "q"])) == "integers_leave"
    moved = [q, node("MaxPool", "q", "p", kernel_shape=[2, 2]), node("DequantizeLinear", "p s z", "y")]
    assert why_not(model(moved, values, shape)) == "not_dequantized"
    typed = [q, d, node("CastLike", "s q", "c"), node("Cast", "c", "e", to=1)]
    assert why_not(model(typed, values, shape, ["y", "e"])) == "integers_leave"
    named = node("QuantizeLinear", "x s", "q", output_dtype=onnx.TensorProto.INT8)
    assert why_not(model([named, node("DequantizeLinear", "q s", "y")], {"s": np.float32(1)}, shape, opset=21)) == (
        "typed"
    )


def test_a_bias_that_would_overflow_leaves_the_tensor() -> None:
    m = int32_bias()
    bias = next(t for t in m.graph.initializer if t.name == "b")
    assert why_not(m) is None
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, 1 << 30, np.int32), "b"))
    weights = next(t for t in m.graph.initializer if t.name == "w")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 3, 1, 1), 127, np.int8), "w"))
    assert why_not(m) == "bias_range"


# ---- what follows ---------------------------------------------------------------------------------------------------


def int32_bias(readers: int = 1) -> Model:
    """Layers with an int32 bias on the scale s_x * s_w behind one quantizer, each with its own DequantizeLinear."""
    rng = np.random.default_rng(0)
    values = {"s": np.float32(0.02), "z": np.uint8(100), "ws": np.float32(0.01), "wz": np.int8(0)}
    values |= {"w": rng.integers(-9, 9, (4, 3, 1, 1)).astype(np.int8), "b": rng.integers(-99, 99, 4).astype(np.int32)}
    values |= {"bs": np.float32(0.02) * np.float32(0.01), "bz": np.int32(0)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "w ws wz", "v")]
    nodes += [node("DequantizeLinear", "b bs bz", "c")]
    for k in range(readers):
        nodes += [node("DequantizeLinear", "q s z", f"d{k}"), node("Conv", f"d{k} v c", f"y{k}")]
    return model(nodes, values, outputs=[f"y{k}" for k in range(readers)])


@pytest.mark.parametrize(("readers", "level"), [*product((1, 2), ("disable_all", "enable_all"))])
def test_biases_and_all_readers_follow(readers: int, level: str) -> None:
    before = int32_bias(readers)
    after = lengthened(before)
    old = (np.random.default_rng(1).integers(0, 256, (2, 3, 4, 4)) - 100) * np.float32(0.02)
    feed = {"x": old.astype(np.float32)}
    for a, b in zip(zoo.execute(before, feed, level), zoo.execute(after, feed, level), strict=True):
        assert np.abs(a - b).max() < 1e-5
    stored = [onnx.numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type == onnx.TensorProto.INT32]
    first = next(onnx.numpy_helper.to_array(t) for t in before.graph.initializer if t.name == "b")
    assert any(np.array_equal(v, 257 * first.astype(np.int64)) for v in stored if v.ndim)
    assert read_edits(after) == [Sixteen("q", "uint16", 100, 25700)]


def test_a_sum_reads_16_bits() -> None:
    """A residual sum: with all its quantizers at 16 bits a network is next to its float self."""
    before, _ = zoo.build("residual")
    after = lengthened(before, None, Extremes(np.full(1, -9.0), np.full(1, 9.0)))
    assert {q.dtype.name for q in quantizers(after)} == {"uint16"}
    bare = lengthened(after)
    assert bare == after or read_edits(bare) == read_edits(after), "they have 16 bits already"
    feed = inputs(before, 8)
    (now,), (fused,) = zoo.execute(after, feed), zoo.execute(after, feed, "enable_all")
    assert np.abs(now - fused).max() < 1e-3 * np.abs(now).max()
