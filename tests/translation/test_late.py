"""Late copies: joined in front of their quantizer, or behind quantizers of their own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo
from mistakes import integers_leave
from zoo import execute

from onnx_ocs.api import rewrite
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.records.layouts import quantizers, read_layouts


def late(model: onnx.ModelProto, ratio: float = 0.5, copies: int = 2) -> onnx.ModelProto:
    return rewrite(model, passes=[Translate(ratio, copies, "late")]).model


@pytest.mark.parametrize("name", ["conv_relu_conv", "int8", "int4", "qcdq2_residual", "grouped"])
def test_floats_are_joined(name: str) -> None:
    graph = Graph(late(zoo.build(name)[0]))
    found = read_layouts(graph.model)
    assert found and all(len(quantizers(graph, now)) == 1 for now, _ in found.values())


def test_signed_integers_that_others_read_are_joined() -> None:
    """What the quantizer wrote is still there, under its name, and holds what it held."""
    model, feed = zoo.build("int8")
    model = integers_leave(model, "relu1_q")
    graph = Graph(late(model))
    now, wide = read_layouts(graph.model)["relu1_q"]
    bases, *copies = quantizers(graph, now)
    assert graph.producer[now].op_type == "Concat" and bases.output[0] == "relu1_q" and len(copies) == 1
    assert not any("scale" in p.key or "wide" in p.key for p in copies[0].metadata_props)
    both = onnx.ModelProto()
    both.CopyFrom(graph.model)
    both.graph.output.append(onnx.ValueInfoProto(name=now))
    narrow, joined = execute(both, feed)[-2:]
    np.testing.assert_array_equal(np.take(joined, np.flatnonzero(wide.level == 0), wide.axis), narrow)
    np.testing.assert_array_equal(narrow, execute(model, feed)[-1])


def test_all_copies_of_the_channels_need_no_gather() -> None:
    new = late(zoo.build("conv_relu_conv")[0], 1.0, 1)
    assert sum(n.op_type == "Gather" for n in new.graph.node) == 0


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint4", "int4"])
def test_copies_with_steps_per_channel(dtype: str) -> None:
    """Integers of whole bytes are joined; Concat takes no others, so there the floats are."""
    n, x = zoo.image(zoo.Style(opset=21, dtype=dtype))
    model = n.model(n.conv(n.qdq(n.op("LeakyRelu", n.conv(x)), "mid", axis=1)))
    new = late(model)
    onnx.checker.check_model(new, full_check=True)
    found = read_layouts(new)
    joined = [new for now, _ in found.values() if Graph(new).producer[now].op_type == "Concat"]
    assert found and bool(joined) == dtype.endswith("8")
