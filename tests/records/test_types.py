"""Who says that integers have lost their sign."""

from __future__ import annotations

import onnx
from onnx import helper

from onnx_ocs.records.types import UNSIGNED, read_unsigned, record_unsigned


def test_written_and_read() -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], [t], name=t) for t in ("a", "b")]
    record_unsigned(nodes[0])
    model = onnx.ModelProto(graph=onnx.GraphProto(node=nodes))
    assert [p.key for p in nodes[0].metadata_props] == [UNSIGNED] and read_unsigned(model) == {"a"}
    model.graph.node[0].output[0] = "renamed"
    assert read_unsigned(model) == {"a"}
