"""A model without its branches is the model before; constants that no record gives are found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import branch_nets
import numpy as np
import onnx
import pytest
import zoo
from branch_nets import branched
from onnx import numpy_helper

from onnx_ocs.records.branches import read_branches
from onnx_ocs.verification.strip import strange_constants, without_branches

Model = onnx.ModelProto
NETS: dict[str, Callable[[zoo.Style], Any]] = {
    "image": branch_nets.image_net,
    "tokens": branch_nets.token_net,
    "output": branch_nets.matrix_net,
    "subgraph": branch_nets.captured_net,
}


@cache
def pair(name: str, form: str = "dense") -> tuple[Model, Model]:
    return branched(NETS[name], form)


def stripped(model: Model, new: Model) -> Model:
    kept = {t.name for t in model.graph.initializer}
    return without_branches(new, read_branches(new), kept)


def nodes(model: Model) -> list[bytes]:
    """Its nodes without our notes, in any order."""
    found = []
    for n in model.graph.node:
        copy = onnx.NodeProto.FromString(n.SerializeToString())
        props = [p for p in copy.metadata_props if not p.key.startswith("onnx_ocs.")]
        del copy.metadata_props[:]
        copy.metadata_props.extend(props)
        found.append(copy.SerializeToString(deterministic=True))
    return sorted(found)


@pytest.mark.parametrize("form", ["dense", "low rank", "diagonal", "bias"])
@pytest.mark.parametrize("name", ["image", "output"])
def test_what_is_left_is_the_model_before(name: str, form: str) -> None:
    model, new = pair(name, form)
    before = new.SerializeToString()
    bare = stripped(model, new)
    assert new.SerializeToString() == before and len(new.graph.node) > len(model.graph.node)
    assert nodes(bare) == nodes(model)
    initializers = [{t.name: t.SerializeToString() for t in m.graph.initializer} for m in (bare, model)]
    assert initializers[0] == initializers[1]
    assert [o.name for o in bare.graph.output] == [o.name for o in model.graph.output]


@pytest.mark.parametrize("name", ["tokens", "subgraph"])
def test_readers_read_the_uncorrected_value_again(name: str) -> None:
    model, new = pair(name)
    assert nodes(stripped(model, new)) == nodes(model)


def test_constants_that_nobody_read_before_stay() -> None:
    model, new = pair("image")
    given = Model()
    given.CopyFrom(new)
    given.graph.initializer.append(numpy_helper.from_array(np.zeros(3), "nobody_reads"))
    assert "nobody_reads" in {t.name for t in stripped(model, given).graph.initializer}


def test_branches_that_are_not_named_stay() -> None:
    _, new = pair("image")
    assert nodes(without_branches(new, [], set())) == nodes(new)


def test_right_branches_have_no_strange_constants() -> None:
    for name in NETS:
        _, new = pair(name)
        assert strange_constants(new, read_branches(new)) == []


def test_positions_that_are_thinned_out_are_the_record_s() -> None:
    model, new = pair("image")  # every second one
    own = {t.name for t in model.graph.initializer}
    lists = [t for t in new.graph.initializer if t.name not in own and t.data_type == onnx.TensorProto.INT64]
    assert len(lists) == 4
    for t in lists:
        bad = Model()
        bad.CopyFrom(new)
        target = next(u for u in bad.graph.initializer if u.name == t.name)
        target.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) - 3, t.name))
        (why,) = strange_constants(bad, read_branches(bad))
        assert t.name in why


def test_every_other_value_of_a_scalar_is_strange() -> None:
    model, new = pair("image")
    own = {t.name for t in model.graph.initializer}
    entry = read_branches(new)[0].entry
    digested = {*entry["weights"], entry["back"], entry["bias"]}
    scalars = [t for t in new.graph.initializer if t.name not in own and t.name not in digested and not t.dims]
    assert len(scalars) > 3
    for t in scalars:
        bad = Model()
        bad.CopyFrom(new)
        value = numpy_helper.to_array(t)
        target = next(u for u in bad.graph.initializer if u.name == t.name)
        target.CopyFrom(numpy_helper.from_array(np.asarray(value * 1.01 + 0.01, value.dtype), t.name))
        (why,) = set(strange_constants(bad, read_branches(bad)))
        assert t.name in why
