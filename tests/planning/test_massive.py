"""One value hundreds of times the rest (massive activations): a step for all leaves the rest none, copies give it back.

The shape of a decoder's worst tensor: the input of the MLP's last layer, one channel, one token.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_ocs
from onnx_ocs import PlanOptions
from onnx_ocs.passes import Translate

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


@pytest.mark.parametrize(("copies", "least", "most"), [(15, 28, 34), (255, 39, 50)])
def test_copies_of_one_channel_give_the_others_their_steps_back(copies, least, most, tmp_path):
    """With 15 copies the step is 1/16 of the old one; with as many as it takes, the others have steps enough."""
    rng = np.random.default_rng(0)
    floats, quantized = nets(rng)
    x = rng.normal(size=(32, TOKENS, CHANNELS)).astype(np.float32)
    x[:, 0, 7] = LARGE
    onnx.save(floats, tmp_path / "float.onnx")
    onnx.save(quantized, tmp_path / "int8.onnx")
    done = onnx_ocs.rewrite(
        tmp_path / "int8.onnx", tmp_path / "out.onnx", calib={"x": x}, float_model=tmp_path / "float.onnx",
        options=PlanOptions(budget=8.0, copies=copies), passes=(Translate(),),
    )  # fmt: skip
    (region,) = (r for r in done.report["regions"] if r["status"] == "applied")
    given = np.asarray(region["copies"])
    assert given[7] == given.max() and (given.max() <= 15) == (copies == 15)
    quality = done.report["quality"]
    assert quality["sqnr_before_db"] < 8 and least < quality["sqnr_after_db"] < most
    assert done.report["verification"]["verdict"] == "PASSED"
