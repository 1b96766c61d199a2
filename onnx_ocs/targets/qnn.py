"""What onnxruntime's QNN provider demands (Qualcomm's HTP, which computes with integers).

Sources: "QNN execution provider" (onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html): the HTP backend
runs quantized models, in which each operator stands between DQ and Q with an 8- or 16-bit type; what does not leaves
the accelerator.  Operators by type: "HTP operator definition supplement" (docs.qualcomm.com, 80-63442-10), with
activations of 8 and 16 bits, weights of 8 (4 for some layers), a step for each output channel of weights only, and
those symmetric.  Activations of 16 bits with weights of 8 have operators of their own there; that they are as
fast as 8 bits is taken for granted, not measured: nothing here can run it.  Its tensors are
stored in blocks of 32 channels.
"""

from __future__ import annotations

from onnx_ocs.targets.rules import Rules

__all__ = ["RULES"]

RULES = Rules("qnn", activations=frozenset({"int8", "uint8", "int16", "uint16"}),
              weights=frozenset({"int8", "uint8", "int16", "uint16", "int4"}), weight_zero=False, floats=False,
              short_as_fast=True, align=32)  # fmt: skip
