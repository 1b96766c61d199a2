"""What a model costs: multiply-accumulates, parameters, bytes, nodes, integer operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.model.shapes import Shape, infer_shapes
from onnx_ocs.model.sizes import total_size
from onnx_ocs.targets.ort import operators

__all__ = ["Cost", "cost", "layer_macs"]


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Attributes:
        macs: multiply-accumulates of all Conv, ConvTranspose, Gemm and MatMul for one sample; layers whose shapes
            are unknown count 0.
        params: elements of all initializers.
        bytes: size of the serialized model and its side files.
        nodes: nodes of the main graph.
        integer_kernels: layers that onnxruntime runs with integer kernels at ENABLE_ALL; None if it does not load the
            model.
        integer_operators: these, and all other integer operators there.
        transposes: Transposes there.
    """

    macs: int
    params: int
    bytes: int
    nodes: int
    integer_kernels: int | None
    integer_operators: int | None = None
    transposes: int | None = None

    def as_dict(self, suffix: str) -> dict[str, int | None]:
        """The report's entries, such as `macs_before`."""
        return {f"{k}_{suffix}": v for k, v in asdict(self).items()}


def layer_macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates of one node; 0 when unknown or not a layer."""
    if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0

    def dims(t: str) -> list[int] | None:
        shape = shapes.get(t)
        return None if shape is None else [d if isinstance(d, int) else 1 for d in shape]

    x, w, y = dims(node.input[0]), dims(node.input[1]), dims(node.output[0])
    if x is None or w is None or y is None:
        return 0
    if node.op_type == "Conv":
        return int(np.prod(y, dtype=np.int64) * np.prod(w[1:], dtype=np.int64))
    if node.op_type == "ConvTranspose":
        return int(np.prod(x, dtype=np.int64) * np.prod(w[1:], dtype=np.int64))
    inner = x[0 if node.op_type == "Gemm" and attribute(node, "transA", 0) else -1]
    return int(np.prod(y, dtype=np.int64)) * inner


def cost(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]] | None = None, kernels: bool = True) -> Cost:
    """Price a model.

    Args:
        model: the model.
        inputs: concrete input shapes (one sample); symbolic dimensions count as 1 otherwise.
        kernels: whether to ask onnxruntime for the integer operators.
    """
    shapes = infer_shapes(model, inputs)
    run = operators(model) if kernels else None
    return Cost(
        macs=sum(layer_macs(n, shapes) for n in model.graph.node),
        params=sum(int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer),
        bytes=total_size(model),
        nodes=len(model.graph.node),
        integer_kernels=None if run is None else run.layers,
        integer_operators=None if run is None else run.integer,
        transposes=None if run is None else run.transposes,
    )
