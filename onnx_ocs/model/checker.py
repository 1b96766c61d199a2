"""What onnx's own checks have against a model, and what they may raise."""

from __future__ import annotations

import onnx
from google.protobuf.message import Error as ProtobufError

from onnx_ocs.errors import CPP_ERRORS, first_line

__all__ = ["CHECK_ERRORS", "complaint"]

CHECK_ERRORS: tuple[type[Exception], ...] = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    ProtobufError,  # models above 2 GB among them
    OSError,
    *CPP_ERRORS,
)


def complaint(model: onnx.ModelProto, full: bool, most: int = 300) -> str | None:
    """What onnx.checker has against a model, in one line.

    Args:
        model: the model.
        full: whether shapes are inferred, too.
        most: characters of the line.

    Returns:
        The complaint; None where there is none.
    """
    try:
        onnx.checker.check_model(model, full_check=full)
    except CHECK_ERRORS as e:
        return first_line(e, most)
    return None
