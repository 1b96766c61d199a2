"""Names of thousands of characters: onnxruntime sees short ones, everybody else the model's own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.runtime.names import LONG, rename, shorten
from onnx_ocs.runtime.session import Session

A, B = "a" * LONG, "a" * LONG + "b"  # alike for longer than anybody reads


def model(x: str = "x", w: str = "w", y: str = "y", h: str = "h") -> onnx.ModelProto:
    """y = x + w where x > 0 on the whole, else 2 w: in subgraphs that capture outer tensors."""
    info = helper.make_tensor_value_info
    branches = {
        f"{kind}_branch": helper.make_graph([node], kind, [], [info(h, TensorProto.FLOAT, [2])])
        for kind, node in (
            ("then", helper.make_node("Add", [x, w], [h], name=h)),
            ("else", helper.make_node("Add", [w, w], [h], name=h)),
        )
    }
    nodes = [
        helper.make_node("ReduceSum", [x], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["more"]),
        helper.make_node("If", ["more"], [y], name=y, **branches),
    ]
    constants = [numpy_helper.from_array(np.asarray([1, 2], np.float32), w)]
    constants += [numpy_helper.from_array(np.float32(0), "zero")]
    g = helper.make_graph(nodes, "g", [info(x, TensorProto.FLOAT, [2])], [info(y, TensorProto.FLOAT, [2])], constants)
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_session_answers_by_the_models_names() -> None:
    names = {"x": A, "w": B, "y": A + "y", "h": B + "h"}
    plain, long = Session(model()), Session(model(**names))
    assert (long.inputs, long.outputs) == ({names["x"]}, [names["y"]])
    assert long.described() == [(names["y"], *plain.described()[0][1:])]
    for x in (np.asarray([1, 1], np.float32), np.asarray([-1, -1], np.float32)):
        np.testing.assert_array_equal(long.run({names["x"]: x})[names["y"]], plain.run({"x": x})["y"])


def test_short_names_stay_and_long_ones_come_back() -> None:
    short = model()
    assert shorten(short) == (short, {}) and shorten(short)[0] is short
    long = model(A, B, A + "y", "h")
    before = long.SerializeToString()
    new, names = shorten(long)
    assert long.SerializeToString() == before
    assert names.keys() == {A, B, A + "y"} and len({*names.values()}) == 3
    assert all(len(n) < 60 and n.startswith("a" * 40) for n in names.values())
    onnx.checker.check_model(new, full_check=True)
    rename(new, {now: name for name, now in names.items()})
    assert new.SerializeToString() == before


def test_a_short_name_that_is_taken() -> None:
    new, names = shorten(model(A, "a" * 40 + "~0"))
    assert names[A] != "a" * 40 + "~0"
    onnx.checker.check_model(new, full_check=True)
