"""Branches against the arithmetic of their records: what is written wrongly, and what is changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import branch_nets
import numpy as np
import onnx
import pytest
from branch_nets import branched
from mistakes import Mistake, Patch, operator, replaced
from mutations import copy_of
from onnx import numpy_helper

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.compensation import insert
from onnx_ocs.model.graph import Graph
from onnx_ocs.records.branches import RECORD, digest
from onnx_ocs.verification.branches import check_branches
from onnx_ocs.verification.verify import verify

Model = onnx.ModelProto
NETS: dict[str, Any] = {
    "image": branch_nets.image_net,
    "tokens": branch_nets.token_net,
    "plane": branch_nets.plane_net,
    "output": branch_nets.matrix_net,
    "subgraph": branch_nets.captured_net,
}


@cache
def pair(net: str, form: str = "dense") -> tuple[Model, Model]:
    return branched(NETS[net], form)


def complaints(model: Model) -> list[str]:
    return check_branches(model, random_samples(model, 2, 0), 2, 0)


@pytest.mark.parametrize("net", NETS)
def test_a_branch_computes_what_its_record_says(net: str) -> None:
    assert complaints(pair(net)[1]) == []


@pytest.mark.parametrize("form", ["bias", "diagonal", "grouped", "low rank"])
def test_so_do_all_forms(form: str) -> None:
    assert complaints(pair("image", form)[1]) == []


def entry_of(model: Model) -> tuple[Any, dict[str, Any]]:
    place = next(p for n in model.graph.node for p in n.metadata_props if p.key == RECORD)
    return place, json.loads(place.value)


def recorded(**changes: Any) -> list[str]:
    """A record that says something else, with a digest that fits."""
    bad = copy_of(pair("image")[1])
    place, entry = entry_of(bad)
    entry |= changes
    entry["digest"] = digest(entry, Graph(bad))
    place.value = json.dumps(entry)
    return complaints(bad)


def test_what_the_record_says_is_compared() -> None:
    _, entry = entry_of(pair("image")[1])
    assert recorded() == []
    for changes in (
        {"beta": 1.05 * entry["beta"]},
        {"alpha": [1.05 * a for a in entry["alpha"]]},
        {"weights": entry["weights"][::-1]},
        {"reach": [r / 2 for r in entry["reach"]]},
        {"low": 0.5 * entry["low"], "high": 0.5 * entry["high"]},
    ):
        (why,) = recorded(**changes)
        assert "does not compute what its record says" in why or "leaves its bounds" in why
    (why,) = recorded(low=0.1 * entry["low"], high=0.1 * entry["high"])
    assert "leaves its bounds" in why


def test_constants_are_those_that_it_was_written_with() -> None:
    _, entry = entry_of(pair("image")[1])
    for name in (*entry["weights"], entry["bias"]):
        bad = copy_of(pair("image")[1])
        t = next(t for t in bad.graph.initializer if t.name == name)
        value = numpy_helper.to_array(t).copy()
        value.reshape(-1)[0] = np.nextafter(value.reshape(-1)[0], 9)
        t.CopyFrom(numpy_helper.from_array(value, name))
        (why,) = complaints(bad)
        assert "another record or other constants" in why


def test_a_lost_constant() -> None:
    bad = copy_of(pair("image")[1])
    place, entry = entry_of(bad)
    place.value = json.dumps({**entry, "bias": "nowhere"})
    (why,) = complaints(bad)
    assert "has lost a constant" in why


# ---- the writer makes mistakes --------------------------------------------------------------------------------------


def builder(name: str, change: Callable[..., Any]) -> Mistake:
    return replaced(insert._Builder, name, lambda f: lambda self, *args: change(f, self, *args))


MISTAKES: dict[str, Mistake] = {
    "not bounded": builder("clip", lambda f, self, x, low, high, name: x),
    "other bounds": builder("clip", lambda f, self, x, low, high, name: f(self, x, low, 1.1 * high, name)),
    "another function": builder("blt", lambda f, self, x, alpha, name: f(self, x, 1.01 * alpha, name)),
    "another inverse": builder("inverse", lambda f, self, z, beta: f(self, z, 1.01 * beta)),
    "subtracted": operator("Add", "Sub"),
    "weights that are not recorded": replaced(insert, "digest", lambda f: lambda entry, graph: "0" * 64),
}


def verdict(model: Model, new: Model) -> str:
    return verify(model, new, random_samples(model, 2, 0), 1).verdict


def test_branches_pass() -> None:
    assert verdict(*pair("image")) == "PASSED"


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_a_branch_is_found(what: str, monkeypatch: Patch) -> None:
    with monkeypatch.context() as m:
        MISTAKES[what](m)
        model, new = branched(branch_nets.image_net)
    assert complaints(new) != []
    assert verdict(model, new) == "FAILED"


def test_a_branch_takes_nothing_else_along() -> None:
    """Where a pass changes a bias in passing, it does not pass for a part of the branch."""
    model, new = pair("image")
    for name in ("conv1_b", "conv2_b"):
        bad = copy_of(new)
        t = next(t for t in bad.graph.initializer if t.name == name)
        value = numpy_helper.to_array(t).copy()
        value.reshape(-1)[0] += 1
        t.CopyFrom(numpy_helper.from_array(value, name))
        assert complaints(bad) == []  # the branch is right
        assert verdict(model, bad) == "FAILED"
