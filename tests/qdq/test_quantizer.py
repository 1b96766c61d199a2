from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import DTYPES, Net, Style, image, integer_range

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.quantizer import Quantizer, integer_clip, read_quantizer
from onnx_ocs.refusals import Refusal

Array = np.ndarray[Any, Any]


ZERO = np.uint8(0)


def quantized(scale: Any = 0.5, zero: Any = ZERO, **attributes: Any) -> onnx.ModelProto:
    """One Q whose parameters are initializers; `zero` None leaves the zero-point out."""
    scale = np.asarray(scale, np.float32) if not isinstance(scale, np.ndarray) else scale
    constants = [numpy_helper.from_array(scale, "s")]
    if zero is not None:
        constants.append(numpy_helper.from_array(np.asarray(zero), "z"))
    nodes = [helper.make_node("QuantizeLinear", ["x", *[c.name for c in constants]], ["y"], name="q", **attributes)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 3])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, ["N", 4, 3])
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def read(model: onnx.ModelProto, name: str = "") -> Quantizer | Refusal:
    """The quantizer of the first (or the named) Q or DQ."""
    graph = Graph(model)
    ops = ("QuantizeLinear", "DequantizeLinear")
    return read_quantizer(graph, next(n for n in graph.nodes if n.op_type in ops and name in n.output[0]))


def refused(model: onnx.ModelProto) -> str:
    q = read(model)
    assert isinstance(q, Refusal) and q.node == "q" and q.as_dict()["code"] == q.code
    return q.code


@pytest.mark.parametrize("dtype", DTYPES)
def test_range_is_that_of_the_dtype(dtype: str) -> None:
    q = read(quantized(zero=np.asarray(1, DTYPES[dtype])))
    assert isinstance(q, Quantizer)
    assert (q.qmin, q.qmax) == integer_range(dtype)
    assert q.x_clip == 0.5 * (q.qmax - 1) and q.x_low == 0.5 * (1 - q.qmin)
    assert q.dtype == DTYPES[dtype] and q.float_dtype == np.float32 and q.axis is None


SPELLINGS = ("initializer", "constant", "identity", "cast", "absent", "vector")


@pytest.mark.parametrize(
    ("zero", "domain"), [*((z, d) for z in SPELLINGS for d in ("", "com.microsoft")), ("output_dtype", "")]
)
def test_zero_point_may_come_from_anywhere(zero: str, domain: str) -> None:
    dtype = "int8" if zero == "output_dtype" else "uint8"
    n, _ = image(Style(opset=21, zero=zero, domain=domain, dtype=dtype))
    r = n.op("Relu", "x")
    model = n.model(n.qdq(r, "mid" if dtype == "int8" else "low"))
    q, dq = read(model, "relu1_q"), read(model, "relu1_dq")
    assert isinstance(q, Quantizer) and isinstance(dq, Quantizer)
    assert q.zero_point == 0 and q.zero_point.shape == () and q.dtype == DTYPES[dtype]
    assert q.scale == n.initializers["relu1_scale"].astype(np.float64)
    assert np.array_equal(q.scale, dq.scale) and np.array_equal(q.zero_point, dq.zero_point)
    x = read(model, "x_q")
    assert isinstance(x, Quantizer) and x.zero_point == (0 if dtype == "int8" else 128)


def test_absent_zero_point_is_uint8() -> None:
    q = read(quantized(zero=None))
    assert isinstance(q, Quantizer) and (q.qmin, q.qmax, int(q.zero_point)) == (0, 255, 0)


@pytest.mark.parametrize("axis", [1, -2])
def test_per_channel(axis: int) -> None:
    scale, zero = np.asarray([1, 2, 3, 4], np.float32), np.asarray([0, 10, 128, 255], np.uint8)
    q = read(quantized(scale, zero, axis=axis))
    assert isinstance(q, Quantizer) and q.axis == axis
    assert q.x_clip.tolist() == [255, 490, 381, 0] and q.x_low.tolist() == [0, 20, 384, 1020]
    assert [v.shape for v in q.per_channel(4)] == [(4,), (4,)]


def test_one_scale_in_a_vector_is_per_tensor() -> None:
    q = read(quantized(np.asarray([0.25], np.float16), np.asarray([3], np.int8)))
    assert isinstance(q, Quantizer) and q.axis is None and q.scale.shape == q.zero_point.shape == ()
    assert q.float_dtype == np.float16 and q.x_clip == 31.0


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_bad_scale(scale: float) -> None:
    assert refused(quantized(scale)) == "bad_scale"


def test_one_bad_scale_among_many() -> None:
    assert refused(quantized(np.asarray([1, 0, 1, 1], np.float32), np.zeros(4, np.uint8))) == "bad_scale"


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8(name: str) -> None:
    assert refused(quantized(zero=np.zeros((), getattr(ml_dtypes, name)))) == "float8"


def test_blocked() -> None:
    scale, zero = np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.uint8)
    assert refused(quantized(scale, zero, axis=1, block_size=2)) == "blocked"


