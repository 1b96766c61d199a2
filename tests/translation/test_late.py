"""Late copies: every part quantized by itself, and the integers joined wherever they can be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo
from zoo import execute

from onnx_ocs.api import rewrite
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.records.layouts import quantizers, read_layouts


def late(name: str, ratio: float = 0.5, copies: int = 2) -> onnx.ModelProto:
    return rewrite(zoo.build(name)[0], passes=[Translate(ratio, copies, "late")]).model


@pytest.mark.parametrize("name", ["conv_relu_conv", "int8", "residual", "grouped", "depthwise_per_channel"])
def test_integers_are_joined(name: str) -> None:
    graph = Graph(late(name))
    for original, (now, wide) in read_layouts(graph.model).items():
        found = quantizers(graph, now)
        assert len(found) > 1 and found[0].output[0] == original
        assert graph.producer[now].op_type == ("Gather" if name == "grouped" and original == "relu1_q" else "Concat")
        for n in found[1:]:
            assert not n.metadata_props or all("wide" not in p.key and "scale" not in p.key for p in n.metadata_props)
            sizes = [np.size(graph.constant(t)) for t in n.input[1:]]
            assert all(s in (1, wide.origin.size - wide.narrow) for s in sizes)


@pytest.mark.parametrize("name", ["int4", "qcdq2_residual"])
def test_floats_are_joined_where_integers_cannot_be(name: str) -> None:
    """Of integers of less than a byte, and where a Clip holds the bounds."""
    graph = Graph(late(name))
    assert all(len(quantizers(graph, now)) == 1 for now, _ in read_layouts(graph.model).values())


def test_the_integers_that_others_read_stay() -> None:
    """What a quantizer wrote is still there, under its name, and holds what it held."""
    model, feed = zoo.build("int8")
    new = late("int8")
    for original, (now, wide) in read_layouts(new).items():
        both = onnx.ModelProto()
        both.CopyFrom(new)
        both.graph.output.extend(onnx.ValueInfoProto(name=t) for t in (original, now))
        bases, joined = execute(both, feed)[-2:]
        np.testing.assert_array_equal(np.take(joined, np.flatnonzero(wide.level == 0), wide.axis), bases)
    assert model.graph.node[0].op_type == new.graph.node[0].op_type
