"""What hardware demands that has integers only.

Source: "LiteRT 8-bit quantization specification" (ai.google.dev/edge/litert/models/quantization_spec), written for
those who build such hardware: activations int8 with one step and one zero point a tensor, weights int8 with zero point
0 and one step or one for each output channel, biases int32.  uint8 activations are the same with another zero point.
Every operator reads and writes integers; an activation function is part of the operator in front of it.  So there is no
place for copies made or folded back in float, nor for branches: early copies, steps and weights are what remains.
"""

from __future__ import annotations

from onnx_ocs.targets.rules import Rules

__all__ = ["RULES"]

RULES = Rules("generic-int8", weights=frozenset({"int8"}), floats=False)
