"""Topological order, and what subgraphs read from outside."""

from __future__ import annotations

from itertools import permutations

import onnx
import pytest
from onnx import TensorProto, helper

from onnx_ocs.errors import UserError
from onnx_ocs.model.order import mentioned, topological


def op(output: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node("Sum", list(inputs), [output], name=output)


def names(nodes: list[onnx.NodeProto]) -> list[str]:
    return [n.name for n in nodes]


def test_what_is_in_order_stays() -> None:
    nodes = [op("c", "x"), op("a", "x"), op("b", "a", "c")]
    assert names(topological(nodes)) == ["c", "a", "b"]


def test_producers_come_first_from_any_order() -> None:
    """a -> b -> d, a -> c -> d: whatever the file's order, and nodes that may stay keep their places."""
    nodes = [op("a", "x"), op("b", "a"), op("c", "a"), op("d", "b", "c")]
    for order in permutations(nodes):
        found = names(topological(order))
        assert sorted(found) == ["a", "b", "c", "d"]
        assert found[0] == "a" and found[-1] == "d"
        first = names(list(order))
        assert (found.index("b") < found.index("c")) == (first.index("b") < first.index("c"))


def branch(reads: str) -> onnx.NodeProto:
    """An If whose branches read an outer tensor, one of them inside a second If."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    plain = helper.make_graph([helper.make_node("Identity", ["condition"], ["inner"])], "plain", [], [value])
    reader = helper.make_graph([helper.make_node("Identity", [reads], ["inner"])], "reader", [], [value])
    nested = helper.make_node("If", ["condition"], ["inner"], then_branch=reader, else_branch=plain)
    outer = helper.make_graph([nested], "outer", [], [value])
    return helper.make_node("If", ["condition"], ["chosen"], name="chosen", then_branch=outer, else_branch=plain)


def test_subgraphs_read_too() -> None:
    node = branch("a")
    assert set(mentioned(node)) == {"condition", "inner", "a"}
    assert set(mentioned(op("y", "x", "", "z"))) == {"x", "z"}  # an absent input is none
    assert names(topological([node, op("a", "x")])) == ["a", "chosen"]


def test_a_cycle_is_said() -> None:
    with pytest.raises(UserError, match="the graph has a cycle"):
        topological([op("a", "c"), op("b", "a"), op("c", "b")])


def test_a_node_that_reads_itself_is_said() -> None:
    with pytest.raises(UserError, match="the node 'a' reads its own output"):
        topological([op("a", "a")])


def test_two_writers_are_said() -> None:
    with pytest.raises(UserError, match="the tensor 'a' is written by two nodes"):
        topological([op("a", "x"), op("a", "x")])
