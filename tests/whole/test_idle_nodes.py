"""Q -> Cast to the type it has -> DQ, and Identity: the same numbers, so the same result, proven all the same."""

from __future__ import annotations

from typing import Any, Literal

import feeds
import numpy as np
import onnx
import pytest
import zoo
from idle_nodes import with_idle_nodes

import onnx_ocs
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.passes import Translate
from onnx_ocs.planning.options import PlanOptions


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    return zoo.build("three_layers")[0]


def done(model: onnx.ModelProto, options: PlanOptions | None) -> Any:
    return onnx_ocs.rewrite(model, calib=feeds.inputs(model, 8), passes=[Translate()], options=options)


@pytest.mark.parametrize(
    ("kind", "options"), [("cast", PlanOptions(budget=0.3, effort="quick")), ("identity", None)]
)
def test_same_result(plain: onnx.ModelProto, kind: Literal["cast", "identity"], options: PlanOptions | None) -> None:
    model = with_idle_nodes(plain, kind)
    assert sum(is_op(n, kind.capitalize()) for n in model.graph.node) > 1
    want, got = done(plain, options), done(model, options)
    assert want.changed and got.changed and got.verification is not None and got.verification.verdict == "PASSED"
    columns = ("tensor", "status", "mode", "copies", "copies_low", "scale", "reason")
    assert [[r[c] for c in columns] for r in got.report["regions"]] == [
        [r[c] for c in columns] for r in want.report["regions"]
    ]
    assert got.report["quality"]["sqnr_after_db"] == pytest.approx(want.report["quality"]["sqnr_after_db"], abs=1e-3)


def test_a_cast_to_another_type_is_not_idle(plain: onnx.ModelProto) -> None:
    model = with_idle_nodes(plain, "cast")
    graph = Graph(model)
    for n in graph.nodes:
        if is_op(n, "Cast"):
            n.attribute[0].i = onnx.TensorProto.INT8
            for r in graph.readers(n.output[0]):
                zero = model.graph.initializer.add()
                zero.CopyFrom(onnx.numpy_helper.from_array(np.int8(0), f"{n.output[0]}_zero"))
                r.input[2] = zero.name
    found = {r["reason"]["code"] for r in onnx_ocs.inspect(model)["regions"] if r["reason"]}
    assert found == {"not_dequantized"}


def test_a_cast_that_the_rewriter_changes_is_found(plain: onnx.ModelProto) -> None:
    model = with_idle_nodes(plain, "cast")
    new = done(model, None).model
    next(n for n in new.graph.node if is_op(n, "Cast")).attribute[0].i = onnx.TensorProto.INT8
    assert onnx_ocs.verify(model, new)["verification"]["verdict"] == "FAILED"


def test_a_cast_to_a_signed_type_keeps_the_sign_of_late_copies() -> None:
    """Such copies would lose their sign to suit some runtimes; a Cast names the type, so there they keep it."""
    model = with_idle_nodes(zoo.build("int8")[0], "cast")
    assert any(is_op(n, "Cast") for n in model.graph.node)
    found = onnx_ocs.rewrite(model, passes=[Translate(0.5, 1, "late")])
    assert found.changed and found.verification is not None and found.verification.verdict == "PASSED"
