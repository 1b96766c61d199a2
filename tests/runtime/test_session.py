"""A session gives what onnxruntime's own `run` gives, without copies of its outputs."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper

from onnx_ocs.errors import CPP_ERRORS, UserError
from onnx_ocs.runtime import session as module
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import NUMBERS, RUN_ERRORS, Session, as_written

Array = np.ndarray[Any, Any]


def casts(to: int, shape: list[Any]) -> onnx.ModelProto:
    """Doubles every value of one type, and casts it to float as well."""
    inputs = [helper.make_tensor_value_info("x", to, shape)]
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["floats", "floats"], ["twice"]),
    ]
    outputs = [helper.make_tensor_value_info("same", to, None), helper.make_tensor_value_info("twice", 1, None)]
    graph = helper.make_graph(nodes, "casts", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "name", ["residual", "matmul_gelu", "float16", "output_integer", "int8_residual", "fixed_batch"]
)
@pytest.mark.parametrize("level", ["disable_all", "enable_all"])
def test_it_is_what_onnxruntime_gives(name: str, level: str) -> None:
    model, feed = zoo.build(name)
    session = Session(model, level)
    got, want = session.run(feed), session._session.run(None, feed)
    assert list(got) == session.outputs
    for a, b in zip(got.values(), want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("shape", [[], [3], ["N", 2]], ids=str)
def test_every_type_of_numbers(kind: str, shape: list[Any]) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(NUMBERS[kind])
    x = np.arange(int(np.prod([d for d in shape if isinstance(d, int)])) * 2).astype(dtype)[: 1 if not shape else None]
    x = x.reshape(()) if not shape else x[:3] if len(shape) == 1 else x.reshape(-1, 2)
    got = Session(casts(NUMBERS[kind], shape)).run({"x": x}, ["twice", "same"])
    assert list(got) == ["twice", "same"] and got["same"].dtype == x.dtype and got["same"].shape == x.shape
    np.testing.assert_array_equal(got["same"], x)
    np.testing.assert_array_equal(got["twice"], 2 * x.astype(np.float32))


def test_views_are_fed_as_they_look() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    session = Session(casts(TensorProto.FLOAT, ["N", 2]))
    for view in (whole[::2, 1:3], whole[:, ::3], whole[:2].T[2:4, :]):
        np.testing.assert_array_equal(session.run({"x": view})["twice"], 2 * view)


def test_text_goes_through_as_well() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "text", [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])],
                              [helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert Session(model).run({"x": np.asarray(["a", "bc"], object)})["y"].tolist() == ["a", "bc"]


def test_a_missing_input_is_said() -> None:
    model, feed = zoo.build("residual")
    with pytest.raises(ValueError, match=f"inputs are missing: {next(iter(feed))}"):
        Session(model).run({})


def test_outputs_outlive_their_session_and_later_runs() -> None:
    model, feed = zoo.build("residual")
    session = Session(model)
    first = next(iter(session.run(feed).values()))
    kept = first.copy()
    for k in range(4):
        session.run({n: v * (k + 2) for n, v in feed.items()})
    np.testing.assert_array_equal(first, kept)
    del session
    gc.collect()
    others = [np.ones(kept.shape, kept.dtype) for _ in range(100)]
    np.testing.assert_array_equal(first, kept)
    assert len(others) == 100


@pytest.mark.parametrize("own", [False, True])
def test_as_written_is_what_stands_there(own: bool) -> None:
    """onnxruntime's optimizer quantizes in front of a Transpose, and would give that out."""
    net = zoo.Net(x=(4, 6, 6))
    conv = net.conv("x")
    y = net.op("Sigmoid", net.qdq(net.op("Transpose", conv, perm=[0, 2, 3, 1]), "mid", 0.3))
    model = net.model(y, conv) if own else expose(net.model(y), [conv])
    plain, written = Session(model, "disable_all").run(net.feed), as_written(model).run(net.feed)
    assert list(written) == [y, conv]
    for t in written:
        np.testing.assert_allclose(written[t], plain[t], atol=1e-5)


# ---- what onnxruntime raises -----------------------------------------------------------------------------------------


def test_what_is_a_defect_of_ours_is_not_among_them() -> None:
    for errors in (CPP_ERRORS, RUN_ERRORS):
        assert not any(issubclass(bad, errors) for bad in (TypeError, AttributeError, AssertionError, KeyError))
        assert Exception not in errors and BaseException not in errors


def break_model(model: onnx.ModelProto, how: str) -> None:
    if how == "rank":
        next(t for t in model.graph.initializer if t.name.endswith("_w")).dims.append(2)
    elif how == "operator":
        model.graph.node[0].op_type = "Mystery"
    elif how == "edge":
        model.graph.node[2].input[0] = "nowhere"
    elif how == "opset":
        model.opset_import[0].version = 999
    else:
        model.graph.node[2].attribute.append(onnx.helper.make_attribute("nonsense", 3))


@pytest.mark.parametrize("how", ["rank", "operator", "edge", "opset", "attribute"])
@pytest.mark.parametrize("level", ["disable_all", "enable_all"])
def test_models_that_do_not_load(how: str, level: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("conv_relu_conv")[0])
    break_model(model, how)
    with pytest.raises(RUN_ERRORS):
        Session(model, level)


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"y": np.zeros((1, 4, 6, 6), np.float32)},
        {"x": np.zeros((1, 3, 6, 6), np.float32)},
        {"x": np.zeros((1, 4, 6, 6), np.int32)},
        {"x": np.zeros((1, 4, 6, 6), object)},
    ],
)
def test_feeds_that_do_not_run(feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(RUN_ERRORS):
        Session(zoo.build("conv_relu_conv")[0]).run(feed)


def test_where_kernels_do_not_saturate_sessions_need_not_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files do not load where it is forbidden; the proof then ran at one level only."""

    class Picky:
        def __init__(self, _model: Any, _level: str, precise: bool = True) -> None:
            if precise:
                raise UserError("AddInitializerWithOrtValue")

    monkeypatch.setattr(module, "Session", Picky)
    monkeypatch.setattr(module, "may_saturate", lambda: False)
    assert isinstance(module.attempt(onnx.ModelProto(), "enable_all"), Picky)
    monkeypatch.setattr(module, "may_saturate", lambda: True)
    assert module.attempt(onnx.ModelProto(), "enable_all") == "AddInitializerWithOrtValue"
