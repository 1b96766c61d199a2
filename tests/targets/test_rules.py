"""Rules of targets: what breaks them, and that rewritten files break no more (by a checker of the tests' own)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import target_rules
from zoo import Net, Style, image

import onnx_ocs
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.targets.rules import Rules, violations

DATA = Path(__file__).resolve().parents[1] / "data"
FILES = sorted(DATA.glob("*.onnx"))
STRICT = ("tensorrt", "qnn", "generic-int8")


def chain(floats: bool = False, **style: Any) -> onnx.ModelProto:
    """Conv, ReLU and Conv between quantizers; perhaps with a sigmoid and a product in float."""
    n, x = image(Style(bias="int32", **style))
    a = n.conv(x)
    a = n.op("Mul", a, n.op("Sigmoid", a)) if floats else n.op("Relu", a)
    return n.model(n.qdq(n.conv(n.qdq(a)), "mid"))


def rules_broken(model: onnx.ModelProto, rules: Rules) -> set[str]:
    return {v.rule for v in violations(Graph(model), rules)}


def test_which_targets_take_16_bits() -> None:
    fast = {n: rules_of(n).short_as_fast for n in ("ort", "qnn", "openvino", "tensorrt", "generic-int8")}  # type: ignore[arg-type]
    takes = {n: rules_of(n).shorts for n in fast}  # type: ignore[arg-type]
    assert takes["ort"] == takes["qnn"] == {"int16", "uint16"}
    assert not takes["openvino"] | takes["tensorrt"] | takes["generic-int8"]
    assert [n for n, f in fast.items() if f] == ["qnn"]


def test_what_breaks_each_rule() -> None:
    model = chain()
    assert rules_broken(model, rules_of("generic-int8")) == set() == rules_broken(model, Rules("all"))
    assert rules_broken(model, rules_of("tensorrt")) == {"activation type", "bias type", "zero point"}
    assert rules_broken(chain(floats=True), rules_of("qnn")) == {"float"}
    assert rules_broken(chain(weight="uint8"), rules_of("generic-int8")) == {"constant type"}
    assert rules_broken(chain(weight="int4", opset=21), rules_of("generic-int8")) == {"constant type"}
    n, x = image(Style(bias="int32"))
    wide = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)), axis=1)))
    assert "per channel" in rules_broken(wide, rules_of("tensorrt"))


def test_a_violation_names_the_first_node_and_counts() -> None:
    found = violations(Graph(chain(floats=True)), rules_of("generic-int8"))
    ops = {v.what: v for v in found}
    assert ops["a Mul runs in float"].count == 1 and ops["a Mul runs in float"].node
    assert "a Relu runs in float" not in ops


def test_what_moves_integers_or_shapes_is_no_float() -> None:
    n = Net(Style(bias="int32"), x=(4, 6, 6))
    a = n.qdq("x")
    model = n.model(n.qdq(n.op("MaxPool", n.qdq(n.op("Relu", n.conv(a))), kernel_shape=[2, 2]), "mid"))
    assert rules_broken(model, rules_of("generic-int8")) == set()


@pytest.mark.parametrize(("target", "path"), [(t, p) for k, t in enumerate(STRICT) for p in FILES[k::4]], ids=str)
def test_rewritten_files_break_no_rule_that_the_original_keeps(target: Any, path: Path) -> None:
    model = onnx.load(path)
    new = onnx_ocs.rewrite(model, passes=[Translate(0.5, runtime=target)], verify=False).model
    known, now = target_rules.broken(model, target), target_rules.broken(new, target)
    assert not {k: n for k, n in now.items() if n > known[k]}


def test_the_checker_of_the_tests_sees_float_copies() -> None:
    """Late copies and fold-backs are what a rewrite without a target makes."""
    model = onnx.load(DATA / "ort_cnn_l13_u8s8pc.onnx")
    assert not target_rules.broken(model, "generic-int8")
    new = onnx_ocs.rewrite(model, passes=[Translate(0.5)], verify=False).model
    assert {"Gather", "Concat"} & target_rules.broken(new, "generic-int8").keys()
