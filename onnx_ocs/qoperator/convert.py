"""Convert a file in the QOperator format to QDQ, where each operator has an exact form (`onnx_ocs.qoperator.forms`)."""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.model.protobuf import drop_value_info
from onnx_ocs.qoperator.build import Builder, NoForm
from onnx_ocs.qoperator.forms import FORMS, INTEGER_SUMS, integer_sum
from onnx_ocs.qoperator.recognise import is_integer_operator

__all__ = ["convert"]


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which Q, DQ and float operators stand for the integer operators.

    Args:
        model: the model; not changed.

    Returns:
        The copy.  Whoever uses it proves it (`onnx_ocs.verification.converted`).

    Raises:
        UserError: an operator has no exact form.
    """
    graph = Graph(model)
    b, taken = Builder(graph), set[int]()
    for n in graph.nodes:
        if id(n) in taken:
            continue
        if not is_integer_operator(n):
            b.nodes.append(NodeProto.FromString(n.SerializeToString()))
            continue
        try:
            if n.op_type in INTEGER_SUMS:
                taken |= {id(t) for t in integer_sum(b, n)}
            elif n.op_type in FORMS:
                FORMS[n.op_type](b, n)
            else:
                raise NoForm("it is none of the operators that have one")
        except NoForm as e:
            raise UserError(
                f"--convert-qoperator: {n.op_type} '{label(n)}' has no exact QDQ form ({e}): "
                "quantize the float model to the QDQ format (QuantFormat.QDQ)"
            ) from None
    return _assembled(model, b)


def _assembled(model: onnx.ModelProto, b: Builder) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.node[:]
    new.graph.node.extend(b.nodes)
    new.graph.initializer.extend(b.added)
    written = {o for n in b.nodes for o in n.output}
    drop_value_info(new.graph, lambda name: name not in written)
    if b.contrib and not any(o.domain == "com.microsoft" for o in new.opset_import):
        new.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return new
