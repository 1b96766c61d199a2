"""What OpenVINO's CPU plugin demands.

Sources: "Low precision transformations" and "Quantized models compute and restrictions" (docs.openvino.ai): Q and DQ
become FakeQuantize, which is split again; activations are 8 bits, signed or not, with one step a tensor on the fast
path, weights signed and symmetric, and whatever is not quantized runs in float.  What it computes was tried with
openvino 2026.4.1 (`tests/targets/test_openvino.py` runs it where it is installed):

- A Concat in front of a signed quantizer in front of a layer gives other numbers than onnxruntime's (27 dB).  Unsigned
  ones are right, and so is a Concat of integers.  So late copies of signed activations are stored without a sign, or
  joined behind their quantizers; where a Clip holds the bounds there are none.
- A Concat in front of a quantizer with a step for each channel does not load: it moves the quantizer in front of the
  Concat, with all its steps for each part.  So these are joined behind their quantizers, too.
- Channels that are no multiple of 8 take up to 1.9 times as long as their multiply-accumulates say.
"""

from __future__ import annotations

from onnx_ocs.targets.rules import Rules

__all__ = ["RULES"]

RULES = Rules("openvino", weights=frozenset({"int8", "uint8", "int4", "uint4"}), per_channel=True, weight_zero=False,
              signed_late=False, channel_late=False, align=8)  # fmt: skip
