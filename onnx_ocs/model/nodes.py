"""Nodes: what they are, what they are called, their attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, helper

__all__ = ["ONNX_DOMAINS", "QDQ_DOMAINS", "RANDOM", "Array", "attribute", "is_op", "label"]

Array = np.ndarray[Any, Any]


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute, or the default when it is absent."""
    for a in node.attribute:
        if a.name == name:
            plain = a.type == AttributeProto.INT and not a.ref_attr_name  # the most, read without many questions
            return a.i if plain else helper.get_attribute_value(a)
    return default


ONNX_DOMAINS = ("", "ai.onnx")
QDQ_DOMAINS = ("", "ai.onnx", "com.microsoft")
RANDOM = ("Random", "Multinomial", "Bernoulli")  # what operators that draw numbers begin with


def is_op(node: NodeProto | None, *ops: str) -> bool:
    """Whether the node is one of these standard operators (Q and DQ also in domain com.microsoft)."""
    if node is None or (op := node.op_type) not in ops:
        return False
    return node.domain in (QDQ_DOMAINS if op in ("QuantizeLinear", "DequantizeLinear") else ONNX_DOMAINS)


def label(node: NodeProto) -> str:
    """What a report calls a node: its name, or its first output's when it has none."""
    return str(node.name or next((o for o in node.output if o), node.op_type))
