"""Files of integer operators: refused in one line that says what to do, or converted, proven and rewritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import feeds
import numpy as np
import onnx
import pytest
import zoo
from integer_nets import IntegerNet, every_operator, integer_sums
from onnx import helper

import onnx_ocs
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Translate
from onnx_ocs.verbs import qoperator
from onnx_ocs.verbs.qoperator import check_operators, converted

PASSES = [Translate(ratio=1.0, copies=2, mode="late")]


def clipping() -> onnx.ModelProto:
    """Two QLinearConv between one QuantizeLinear and one DequantizeLinear, the range in between far too small."""
    n = IntegerNet()
    gx, gh, gy = n.grid(6 / 255), n.grid(0.6 / 255, 0), n.grid(3 / 255)
    x = n.op("QuantizeLinear", ["x", *gx])
    x = n.op("QLinearConv", [x, *gx, *n.weight(12, 3, 3, 3), *gh], pads=[1] * 4)
    x = n.op("QLinearConv", [x, *gh, *n.weight(10, 12, 3, 3), *gy], pads=[1] * 4)
    x = n.op("Flatten", [n.op("GlobalAveragePool", [n.op("DequantizeLinear", [x, *gy])])])
    return n.model(x, ["N", 10])


@pytest.mark.parametrize("verb", [onnx_ocs.inspect, onnx_ocs.rewrite])
def test_said_in_one_line(verb: Callable[..., Any]) -> None:
    """The fault: no layer was seen, and the quality read as perfect."""
    model = clipping()
    with pytest.raises(UserError, match="QOperator operators \\(2 QLinearConv\\)") as e:
        verb(model, calib=feeds.inputs(model, 4))
    assert "--convert-qoperator" in str(e.value) and "QuantFormat.QDQ" in str(e.value) and "\n" not in str(e.value)


def test_dynamic_files_are_named_as_such() -> None:
    for convert in (False, True):
        with pytest.raises(UserError, match=r"quantized dynamically \(.*DynamicQuantizeLinear|at run time"):
            onnx_ocs.inspect(integer_sums(static=False), convert_qoperator=convert)
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")], "g", [], []
    )
    with pytest.raises(UserError, match="quantized dynamically \\(1 DynamicQuantizeMatMul\\)"):
        check_operators(helper.make_model(graph))


def test_some_layers_are_integer_operators() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("conv_relu_conv")[0])
    assert check_operators(model) == []
    model.graph.node.append(helper.make_node("QLinearAdd", [""] * 8, ["z"], domain="com.microsoft"))
    (note,) = check_operators(model)
    assert "some layers are integer operators (1 QLinearAdd)" in note and "--convert-qoperator" in note


def test_converted_and_rewritten() -> None:
    model = clipping()
    before = model.SerializeToString(deterministic=True)
    calib = feeds.inputs(model, 16)
    found = onnx_ocs.rewrite(model, calib=calib, passes=PASSES, convert_qoperator=True)
    assert model.SerializeToString(deterministic=True) == before
    assert found.changed and found.verification is not None and found.verification.verdict == "PASSED"
    q = found.report["quality"]
    assert q["sqnr_after_db"] > q["sqnr_before_db"] + 2 and q["sqnr_before_db"] < 10
    assert "2 QLinearConv: converted to QDQ, operator by operator the same in onnxruntime" in found.report["notes"]
    report = onnx_ocs.verify(model, found.model, convert_qoperator=True)
    assert report["verification"]["verdict"] == "PASSED"
    inspected = onnx_ocs.inspect(model, convert_qoperator=True)
    assert [r["tensor"] for r in inspected["regions"]] == [r["tensor"] for r in found.report["regions"]]


def test_every_operator_is_read_afterwards() -> None:
    report = onnx_ocs.inspect(every_operator(), convert_qoperator=True)
    assert len(report["regions"]) == 12 and report["cost"]["macs_before"] > 0


def test_where_nothing_is_rewritten_the_converted_file_is_written(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    onnx.save(clipping(), tmp_path / "i.onnx")
    done = onnx_ocs.rewrite(tmp_path / "i.onnx", out, passes=[Translate(ratio=0.0)], convert_qoperator=True)
    assert not done.changed and any(n.op_type == "Conv" for n in onnx.load(out).graph.node)
    assert "nothing was rewritten: the output is the converted input" in done.report["notes"]


def test_a_conversion_that_is_not_proven_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model, real = clipping(), qoperator.convert

    def broken(m: onnx.ModelProto) -> onnx.ModelProto:
        new = real(m)
        scale = next(t for t in new.graph.initializer if t.name == "c5")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.1), "c5"))
        return new

    monkeypatch.setattr(qoperator, "convert", broken)
    with pytest.raises(UserError, match="the converted model is not what the original is"):
        onnx_ocs.inspect(model, convert_qoperator=True)


def test_other_files_are_not_touched() -> None:
    model, _ = zoo.build("conv_relu_conv")
    from onnx_ocs.verbs.common import proof_samples

    assert converted(model, proof_samples(model, None, 0)) == (model, [])
    same = onnx_ocs.inspect(model, convert_qoperator=True), onnx_ocs.inspect(model)
    assert same[0] == same[1]


def test_command_line(run: Any, tmp_path: Path) -> None:
    onnx.save(clipping(), tmp_path / "i.onnx")
    code, _, err = run("rewrite", "i.onnx", "o.onnx")
    assert code == 1 and err.count("\n") == 1 and not (tmp_path / "o.onnx").exists()
    code, out, err = run("rewrite", "i.onnx", "o.onnx", "--convert-qoperator")
    assert (code, err) == (0, "") and "2 QLinearConv: converted to QDQ" in out
    code, out, _ = run("verify", "i.onnx", "o.onnx", "--convert-qoperator", "-q")
    assert code == 0 and out.startswith("PASSED")
