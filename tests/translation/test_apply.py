"""A selection applied to a whole model: once, with an entry for everything, and stamped by the pass that did it."""

from __future__ import annotations

import onnx
import pytest
import zoo

from onnx_ocs.calibration.context import Context
from onnx_ocs.passes import Translate, run_passes
from onnx_ocs.translation.apply import apply
from onnx_ocs.translation.selection import Selection


def copied(name: str) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(zoo.build(name)[0])
    return new


def test_all_that_was_edited_carries_the_passs_stamp() -> None:
    model = copied("residual")
    old = {n.SerializeToString() for n in model.graph.node}
    result = apply(model, Context(), Selection(0.5, 1, "auto"), Translate())
    assert result.changed
    onnx.checker.check_model(model, full_check=True)
    for n in model.graph.node:
        stamps = [p.value for p in n.metadata_props if p.key == "onnx_ocs.pass"]
        assert stamps == ([] if n.SerializeToString() in old else ["translate 1"]), n.name


def test_every_activation_has_an_entry() -> None:
    model = copied("residual")
    result = apply(model, Context(), Selection(0.5, 1, "auto"), Translate())
    found = {e["tensor"]: (e["status"], e["mode"], sum(e["copies"])) for e in result.regions}
    assert found.keys() == {"x", "relu1", "conv2", "relu2"}
    assert found["relu1"] == ("applied", "early", 4) and found["relu2"] == ("applied", "late", 4)
    assert found["conv2"][0] == "refused"


@pytest.mark.parametrize("selection", [Selection(0.0, 1, "auto"), Selection(0.01, 1, "late")])
def test_where_nothing_is_chosen_nothing_is_edited(selection: Selection) -> None:
    model = copied("conv_relu_conv")
    before = model.SerializeToString()
    result = apply(model, Context(), selection, Translate())
    assert not result.changed and model.SerializeToString() == before
    assert {e["tensor"]: e["reason"]["code"] for e in result.regions}["relu1"] == "ratio"


def test_what_was_widened_before_is_left_alone() -> None:
    new, _ = run_passes(copied("conv_relu_conv"), [Translate()], Context())
    before = new.SerializeToString()
    result = apply(new, Context(), Selection(1.0, 3, "late"), Translate())
    assert not result.changed and new.SerializeToString() == before
    assert {e["reason"]["code"] for e in result.regions} == {"already_translated"}
    silent = apply(new, Context(again=True), Selection(1.0, 3, "late"), Translate())
    assert not silent.changed and silent.regions == []  # nobody reads the second run's report
