"""The user's mistakes are told before anything is done, and what nobody foresaw is told as whose fault it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import zoo
from misbehaved import edit_array
from onnx import helper

from onnx_ocs.errors import UserError
from onnx_ocs.verbs.checks import answers_for_the_model, check_graph, check_qdq, check_runs


def edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("conv_relu_conv")[0])
    edit(model)
    return model


def no_reader(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "nowhere"


def no_output(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def bad_scale(model: onnx.ModelProto) -> None:
    edit_array(next(t for t in model.graph.initializer if t.name == "x_scale"), lambda a: a.fill(np.nan))


def other_rank(model: onnx.ModelProto) -> None:
    next(t for t in model.graph.initializer if t.name.endswith("_w")).dims.append(2)


GOOD = edited(lambda _: None)


def test_a_good_model() -> None:
    assert check_qdq(GOOD) == []
    check_graph(GOOD)
    check_runs(GOOD)


def test_not_quantized() -> None:
    with pytest.raises(UserError, match="quantize it to QDQ format first"):
        check_qdq(helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])))


def test_quantized_inside_functions() -> None:
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
    inside = [helper.make_node("QuantizeLinear", ["a", "s"], ["b"])]
    model.functions.append(helper.make_function("local", "f", ["a", "s"], ["b"], inside, model.opset_import))
    (note,) = check_qdq(model)
    assert "inside local functions" in note


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (no_reader, "reads 'nowhere', which nobody writes"),
        (bad_scale, "is not a finite number"),
        (no_output, "has no outputs"),
    ],
)
def test_bad_graphs(edit: Callable[[onnx.ModelProto], None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_graph(edited(edit))


def test_a_model_that_does_not_load() -> None:
    with pytest.raises(UserError, match="onnxruntime does not load this model"):
        check_runs(edited(other_rank))


class Surprise(Exception):
    """What nobody foresaw."""


@answers_for_the_model
def verb(model: onnx.ModelProto, error: Exception) -> None:
    raise error


def test_whose_fault_it_is() -> None:
    with pytest.raises(UserError, match="this is not a valid ONNX model") as stop:
        verb(edited(no_reader), Surprise())
    assert isinstance(stop.value.__cause__, Surprise)
    with pytest.raises(Surprise):
        verb(GOOD, Surprise())
    with pytest.raises(UserError, match="the user's own"):
        verb(edited(no_reader), UserError("the user's own"))
