"""The targets by name, what a file breaks, and what a rewrite would add."""

from __future__ import annotations

import dataclasses
from typing import get_args

import zoo

import onnx_ocs
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.registry import added, complaints, rules_of


def test_every_choice_has_its_rules() -> None:
    names = get_args(Runtime)
    assert [rules_of(n).name for n in names] == list(names)
    assert len({tuple(map(str, dataclasses.astuple(rules_of(n))[1:])) for n in names}) == len(names)


def test_a_file_that_breaks_the_rules_is_told_so() -> None:
    graph = Graph(zoo.build("residual")[0])
    told = complaints(graph, "tensorrt")
    assert told and all(t.startswith("the file breaks a rule of tensorrt as it is: ") for t in told)
    assert complaints(graph, "ort") == []


def test_what_a_rewrite_adds() -> None:
    model, _ = zoo.build("residual")
    new = onnx_ocs.rewrite(model, passes=[Translate(0.5)], verify=False).model
    assert new is not model
    assert added(Graph(model), Graph(new), "ort") == [] == added(Graph(model), Graph(model), "generic-int8")
    assert any("runs in float" in a for a in added(Graph(model), Graph(new), "generic-int8"))
