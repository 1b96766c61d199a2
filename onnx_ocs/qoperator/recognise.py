"""Which layers of a file are integer operators, statically or dynamically quantized, and what to say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx
from onnx import NodeProto

from onnx_ocs.model.nodes import QDQ_DOMAINS

__all__ = ["DYNAMIC", "counted_operators", "dynamic_operators", "integer_operators", "is_integer_operator"]

INTEGER = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QAttention", "QEmbedLayerNormalization")
DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
LAYERS = ("Conv", "MatMul", "Gemm", "Attention", "LSTM")


def is_integer_operator(node: NodeProto) -> bool:
    """Whether a node computes with integers itself: QLinear..., ConvInteger and their like."""
    return node.domain in QDQ_DOMAINS and (node.op_type.startswith("QLinear") or node.op_type in INTEGER)


def integer_operators(model: onnx.ModelProto) -> list[NodeProto]:
    """The integer operators of the main graph, in order."""
    return [n for n in model.graph.node if is_integer_operator(n)]


def dynamic_operators(model: onnx.ModelProto) -> list[NodeProto]:
    """The nodes that compute ranges at run time."""
    return [n for n in model.graph.node if n.domain in QDQ_DOMAINS and n.op_type in DYNAMIC]


def counted_operators(nodes: Iterable[NodeProto]) -> str:
    """How many of which, such as "12 QLinearConv, 1 QGemm"; layers first."""
    found = Counter(n.op_type for n in nodes)
    order = sorted(found.items(), key=lambda f: (not any(k in f[0] for k in LAYERS), -f[1], f[0]))
    return ", ".join(f"{n} {op}" for op, n in order)
