"""Integer operators as QDQ: the same integers in onnxruntime, at both levels."""

from __future__ import annotations

from collections.abc import Callable

import feeds
import numpy as np
import onnx
import pytest
import zoo
from integer_nets import every_operator, integer_sums

from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qoperator.convert import convert
from onnx_ocs.qoperator.recognise import integer_operators


def outputs(model: onnx.ModelProto, level: str) -> np.ndarray:
    return zoo.execute(model, {k: v[:1] for k, v in feeds.inputs(model, 2).items()}, level)[0]


@pytest.mark.parametrize("build", [every_operator, lambda: every_operator(11), integer_sums])
def test_same_outputs(build: Callable[[], onnx.ModelProto]) -> None:
    """The whole networks, too, where no rounding tie comes between: nothing but float32's own rounding."""
    model = build()
    before = model.SerializeToString(deterministic=True)
    new = convert(model)
    assert model.SerializeToString(deterministic=True) == before, "the original is not touched"
    onnx.checker.check_model(new, full_check=True)
    assert integer_operators(model) and not integer_operators(new)
    for level in ("disable_all", "enable_all"):
        np.testing.assert_allclose(outputs(new, level), outputs(model, level), rtol=1e-4, atol=1e-5)
    assert np.std(outputs(model, "disable_all")) > 0.01, "the network says something"
    shapes = infer_shapes(new)
    assert all(o.name in shapes for o in new.graph.output)


def test_names_of_integers_and_layers_stay() -> None:
    model = every_operator()
    new = convert(model)
    written = {o for n in new.graph.node for o in n.output}
    kept = [n for n in model.graph.node if n.op_type != "Cast"]
    assert {o for n in kept for o in n.output} <= written
    assert {n.name for n in integer_operators(model)} <= {n.name for n in new.graph.node}


def test_who_reads_the_same_integers_shares_a_dequantizer() -> None:
    new = convert(every_operator())
    sources = [tuple(n.input) for n in new.graph.node if n.op_type == "DequantizeLinear"]
    assert len(sources) == len(set(sources))
