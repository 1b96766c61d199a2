"""The index over a graph: constants, readers, what is private."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.onnx"))[::2], ids=lambda p: p.stem)
def test_constants_are_known_without_their_values(path: Path) -> None:
    model = onnx.load(path)
    names = [o for n in model.graph.node for o in n.output if o]
    looked, evaluated = Graph(model), Graph(model)
    found = {t: looked.is_constant(t) for t in names}
    assert found == {t: evaluated.constant(t) is not None for t in names}


def test_a_graph_to_read_has_nothing_to_edit_with() -> None:
    """What only looks is given an index; edits have a type of their own."""
    edits = {n for n in vars(EditableGraph) if not n.startswith("_")} - {"initializer"}
    assert {"add_node", "set_input", "commit"} <= edits
    assert not [n for n in edits if hasattr(Graph, n)]


def test_readers() -> None:
    model, _ = zoo.build("residual")
    graph = Graph(model)
    for t in graph.producer:
        assert [id(n) for n in graph.nodes if t in n.input] == [id(n) for n in graph.readers(t)]
        assert graph.private(t) == (len(graph.readers(t)) == 1 and t not in graph.outputs)
    model.graph.node[0].name = "unchanged"
    before = model.SerializeToString()
    assert [graph.constant(t) is not None for t in graph.initializers] == [True] * len(graph.initializers)
    assert model.SerializeToString() == before


def test_steady_nodes_compute_the_same_for_every_input() -> None:
    """What only constants lead to; neither what reads an input, nor what draws numbers."""
    make = onnx.helper.make_node
    nodes = [
        make("Add", ["w", "w"], ["a"]), make("Add", ["x", "a"], ["b"]), make("Neg", ["a"], ["c"]),
        make("RandomUniformLike", ["w"], ["r"]), make("Neg", ["r"], ["d"]), make("Add", ["given", "w"], ["e"]),
    ]  # fmt: skip
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("x", "given")]
    weights = [onnx.numpy_helper.from_array(np.ones(2, np.float32), n) for n in ("w", "given")]
    graph = Graph(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", values, [], weights)))
    assert [n.output[0] for n in graph.steady()] == ["a", "c"]
