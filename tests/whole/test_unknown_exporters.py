"""Models as exporters that nobody has told us about may write them, built node by node.

Each is rewritten and verified, passes the checker and runs at both optimization levels.  Independently of the
verification: inputs so small that nothing is clipped give what the original gives; large ones give something else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tally
from covering import in_turn
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from onnx_ocs import api
from onnx_ocs.calibration.declared import input_specs
from onnx_ocs.passes.translate import Translate

CHANNELS = 8
SHAPE = [1, 3, 8, 8]
STEP, ZERO = 0.02, np.uint8(0)  # of the activations: about a tenth of their values are clipped
BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {}


def case(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    BUILDERS[build.__name__] = build
    return build


class Net:
    """A graph under construction; every method returns a tensor name."""

    def __init__(self, opset: int = 17) -> None:
        self.opset, self.rng = opset, np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, op: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"n{len(self.nodes)}", domain=domain, **attributes))
        return out

    def quantize(self, x: str, step: float = STEP, zero: Any = ZERO, **kwargs: Any) -> str:
        return self.op("QuantizeLinear", x, self.const(step), self.const(zero, np.asarray(zero).dtype), **kwargs)

    def dequantize(self, x: str, step: float = STEP, zero: Any = ZERO, **kwargs: Any) -> str:
        return self.op("DequantizeLinear", x, self.const(step), self.const(zero, np.asarray(zero).dtype), **kwargs)

    def qdq(self, x: str, step: float = STEP, zero: Any = ZERO) -> str:
        return self.dequantize(self.quantize(x, step, zero), step, zero)

    def weight(self, *shape: int, step: float = 0.01) -> str:
        values = self.rng.integers(-50, 51, shape).astype(np.int8)
        return self.dequantize(self.const(values, np.int8), step, np.int8(0))

    def conv(self, x: str, cin: int, cout: int = CHANNELS, step: float = 0.01, **attributes: Any) -> str:
        group = attributes.get("group", 1)
        bias = self.const(self.rng.uniform(-0.5, 0.5, cout))
        w = self.weight(cout, cin // group, 3, 3, step=step)
        return self.op("Conv", x, w, bias, pads=[1, 1, 1, 1], **attributes)

    def start(self, x: str = "x") -> str:
        """Input quantizer, Conv, Relu: the activation that is quantized next."""
        return self.op("Relu", self.conv(self.qdq(x, 0.03, np.uint8(128)), SHAPE[1]))

    def model(
        self,
        *outputs: tuple[str, int],
        inputs: Sequence[tuple[str, int, list]] = (("x", T.FLOAT, SHAPE),),
        imports: Sequence[tuple[str, int]] = (),
        functions: Sequence[onnx.FunctionProto] = (),
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "unknown",
            [helper.make_tensor_value_info(*i) for i in inputs],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(*i) for i in imports)]
        ir = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=ir)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for o, v in zip(model.graph.output, session.get_outputs(), strict=True):
            o.CopyFrom(helper.make_tensor_value_info(o.name, o.type.tensor_type.elem_type, v.shape))
        return model


def plain(net: Net, x: str = "x") -> str:
    """Conv, Relu, Q, DQ, Conv: the ordinary case that the others vary."""
    return net.conv(net.qdq(net.start(x)), CHANNELS)


# ---- the models -----------------------------------------------------------------------------------------------------


@case
def ordinary():
    net = Net()
    return net.model((plain(net), T.FLOAT))


@case
def integer_input_and_output():
    net = Net()
    a = net.op("Relu", net.conv(net.dequantize("x", 0.03, np.int8(-5)), SHAPE[1]))
    y = net.quantize(net.conv(net.qdq(a, STEP, np.int8(-128)), CHANNELS), 0.2, np.int8(3), out="y")
    return net.model((y, T.INT8), inputs=[("x", T.INT8, SHAPE)])


@case
def unsorted_nodes():
    net = Net()
    y = plain(net)
    net.nodes.reverse()
    return net.model((y, T.FLOAT))


@case
def local_function():
    net = Net()
    y = net.op("Soften", net.op("Soften", plain(net), domain="my.functions"), domain="my.functions")
    body = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Mul", ["v", "half"], ["w"]),
        helper.make_node("Tanh", ["w"], ["z"]),
    ]
    function = helper.make_function("my.functions", "Soften", ["v"], ["z"], body, [helper.make_opsetid("", 17)])
    return net.model((y, T.FLOAT), imports=[("my.functions", 1)], functions=[function])


@case
def local_function_reads_the_activation():
    net = Net()
    a = net.qdq(net.start())
    y = net.op("Add", net.conv(a, CHANNELS), net.op("Double", a, domain="my.functions"))
    body = [helper.make_node("Add", ["v", "v"], ["z"])]
    function = helper.make_function("my.functions", "Double", ["v"], ["z"], body, [helper.make_opsetid("", 17)])
    return net.model((y, T.FLOAT), imports=[("my.functions", 1)], functions=[function])


@case
def opset_24():
    net = Net(24)
    return net.model((plain(net), T.FLOAT))


@case
def opset_10():
    net = Net(10)
    return net.model((plain(net), T.FLOAT))


@case
def ten_unused_opset_imports():
    net = Net()
    names = ["ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.ms.internal.nhwc"]
    names += [
        "com.microsoft.nchwc",
        "com.microsoft.experimental",
        "com.vendor.npu",
        "com.vendor.dsp",
        "org.pytorch.aten",
    ]
    return net.model((plain(net), T.FLOAT), imports=[(name, 1) for name in names])


@case
def powers_of_two():
    """All values are multiples of 2^-10, so that a good part of them lies exactly between two steps."""
    net = Net()
    a = net.conv(net.qdq("x", 2.0**-5, np.uint8(128)), SHAPE[1], step=2.0**-6)
    net.constants = [
        numpy_helper.from_array(np.round(v * 64) / np.float32(64), t.name)
        if (v := numpy_helper.to_array(t)).ndim == 1
        else t
        for t in net.constants
    ]
    a = net.qdq(net.op("Relu", a), 2.0**-5)
    a = net.qdq(net.op("Relu", net.conv(a, CHANNELS, step=2.0**-7)), 2.0**-5)
    return net.model((net.conv(a, CHANNELS, step=2.0**-7), T.FLOAT))


@case
def int4_weights():
    net = Net(21)
    a = net.qdq(net.start())
    for shape in ((CHANNELS, CHANNELS, 3, 3), (5, CHANNELS, 1, 1)):  # 9 and 5 channels: an odd number of nibbles
        values = net.rng.integers(-8, 8, shape)
        name = f"w{shape[0]}"
        net.constants.append(helper.make_tensor(name, T.INT4, shape, values.reshape(-1)))
        zero = f"{name}_zero"
        net.constants.append(helper.make_tensor(zero, T.INT4, (shape[0],), [0] * shape[0]))
        w = net.op("DequantizeLinear", name, net.const(net.rng.uniform(0.02, 0.1, shape[0])), zero, axis=0)
        a = net.op("Conv", a, w, pads=[shape[2] // 2] * 4)
        if shape[0] == CHANNELS:
            a = net.qdq(net.op("Relu", a))
    return net.model((a, T.FLOAT))


@case
def transpose_between_quantize_and_dequantize():
    net = Net()
    nhwc = net.op("Transpose", net.start(), perm=[0, 2, 3, 1])
    q = net.op("Transpose", net.quantize(nhwc), perm=[0, 3, 1, 2])
    return net.model((net.conv(net.dequantize(q), CHANNELS), T.FLOAT))


def branches(net: Net, tensor: str) -> dict[str, onnx.GraphProto]:
    """Two subgraphs that read an outer tensor."""
    made = {}
    for name, op in (("then_branch", "Sigmoid"), ("else_branch", "Tanh")):
        node = helper.make_node(op, [tensor], [f"{name}_out"])
        out = helper.make_tensor_value_info(f"{name}_out", T.FLOAT, None)
        made[name] = helper.make_graph([node], name, [], [out])
    return made


@case
def if_reads_the_dequantized_activation():
    net = Net()
    a = net.qdq(net.start())
    flag = net.op("Greater", net.op("ReduceMean", "x", keepdims=0), net.const(0.0))
    y = net.op("Add", net.conv(a, CHANNELS), net.op("If", flag, **branches(net, a)))
    return net.model((y, T.FLOAT))


@case
def if_reads_the_float_activation():
    net = Net()
    a = net.start()
    flag = net.op("Greater", net.op("ReduceMean", "x", keepdims=0), net.const(0.0))
    y = net.op("Add", plain_tail(net, a), net.op("If", flag, **branches(net, a)))
    return net.model((y, T.FLOAT))


def plain_tail(net: Net, a: str) -> str:
    return net.conv(net.qdq(a), CHANNELS)


@case
def loop_reads_the_activation():
    net = Net()
    a = net.qdq(net.start())
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_still"]),
            helper.make_node("Add", ["sum_before", a], ["sum_after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("k", T.INT64, []),
            helper.make_tensor_value_info("go_on", T.BOOL, []),
            helper.make_tensor_value_info("sum_before", T.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_still", T.BOOL, []),
            helper.make_tensor_value_info("sum_after", T.FLOAT, None),
        ],
    )
    y = net.conv(a, CHANNELS)
    y = net.op("Loop", net.const(3, np.int64), net.const(True, np.bool_), y, body=body)
    return net.model((y, T.FLOAT))


@case
def quantizer_in_a_subgraph():
    """Subgraphs are never entered: their own quantizers stay as they are."""
    net = Net()
    y = plain(net)
    q, d = net.const(0.05), net.const(3, np.uint8)
    nodes = [
        helper.make_node("QuantizeLinear", [y, q, d], ["inner_q"]),
        helper.make_node("DequantizeLinear", ["inner_q", q, d], ["inner"]),
    ]
    out = helper.make_tensor_value_info("inner", T.FLOAT, None)
    flag = net.op("Greater", net.op("ReduceMean", "x", keepdims=0), net.const(0.0))
    other = helper.make_graph(
        [helper.make_node("Identity", [y], ["same"])], "b", [], [helper.make_tensor_value_info("same", T.FLOAT, None)]
    )
    y = net.op("If", flag, then_branch=helper.make_graph(nodes, "a", [], [out]), else_branch=other)
    return net.model((y, T.FLOAT))


@case
def dequantized_output():
    net = Net()
    a = net.qdq(net.start())
    return net.model((a, T.FLOAT), (net.conv(a, CHANNELS), T.FLOAT))


@case
def quantized_output():
    net = Net()
    q = net.quantize(net.start())
    return net.model((net.conv(net.dequantize(q), CHANNELS), T.FLOAT), (q, T.UINT8))


@case
def several_dequantizers():
    """One Q, a DQ of its own for each reader."""
    net = Net()
    q = net.quantize(net.start())
    y = net.op("Add", net.conv(net.dequantize(q), CHANNELS), net.conv(net.dequantize(q), CHANNELS))
    return net.model((y, T.FLOAT))


@case
def zero_point_omitted():
    net = Net()
    q = net.op("QuantizeLinear", net.start(), net.const(STEP))
    return net.model((net.conv(net.op("DequantizeLinear", q, net.const(STEP)), CHANNELS), T.FLOAT))


@case
def output_dtype_instead_of_a_zero_point():
    net = Net(21)
    q = net.op("QuantizeLinear", net.start(), net.const(STEP), output_dtype=T.UINT8)
    return net.model((net.conv(net.op("DequantizeLinear", q, net.const(STEP)), CHANNELS), T.FLOAT))


@case
def parameters_of_rank_one():
    net = Net()
    scale, zero = net.const([STEP]), net.const([0], np.uint8)
    q = net.op("QuantizeLinear", net.start(), scale, zero)
    return net.model((net.conv(net.op("DequantizeLinear", q, scale, zero), CHANNELS), T.FLOAT))


@case
def parameters_from_constant_nodes():
    net = Net()
    scale = net.op("Constant", value_float=STEP)
    zero = net.op("Cast", net.op("Constant", value_int=0), to=T.UINT8)
    q = net.op("QuantizeLinear", net.start(), scale, zero)
    return net.model((net.conv(net.op("DequantizeLinear", q, scale, zero), CHANNELS), T.FLOAT))


@case
def initializers_as_typed_data():
    """int32_data and float_data instead of raw bytes."""
    net = Net()
    model = net.model((plain(net), T.FLOAT))
    for t in model.graph.initializer:
        values = numpy_helper.to_array(t)
        t.CopyFrom(helper.make_tensor(t.name, t.data_type, t.dims, values.reshape(-1).tolist()))
        assert not t.HasField("raw_data")
    return model


@case
def shared_initializers():
    """One weight for two layers, one scale and one zero point for everything."""
    net = Net()
    scale, zero = net.const(STEP), net.const(0, np.uint8)
    w = net.const(net.rng.integers(-8, 9, (CHANNELS, CHANNELS, 3, 3)), np.int8)
    w = net.op("DequantizeLinear", w, scale, net.const(0, np.int8))
    a = net.start()
    for last in (False, True):
        a = net.op("DequantizeLinear", net.op("QuantizeLinear", a, scale, zero), scale, zero)
        a = net.op("Conv", a, w, pads=[1, 1, 1, 1])
        a = a if last else net.op("Relu", a)
    return net.model((a, T.FLOAT))


@case
def strange_names():
    """Unnamed nodes; tensors with blanks, slashes, Unicode, and names like those that the rewriter makes up."""
    net = Net()
    y = plain(net)
    model = net.model((y, T.FLOAT))
    taken = ["a b", "größe/ü", "t5_wide", "t5_copy", "日本", "t5", "t3_wide_1", "::", "-1", "c12_wide"]
    written = [o for n in model.graph.node for o in n.output if o != y]
    rename = dict(zip(written, taken, strict=False))
    for k, n in enumerate(model.graph.node):
        n.name = "" if k % 2 else f"t5_wide/{n.op_type}_{k}"
        n.input[:] = [rename.get(i, i) for i in n.input]
        n.output[:] = [rename.get(o, o) for o in n.output]
    return model


@case
def dynamic_shapes():
    net = Net()
    a = net.op("GlobalAveragePool", net.op("Relu", net.conv(net.qdq(net.start()), CHANNELS)))
    a = net.qdq(net.op("Flatten", a), 0.01)
    bias = net.const(net.rng.standard_normal(4))
    y = net.op("Gemm", a, net.weight(4, CHANNELS), bias, transB=1)
    return net.model((y, T.FLOAT), inputs=[("x", T.FLOAT, ["batch", 3, "height", "width"])])


@case
def two_inputs_and_an_unused_one():
    net = Net()
    y = net.op("Add", plain(net), plain(net, "z"))
    return net.model((y, T.FLOAT), inputs=[("x", T.FLOAT, SHAPE), ("z", T.FLOAT, SHAPE), ("idle", T.INT64, [2])])


@case
def auto_padding_and_strides():
    net = Net()
    a = net.qdq(net.start())
    y = net.op("Conv", a, net.weight(CHANNELS, CHANNELS, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    y = net.qdq(net.op("LeakyRelu", y, alpha=0.1))
    y = net.op("ConvTranspose", y, net.weight(CHANNELS, 4, 2, 2), strides=[2, 2])
    return net.model((y, T.FLOAT))


@case
def first_layer_in_float():
    net = Net()
    w, b = net.const(net.rng.standard_normal((CHANNELS, 3, 3, 3)) / 2), net.const(net.rng.standard_normal(CHANNELS) / 4)
    a = net.op("HardSwish", net.op("Conv", "x", w, b, pads=[1, 1, 1, 1]))
    return net.model((net.conv(net.qdq(a, STEP, np.uint8(20)), CHANNELS), T.FLOAT))


@case
def sequence_with_matmul():
    """[batch, tokens, features]: the channel axis is the last one."""
    net = Net()
    a = net.op("MatMul", net.qdq("x", 0.03, np.uint8(128)), net.weight(16, CHANNELS))
    a = net.op("Relu", net.op("Add", a, net.const(net.rng.standard_normal(CHANNELS) / 4)))
    y = net.op("MatMul", net.qdq(a), net.weight(CHANNELS, 4))
    return net.model((y, T.FLOAT), inputs=[("x", T.FLOAT, ["batch", "tokens", 16])])


# ---- the tests ------------------------------------------------------------------------------------------------------


def feeds(model: onnx.ModelProto, size: float) -> tally.Feed:
    rng = np.random.default_rng(1)
    feed = {}
    for spec in input_specs(model):
        values = size * rng.standard_normal([d or 4 for d in spec.shape])
        feed[spec.name] = (np.clip(values * 30, -128, 127) if spec.dtype.kind == "i" else values).astype(spec.dtype)
    return feed


@pytest.mark.parametrize(("name", "mode"), in_turn(BUILDERS, [("auto",), ("late",)]))
def test_rewrite(name, mode):
    old = BUILDERS[name]()
    before = old.SerializeToString(deterministic=True)
    result = api.rewrite(old, passes=[Translate(ratio=1.0, mode=mode)])
    assert old.SerializeToString(deterministic=True) == before
    assert result.changed
    assert result.verification is not None
    assert result.verification.verdict == "PASSED"
    new = result.model
    small, large = feeds(old, 0.02), feeds(old, 3.0)
    for feed in (small, large):
        assert tally.violations(old, new, feed, tuple(tally.LEVELS)) == []
    onnx.checker.check_model(new, full_check=True)
    a, b = (tally.outcome(m, small, "ORT_DISABLE_ALL") for m in (old, new))
    assert isinstance(a, list)
    assert isinstance(b, list)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(y.astype(np.float64), x.astype(np.float64), rtol=1e-5, atol=1e-5)
    c, d = (tally.outcome(m, large, "ORT_DISABLE_ALL") for m in (old, new))
    assert any(np.abs(x.astype(np.float64) - y.astype(np.float64)).max() > 0.01 for x, y in zip(c, d, strict=True))


def test_what_must_stay_does_stay():
    old = BUILDERS["local_function"]()
    new = api.rewrite(old).model
    assert [f.SerializeToString() for f in new.functions] == [f.SerializeToString() for f in old.functions]
    assert [n for n in new.graph.node if n.domain] == [n for n in old.graph.node if n.domain]

    old = BUILDERS["quantizer_in_a_subgraph"]()
    new = api.rewrite(old).model
    assert [n for n in new.graph.node if n.op_type == "If"] == [n for n in old.graph.node if n.op_type == "If"]

    old = BUILDERS["ten_unused_opset_imports"]()
    assert list(api.rewrite(old).model.opset_import) == list(old.opset_import)


def test_quantization_inside_local_functions_is_left_intact() -> None:
    """Such a file is no mistake: there is nothing to rewrite in the main graph, and that is said."""
    body = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("quant", 1)]
    function = helper.make_function("quant", "Fake", ["x", "s", "z"], ["y"], body, opsets[:1])
    x, y = (helper.make_tensor_value_info(n, T.FLOAT, [1, 4]) for n in "xy")
    constants = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    graph = helper.make_graph(
        [helper.make_node("Fake", ["x", "s", "z"], ["y"], domain="quant")], "g", [x], [y], constants
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    result = api.rewrite(model)
    assert not result.changed and result.model is model
    assert any("local functions" in note for note in result.report["notes"])
