"""Which runtime a file is rewritten for: the names, and the option.  Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from onnx_ocs.options import Option

__all__ = ["RUNTIME", "Runtime"]

Runtime = Literal["ort", "openvino", "tensorrt", "qnn", "generic-int8"]
RUNTIME = Option(
    "The runtime that the file is for; nothing is made that it does not allow. ort: onnxruntime on a CPU; openvino: "
    "its CPU plugin; tensorrt: explicit quantization; qnn: onnxruntime's QNN provider; generic-int8: hardware that "
    "has no float operators at all.",
    flag="--target",
    panel="Translation",
)
