"""Integers that are stored without a sign now: written on the QuantizeLinear, as what it wrote in the original."""

from __future__ import annotations

import onnx

from onnx_ocs.records.metadata import set_entry

__all__ = ["UNSIGNED", "read_unsigned", "record_unsigned"]

UNSIGNED = "onnx_ocs.unsigned"  # metadata key


def record_unsigned(node: onnx.NodeProto) -> None:
    """Say of a QuantizeLinear that its int8 have become uint8, the zero-point moved along."""
    set_entry(node, UNSIGNED, str(node.output[0]))


def read_unsigned(model: onnx.ModelProto) -> set[str]:
    """What the QuantizeLinear nodes wrote in the original whose integers have become unsigned."""
    return {p.value for n in model.graph.node for p in n.metadata_props if p.key == UNSIGNED}
