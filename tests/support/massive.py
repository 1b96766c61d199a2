"""The shape of a decoder's worst tensor: the input of the MLP's last layer, one channel, one token."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNELS, TOKENS, LARGE = 64, 8, 200.0


def nets(rng: np.random.Generator) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """x [N, 8, 64] -> MatMul -> y [N, 8, 16] in float, and with int8 input and weight."""
    weight = rng.normal(size=(CHANNELS, 16)).astype(np.float32)
    weight[7] *= 0.02  # what the massive channel adds is not massive
    scale = np.abs(weight).max(axis=0) / np.float32(127)
    stored = {
        "w": np.rint(weight / scale).astype(np.int8), "ws": scale, "wz": np.zeros(16, np.int8),
        "s": np.float32(LARGE / 127), "z": np.int8(0),
    }  # fmt: skip
    quantized = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    plain = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = []
    for nodes, values in ((plain, {"w": stored["w"] * scale}), (quantized, stored)):
        ends = [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", TOKENS, c])
            for n, c in (("x", CHANNELS), ("y", 16))
        ]
        constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
        graph = helper.make_graph(nodes, "massive", ends[:1], ends[1:], constants)
        made.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    return made[0], made[1]


def values(rng: np.random.Generator, count: int) -> np.ndarray:
    """Samples [count, 8, 64]: the first token holds a value of 200 in channel 7, all else is ordinary."""
    x = rng.normal(size=(count, TOKENS, CHANNELS)).astype(np.float32)
    x[:, 0, 7] = LARGE
    return x
