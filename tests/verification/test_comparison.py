"""Node against node: what tensors are, what is missing, doubled, left over or wired otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from mutations import copy_of
from onnx import helper, numpy_helper
from tiny import model, node

from onnx_ocs.api import rewrite
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.verification.comparison import Comparison, Structure
from onnx_ocs.verification.declared import Declared

Model = onnx.ModelProto


def compared(original: Model, new: Model) -> Structure:
    before, after = Graph(original), Graph(new)
    found = Structure(declared=Declared.read(before, after))
    found.steps = Steps(before, found.declared.scales)
    Comparison(before, after, found).run()
    return found


def network() -> Model:
    """A residual block with a shape that is computed, and a node of several outputs."""
    return model(
        [
            node("Conv", "x w", "a"),
            node("Add", "a x", "s"),
            node("Split", "s", "l r", axis=1),
            node("Sub", "l r", "d"),
            node("Shape", "d", "n"),
            node("Reshape", "d n", "y"),
        ],
        {"w": np.ones((4, 4, 1, 1), np.float32)},
        {"x": ["N", 4, 5, 5]},
        opset=13,
    )


def failures(change: Callable[[Model], Any]) -> list[str]:
    new = network()
    change(new)
    return compared(network(), new).failures


def test_a_model_is_itself_in_any_order_of_its_nodes() -> None:
    assert failures(lambda m: None) == []

    def unsorted(m: Model) -> None:
        nodes = [copy for n in m.graph.node for copy in [onnx.NodeProto.FromString(n.SerializeToString())]]
        del m.graph.node[:]
        m.graph.node.extend(nodes[::-1])

    assert failures(unsorted) == []


def test_nodes_without_names_are_found_by_what_they_read() -> None:
    def anonymous(m: Model) -> Model:
        for n in m.graph.node:
            n.name = ""
        return m

    new = anonymous(network())
    new.graph.node[1].output[0] = new.graph.node[2].input[0] = "other"
    assert compared(anonymous(network()), new).failures == []
    new.graph.node[1].op_type = "Sub"
    assert compared(anonymous(network()), new).failures != []


@pytest.mark.parametrize("shared", ["", "same"])
@pytest.mark.parametrize("name", ["depthwise", "qcdq2_depthwise", "residual", "value_info", "contrib_residual"])
def test_a_rewrite_is_followed_where_names_tell_nothing(name: str, shared: str) -> None:
    original = copy_of(zoo.build(name)[0])
    for n in original.graph.node:
        n.name = shared
    new = rewrite(original, passes=[Translate(0.5, 2, "late")], verify=False).model
    assert new != original
    assert compared(original, new).failures == []


def rewire(k: int, *inputs: str) -> Callable[[Model], None]:
    return lambda m: m.graph.node[k].input.__setitem__(slice(None), inputs)


def drop(m: Model) -> None:
    m.graph.node[5].input[0] = "l"
    del m.graph.node[3]


def extra(op: str, inputs: str, output: str, **attributes: Any) -> Callable[[Model], None]:
    return lambda m: m.graph.node.append(node(op, inputs, output, **attributes))


def subgraph(m: Model) -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["d"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    m.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "c"))
    m.graph.node.append(helper.make_node("If", ["c"], ["e"], name="If", then_branch=body, else_branch=body))
    m.graph.node[-2].input[0] = "e"


def swapped_outputs(m: Model) -> None:
    m.graph.node[2].output[:] = ["r", "l"]


def twice(m: Model) -> None:
    m.graph.node.append(helper.make_node("Add", ["a", "x"], ["again"], name="s/Add"))


CHANGES: dict[str, tuple[Callable[[Model], Any], str]] = {
    "another input": (rewire(1, "x", "a"), "where the original reads"),
    "operands change places": (rewire(3, "r", "l"), "where the original reads"),
    "an input is missing": (rewire(3, "l"), "another number of inputs"),
    "outputs change places": (swapped_outputs, "writes"),
    "a node is missing": (drop, "of the original is missing"),
    "a node is there twice": (twice, "it is there twice"),
    "a dead node": (extra("Relu", "d", "dead"), "nothing declares it"),
    "a subgraph": (subgraph, "nothing declares it"),
    "an attribute": (lambda m: m.graph.node[2].attribute[0].__setattr__("i", 2), "attributes are not the original's"),
    "a description": (lambda m: m.graph.node[0].__setattr__("doc_string", "new"), "name or description"),
    "a name": (lambda m: m.graph.node[0].__setattr__("name", "new"), "name or description"),
    "metadata": (lambda m: m.graph.node[0].metadata_props.add(key="k", value="v"), "metadata"),
    "an operator": (lambda m: m.graph.node[1].__setattr__("op_type", "Mul"), "nothing declares it"),
    "a domain": (lambda m: m.graph.node[1].__setattr__("domain", "com.microsoft"), "nothing declares it"),
    "an unknown tensor": (rewire(4, "nowhere"), "is not known"),
    "the graph output": (lambda m: m.graph.node[5].input.__setitem__(1, "x"), "where the original reads"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_found(name: str) -> None:
    change, why = CHANGES[name]
    found = failures(change)
    assert found and any(why in f for f in found), found


def test_what_a_failed_node_writes_is_not_reported_again() -> None:
    (why,) = failures(lambda m: m.graph.node[0].__setattr__("doc_string", "new"))
    assert why.startswith("Conv 'a/Conv'")


def test_our_own_metadata_are_no_change() -> None:
    assert failures(lambda m: m.graph.node[0].metadata_props.add(key="onnx_ocs.source", value="translate")) == []


def test_tensors_that_subgraphs_read_are_compared() -> None:
    def outer(of: str) -> Model:
        value = helper.make_tensor_value_info("b", 1, None)
        body = helper.make_graph([helper.make_node("Relu", [of], ["b"])], "b", [], [value])
        nodes = [node("Neg", "x", "a"), node("Abs", "x", "c"), node("Add", "a c", "s")]
        nodes.append(helper.make_node("If", ["k"], ["y"], name="If", then_branch=body, else_branch=body))
        return model([*nodes], {"k": np.asarray(True)})

    assert compared(outer("s"), outer("s")).failures == []
    assert compared(outer("s"), outer("a")).failures != []


@pytest.mark.parametrize("name", ["concat_wide", "requantized", "residual", "global_pool_gemm", "integer_max_pool"])
def test_a_rewrite_is_followed_to_the_outputs(name: str) -> None:
    """Late copies; then the folded channels, or the layer behind them, read something else."""
    original = zoo.build(name)[0]
    new = rewrite(original, passes=[Translate(0.5, 2, "late")], verify=False).model
    assert compared(original, new).failures == []
    old = {o for n in original.graph.node for o in n.output}
    added = [k for k, n in enumerate(new.graph.node) if old.isdisjoint(n.output) and n.op_type == "Gather"]
    assert added
    bad = copy_of(new)
    n = bad.graph.node[added[-1]]
    t = next(t for t in bad.graph.initializer if t.name == n.input[1])
    index = numpy_helper.to_array(t)
    t.CopyFrom(numpy_helper.from_array(np.roll(index, 1) if index.size > 1 else index + 1, t.name))
    assert compared(original, bad).failures != []
