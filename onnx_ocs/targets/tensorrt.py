"""What TensorRT's explicit quantization demands.

Sources: "Working with quantized types" and "Explicit quantization" (docs.nvidia.com/deeplearning/tensorrt): the scheme
is symmetric, "quantized values centered around zero", in signed int8 (weights also in int4); a step for each channel is
for weights; Q and DQ say where precision changes, and what stands between DQ and Q runs in float.  The ONNX parser
(github.com/onnx/onnx-tensorrt, `onnxOpImporters.cpp`, QuantDequantLinearHelper) refuses zero points other than 0, and
DequantizeLinear of int32: biases are float.  Int8 kernels take channels in groups of 4, the fastest in groups of 32
(formats CHW4 and CHW32).
"""

from __future__ import annotations

from onnx_ocs.targets.rules import Rules

__all__ = ["RULES"]

RULES = Rules("tensorrt", activations=frozenset({"int8"}), weights=frozenset({"int8", "int4"}), biases=frozenset(),
              zero_points=frozenset({0}), align=32)  # fmt: skip
