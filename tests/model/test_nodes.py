"""Nodes: operator, domain, attributes, and what a report calls them."""

from __future__ import annotations

import pytest
from onnx import helper

from onnx_ocs.model.nodes import attribute, is_op, label


def test_attributes_of_every_kind() -> None:
    n = helper.make_node("X", ["x"], ["y"], axis=-1, alpha=0.5, mode="linear", pads=[1, 0, 2])
    assert attribute(n, "axis") == -1
    assert attribute(n, "alpha") == 0.5
    assert attribute(n, "mode") == b"linear"
    assert attribute(n, "pads") == [1, 0, 2]
    assert attribute(n, "axis", 7) == -1  # what is there wins over the default
    assert attribute(n, "perm") is None
    assert attribute(n, "perm", 7) == 7


@pytest.mark.parametrize(
    ("op", "domain", "standard"),
    [
        ("Conv", "", True),
        ("Conv", "ai.onnx", True),
        ("Conv", "com.microsoft", False),
        ("QuantizeLinear", "com.microsoft", True),
        ("DequantizeLinear", "com.microsoft", True),
        ("QuantizeLinear", "my.own", False),
    ],
)
def test_operators_are_known_by_their_domain(op: str, domain: str, standard: bool) -> None:
    n = helper.make_node(op, ["x"], ["y"], domain=domain)
    assert is_op(n, "Relu", op) is standard
    assert not is_op(n, "Relu")


def test_no_node_is_no_operator() -> None:
    assert not is_op(None, "Conv")


@pytest.mark.parametrize(
    ("name", "outputs", "called"),
    [("first", ["y"], "first"), ("", ["y", "z"], "y"), ("", ["", "z"], "z"), ("", [], "Split")],
)
def test_what_a_node_is_called(name: str, outputs: list[str], called: str) -> None:
    assert label(helper.make_node("Split", ["x"], outputs, name=name)) == called
