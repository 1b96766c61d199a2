"""Original and declarations against a rewritten file: whatever the files hold, an answer and no exception."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import onnx
import pytest
import zoo
from mutations import copy_of
from onnx import numpy_helper
from step_plans import biased, plan_for

from onnx_ocs.api import rewrite
from onnx_ocs.passes.translate import Translate
from onnx_ocs.probes.retyped import retyped
from onnx_ocs.records.layouts import LAYOUT
from onnx_ocs.records.steps import NOW
from onnx_ocs.records.types import read_unsigned
from onnx_ocs.verification import structure
from onnx_ocs.verification.structure import MOST, compare

Model = onnx.ModelProto


@cache
def pair() -> tuple[Model, Model]:
    _, model = biased("residual", dtype="int8")
    plan = plan_for(model, x=(0.5, 1, "late"), relu1=(0.4, 2, "early"), relu2=(0.6, 0, "late"))
    new = rewrite(model, passes=[Translate(plan=plan)], verify=False).model
    return retyped(model, read_unsigned(new)), new


def test_what_is_declared_is_found() -> None:
    found = compare(*pair())
    assert found.failures == [] and found.notes == [] and not found.unfollowed
    assert found.declared.layouts.keys() == {"x_q", "relu1_q"}
    assert found.declared.scales.keys() == {"x_q", "relu1_q", "relu2_q"}
    assert found.steps is not None and not found.expected


def test_the_models_are_not_interchangeable() -> None:
    original, new = pair()
    assert compare(original, original).failures == [] == compare(new, new).failures
    assert compare(new, original).failures != []


def without(new: Model, key: str) -> Model:
    bad = copy_of(new)
    for n in bad.graph.node:
        kept = [p for p in n.metadata_props if p.key != key]
        del n.metadata_props[:]
        n.metadata_props.extend(kept)
    return bad


def test_an_older_file_is_read_with_a_note() -> None:
    original, new = pair()
    found = compare(original, without(new, NOW))
    assert found.failures == [] and len(found.notes) == 1 and "older version" in found.notes[0]


def test_nothing_is_found_without_the_layouts() -> None:
    original, new = pair()
    assert compare(original, without(new, LAYOUT)).failures


def test_damaged_declarations_end_it() -> None:
    original, new = pair()
    bad = copy_of(new)
    for n in bad.graph.node:
        for p in n.metadata_props:
            if p.key == LAYOUT:
                p.value = json.dumps({**json.loads(p.value), "narrow": 1})
    found = compare(original, bad)
    assert len(found.failures) == 1 and "layout" in found.failures[0] and found.steps is None


def test_a_file_that_is_no_graph() -> None:
    original, new = pair()
    for empty in (Model(), onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))):
        assert compare(original, empty).failures
    bad = copy_of(new)
    bad.graph.node.extend([*bad.graph.node])  # every tensor is written twice
    assert compare(original, bad).failures


def test_many_failures_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    original, new = pair()
    bad = copy_of(new)
    for n in bad.graph.node:
        n.doc_string = "changed"
    found = compare(original, bad).failures
    monkeypatch.setattr(structure, "MOST", 1000)
    everything = compare(original, bad).failures
    assert len(everything) > MOST + 1
    assert found == [*everything[:MOST], f"and {len(everything) - MOST} more places differ from the original"]


def test_a_step_that_somebody_else_reads_is_broken() -> None:
    """Integers with another step must not be a graph output."""
    net = zoo.Net(x=zoo.IMAGE)
    a = net.qdq("x", "mid")
    model = net.model(net.conv(a), ("x_q", onnx.TensorProto.UINT8))
    new = copy_of(model)
    for t in new.graph.initializer:
        if t.name == "x_scale":
            value = numpy_helper.to_array(t)
            t.CopyFrom(numpy_helper.from_array(np.asarray(value / 2), t.name))
            before, now = float(value), float(np.asarray(value / 2))
    q = next(n for n in new.graph.node if n.op_type == "QuantizeLinear")
    q.metadata_props.add(key="onnx_ocs.scale_before", value=json.dumps(before))
    q.metadata_props.add(key=NOW, value=json.dumps(now))
    assert any("read outside" in why for why in compare(model, new).failures)
