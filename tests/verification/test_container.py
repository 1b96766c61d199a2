"""What surrounds the nodes: every field of the model and the graph is the original's, or found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny import model, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.verification.container import container

Model = onnx.ModelProto


def original() -> Model:
    m = model([node("Add", "x c", "a"), node("Relu", "a", "y")], {"c": np.ones(4, np.float32), "unread": np.zeros(2)})
    m.graph.value_info.append(helper.make_tensor_value_info("a", 1, ["N", 3, 4, 4]))
    m.producer_name, m.graph.doc_string = "somebody", "what it is"
    m.metadata_props.add(key="author", value="somebody")
    m.graph.input.append(helper.make_tensor_value_info("c", 1, [4]))
    return m


def found(change: Callable[[Model], object]) -> list[str]:
    new = original()
    change(new)
    return [*container(Graph(original()), Graph(new))]


def test_a_model_is_its_own_container() -> None:
    assert found(lambda m: None) == []


def remove(field: list[object] | object, k: int) -> None:
    del field[k]  # type: ignore[attr-defined]


CHANGES: dict[str, Callable[[Model], object]] = {
    "'producer_name'": lambda m: setattr(m, "producer_name", "other"),
    "'model_version'": lambda m: setattr(m, "model_version", 7),
    "'doc_string'": lambda m: m.graph.ClearField("doc_string"),
    "'name'": lambda m: setattr(m.graph, "name", "other"),
    "'functions'": lambda m: m.functions.add(name="f", domain="d"),
    "'quantization_annotation'": lambda m: m.graph.quantization_annotation.add(tensor_name="a"),
    "'sparse_initializer'": lambda m: m.graph.sparse_initializer.add(dims=[1]),
    "IR version": lambda m: setattr(m, "ir_version", 9),
    "metadata": lambda m: m.metadata_props.add(key="k", value="v"),
    "'author' gone": lambda m: remove(m.metadata_props, 0),
    "shape of 'a'": lambda m: m.graph.value_info[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 5),
    "shape of 'b'": lambda m: m.graph.value_info.append(helper.make_tensor_value_info("b", 1, [1])),
    "'unread' of the original is missing": lambda m: remove(m.graph.initializer, 1),
    "'new' is not the original's": lambda m: m.graph.initializer.append(
        numpy_helper.from_array(np.zeros(1), "new")
    ),
    "one name": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_found(what: str) -> None:
    failures = found(CHANGES[what])
    assert len(failures) == 1
    assert what.endswith("gone") or what in failures[0]


def test_what_a_rewrite_may_do() -> None:
    """Its own notes, fewer shapes, constants that are read, and an IR version that needs no listed inputs."""

    def rewritten(m: Model) -> None:
        m.metadata_props.add(key="onnx_ocs.history", value="[]")
        del m.graph.value_info[:]
        m.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "c_wide"))
        m.graph.node[0].input[1] = "c_wide"

    assert found(rewritten) == []

    old, new = original(), original()
    old.ir_version, new.ir_version = 3, 4
    assert [*container(Graph(old), Graph(new))] == []
    new.ir_version = 5
    assert len([*container(Graph(old), Graph(new))]) == 1


def test_a_constant_that_nobody_reads_any_more_may_go_unless_it_is_an_input() -> None:
    def unread(m: Model) -> None:
        m.graph.node[0].input[1] = "x"
        remove(m.graph.initializer, 0)

    assert found(unread) == ["the initializer 'c' of the original is missing"]
    old, new = original(), original()
    for m in (old, new):
        remove(m.graph.input, 1)
    unread(new)
    assert [*container(Graph(old), Graph(new))] == []