@pytest.mark.parametrize("name", ["s", "z"])
def test_dynamic_parameters(name: str) -> None:
    model = quantized()
    t = next(t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, t.data_type, []))
    assert isinstance(read(model), Quantizer)  # an initializer that is listed as an input is a constant
    model.graph.initializer.remove(t)
    assert refused(model) == "dynamic_parameters"


def test_grids_are_compared_by_value() -> None:
    a, b, finer, shifted, other = (
        read(m)
        for m in (
            quantized(),
            quantized(np.asarray([0.5], np.float32)),
            quantized(0.25),
            quantized(zero=np.uint8(1)),
            quantized(zero=np.int8(0)),
        )
    )
    assert isinstance(a, Quantizer) and isinstance(b, Quantizer)
    assert a.same_grid(b) and not a.same_grid(None)
    for q in (finer, shifted, other):
        assert isinstance(q, Quantizer) and not a.same_grid(q)


# ---- integer Clip ---------------------------------------------------------------------------------------------------

Bounds = tuple[int | None, int | None]


def clipped(*bounds: Bounds, reader: bool = False, output: bool = False) -> onnx.ModelProto:
    """Q to uint8, one integer Clip for each pair of bounds, each with its DQ."""
    n = Net(Style(), x=(4, 6, 6))
    q = n.q("x", "low")
    outputs: list[Any] = []
    for k, pair in enumerate(bounds):
        inputs = ["" if b is None else n.const(f"bound{k}{i}", b, np.uint8) for i, b in enumerate(pair)]
        outputs.append(n.dq(n.op("Clip", q, *inputs), out=f"dq{k}"))
    if reader:
        outputs.append(n.dq(q, out="plain"))
    return n.model(*outputs, *[(q, TensorProto.UINT8)] * output)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([(0, 15)], (0, 15)),
        ([(0, 3), (0, 3)], (0, 3)),
        ([(None, 100)], (0, 100)),
        ([(2, None)], (2, 255)),
        ([(0, 15), (0, 7)], (0, 255)),
    ],
    ids=["qcdq", "two equal", "open below", "open above", "two different"],
)
def test_integer_clip_bounds_the_range(bounds: list[Bounds], expected: Bounds) -> None:
    q = read(clipped(*bounds))
    assert isinstance(q, Quantizer) and (q.qmin, q.qmax) == expected


@pytest.mark.parametrize("how", [{"reader": True}, {"output": True}])
def test_integer_clip_counts_only_if_nobody_reads_past_it(how: dict[str, bool]) -> None:
    q = read(clipped((0, 15), **how))
    assert isinstance(q, Quantizer) and (q.qmin, q.qmax) == (0, 255)


def test_computed_clip_bounds_are_unknown() -> None:
    model = clipped((0, 15))
    bound = next(t for t in model.graph.initializer if t.name == "bound01")
    model.graph.initializer.remove(bound)
    model.graph.input.append(helper.make_tensor_value_info("bound01", TensorProto.UINT8, []))
    graph = Graph(model)
    q = read(model)
    assert isinstance(q, Quantizer) and (q.qmin, q.qmax) == (0, 255)
    assert integer_clip(graph, next(n for n in graph.nodes if n.op_type == "Clip"), q) is None


WITHOUT = {"int8": np.int8, "uint8": np.uint8, "int32": np.int32}


@pytest.mark.parametrize("dtype", WITHOUT)
@pytest.mark.parametrize("where", ["initializer", "constant", "transposed", "input", "quantized"])
def test_a_dequantizer_without_a_zero_point_has_the_type_of_what_it_reads(dtype: str, where: str) -> None:
    """QuantizeLinear makes uint8 where nothing is said; DequantizeLinear takes what is there."""
    if where == "quantized" and dtype == "int32":
        pytest.skip("no QuantizeLinear makes them")
    element = helper.np_dtype_to_tensor_dtype(np.dtype(WITHOUT[dtype]))
    value = numpy_helper.from_array(np.ones((2, 2), WITHOUT[dtype]), "i")
    constants = [numpy_helper.from_array(np.asarray(0.5, np.float32), "s")]
    nodes, inputs, name = [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])], "i"
    if where == "constant":
        nodes.append(helper.make_node("Constant", [], ["i"], value=value))
    elif where == "input":
        inputs.append(helper.make_tensor_value_info("i", element, [2, 2]))
    elif where == "quantized":
        nodes.append(helper.make_node("QuantizeLinear", ["x", "s"], ["i"], output_dtype=element))
    else:
        constants.append(value)
    if where == "transposed":
        nodes.append(helper.make_node("Transpose", ["i"], [name := "t"]))
    nodes.append(helper.make_node("DequantizeLinear", [name, "s"], ["y"]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    graph = Graph(
        helper.make_model(
            helper.make_graph(nodes, "g", inputs, [y], constants), opset_imports=[helper.make_opsetid("", 21)]
        )
    )
    q = read_quantizer(graph, graph.producer["y"])
    assert isinstance(q, Quantizer)
    assert q.dtype == WITHOUT[dtype] and (q.qmin, q.qmax) == integer_range(dtype)
