"""Files whose layers are integer operators: said in one line, or converted to QDQ where the user asks for it."""

from __future__ import annotations

import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.qoperator.convert import convert
from onnx_ocs.qoperator.recognise import counted_operators, dynamic_operators, integer_operators
from onnx_ocs.verification.converted import check_converted

__all__ = ["CONVERT", "check_operators", "converted"]

CONVERT = "--convert-qoperator"


def check_operators(model: onnx.ModelProto) -> list[str]:
    """Refuse a model whose layers are integer operators; a note for one of which some are.

    Raises:
        UserError: no layer reads a DequantizeLinear, and integer operators take their place.
    """
    integer, dynamic = integer_operators(model), dynamic_operators(model)
    if not integer and not dynamic:
        return []
    told = counted_operators([*integer, *dynamic])
    if _reads_dequantized(Graph(model)):
        more = f"{CONVERT} converts those with an exact QDQ form" if not dynamic else "ranges of some are dynamic"
        return [f"some layers are integer operators ({told}), which are left as they are: {more}"]
    if dynamic:
        raise UserError(
            f"the model is quantized dynamically ({told}): its ranges are computed at run time, so there is none to "
            "mend: quantize it statically, with calibration data, to the QDQ format"
        )
    raise UserError(
        f"the model's layers are QOperator operators ({told}), not layers between DequantizeLinear and QuantizeLinear: "
        f"convert them with {CONVERT}, or quantize with QuantFormat.QDQ"
    )


def _reads_dequantized(graph: Graph) -> bool:
    """Whether a layer's first input is a dequantized activation."""
    for n in graph.nodes:
        source = graph.producer.get(n.input[0]) if is_layer(n) else None
        if is_op(source, "DequantizeLinear") and source is not None and not graph.is_constant(source.output[0]):
            return True
    return False


def converted(model: onnx.ModelProto, samples: Samples) -> tuple[onnx.ModelProto, list[str]]:
    """A model with its integer operators converted to QDQ and proven, and what was done.

    Args:
        model: the model; not changed.
        samples: what the proof feeds.

    Returns:
        The model itself, without a note, where it has no integer operator.

    Raises:
        UserError: an operator has no exact QDQ form, or onnxruntime does not agree that it is one.
    """
    found = integer_operators(model)
    if not found:
        return model, []
    new = convert(model)
    failures = check_converted(model, new, samples)
    if failures:
        raise UserError(
            f"{CONVERT}: the converted model is not what the original is ({failures[0]}): quantize with QuantFormat.QDQ"
        )
    return new, [f"{counted_operators(found)}: converted to QDQ, operator by operator the same in onnxruntime"]
