"""Shapes of all tensors, by onnx shape inference on a skeleton of the model.

The skeleton has no weights, and operators of com.microsoft stand as what their shapes are like.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from onnx_ocs.model.checker import CHECK_ERRORS
from onnx_ocs.model.order import topological
from onnx_ocs.model.tensors import as_input, inlined

__all__ = ["Shape", "infer_shapes"]

_LOG = logging.getLogger("onnx_ocs.model")
Shape = tuple[int | str | None, ...]
KEPT_ELEMENTS = 64  # constants up to this size are kept: they may be the shape input of a Reshape
SAME_SHAPE = frozenset(
    ["Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish"]
)  # contrib operators whose output is like their input


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value or (0 if d.HasField("dim_value") else d.dim_param or None) for d in value.type.tensor_type.shape.dim
    )


def _skeleton(
    model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]] | None, nodes: Sequence[onnx.NodeProto]
) -> onnx.ModelProto:
    g = model.graph
    new = onnx.ModelProto(ir_version=model.ir_version)
    new.functions.extend(model.functions)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    new.opset_import.extend(o for o in model.opset_import if o.domain not in ("", "ai.onnx"))
    new.opset_import.append(helper.make_opsetid("", opset))
    new.graph.name = "skeleton"
    names = {t.name for t in g.initializer}
    for i in g.input:
        if i.name not in names:
            new.graph.input.append(i)
            if inputs and i.name in inputs:
                new.graph.input[-1].type.tensor_type.shape.CopyFrom(
                    helper.make_tensor_type_proto(1, list(inputs[i.name])).tensor_type.shape
                )
    for o in g.output:
        value = onnx.ValueInfoProto(name=o.name)
        value.type.tensor_type.elem_type = o.type.tensor_type.elem_type
        new.graph.output.append(value)
    for t in g.initializer:
        if math.prod(t.dims) <= KEPT_ELEMENTS:
            new.graph.initializer.append(inlined(t))
        else:
            as_input(new.graph, t)
    new.graph.node.extend(nodes)
    for n in new.graph.node:
        if n.domain != "com.microsoft":
            continue
        if n.op_type in ("QuantizeLinear", "DequantizeLinear"):
            n.domain = ""
        elif n.op_type in SAME_SHAPE:
            n.domain, n.op_type = "", "Identity"
            del n.attribute[:]
            del n.input[1:]
    return new


def infer_shapes(
    model: onnx.ModelProto,
    inputs: Mapping[str, Sequence[int]] | None = None,
    nodes: Sequence[onnx.NodeProto] | None = None,
) -> dict[str, Shape]:
    """Shapes of the main graph's tensors, as far as they can be inferred.

    Args:
        model: the model; not changed.
        inputs: concrete shapes of graph inputs, to replace symbolic ones.
        nodes: the main graph's nodes in topological order, where that is known.

    Returns:
        Tensor name -> dims (int, symbol, or None when unknown).
    """
    try:
        skeleton = _skeleton(model, inputs, topological(model.graph.node) if nodes is None else nodes)
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except CHECK_ERRORS as e:  # a model that shape inference does not like may still run
        _LOG.debug("shape inference failed: %s", e)
        inferred = model
    stored: dict[str, Shape] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shapes: dict[str, Shape] = {}
    known = () if inputs else model.graph.value_info
    for value in (
        *model.graph.input,
        *model.graph.output,
        *known,
        *inferred.graph.value_info,
        *inferred.graph.output,
        *inferred.graph.input,
    ):
        name = value.name
        if name and name not in stored and (shape := _shape(value)) is not None:
            shapes[name] = shape
    return shapes | stored
