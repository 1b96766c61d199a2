"""Which passes a file has been through, and which of them wrote a node."""

from __future__ import annotations

import json

import onnx
import pytest
import zoo
from onnx import helper

from onnx_ocs import api
from onnx_ocs.passes import Split, Translate
from onnx_ocs.records.history import RECORD, history, stamp


def test_a_fresh_model_has_none() -> None:
    assert history(onnx.ModelProto()) == []


def test_what_has_run_is_told_in_order() -> None:
    entries = [{"pass": "translate", "version": "1"}, {"pass": "split", "version": "2"}]
    model = onnx.ModelProto()
    model.metadata_props.add(key="author", value="somebody")
    model.metadata_props.add(key=RECORD, value=json.dumps(entries))
    assert history(model) == entries


@pytest.mark.parametrize(("text", "left"), [("no json", []), ("7", []), ('[1, {"pass": "x"}]', [{"pass": "x"}])])
def test_a_damaged_record_is_no_crash(text: str, left: list[dict[str, str]]) -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key=RECORD, value=text)
    assert history(model) == left


def test_a_node_names_every_pass_once() -> None:
    n = helper.make_node("Relu", ["x"], ["y"])
    for name, version in (("translate", "1"), ("compensate", "2"), ("translate", "1"), ("translate", "2")):
        stamp(n, name, version)
    assert [(p.key, p.value) for p in n.metadata_props] == [("onnx_ocs.pass", "translate 1, compensate 2, translate 2")]


def test_a_rewritten_file_says_what_was_done_with_which_options() -> None:
    model, _ = zoo.build("conv_relu_conv")
    new = api.rewrite(model, passes=[Translate(ratio=0.25, copies=2)], verify=False).model
    (entry,) = history(new)
    assert (entry["pass"], entry["version"]) == ("translate", Translate.version)
    assert entry["options"] | {"ratio": 0.25, "copies": 2, "mode": "auto"} == entry["options"]
    assert history(model) == []
    again = api.rewrite(new, passes=[Split()], verify=False)
    assert not again.changed and history(again.model) == [entry]  # what changes nothing is not noted
