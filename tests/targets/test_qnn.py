"""QNN: 16-bit activations are as good as 8-bit ones; each operator stands between DQ and Q."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_ocs.model.graph import Graph
from onnx_ocs.targets.qnn import RULES
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.targets.rules import violations

DATA = Path(__file__).resolve().parents[1] / "data"


def test_a_file_made_for_it_keeps_its_rules() -> None:
    graph = Graph(onnx.load(DATA / "ort_cnn_l17_qnnu16u8.onnx"))
    assert violations(graph, RULES) == []
    assert {v.rule for v in violations(graph, rules_of("generic-int8"))} >= {"activation type", "constant type"}


def test_operators_without_quantizers_break_them() -> None:
    found = violations(Graph(onnx.load(DATA / "brevitas_cnn_leg_w4a4.onnx")), RULES)
    assert "a GlobalAveragePool runs in float" in {v.what for v in found}
