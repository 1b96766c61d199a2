"""Why something is not rewritten: one value, and what each code means."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRINCIPLE", "Refusal"]

# Reasons of principle: translation could not help there, or the algebra does not hold.  All others are our limits.
PRINCIPLE = {
    "no_weight_consumer": "no Conv, ConvTranspose, Gemm or MatMul with a constant weight reads it",
    "never_clipped": "no value can leave the quantizer's range, so nothing is clipped",
    "folded_bound": "a ReLU6 was folded into the quantizer: values above its bound never existed",
    "no_outliers": "no channel has outliers on the calibration data, or by the estimate",
    "ratio": "the ratio leaves no copy for this tensor",
    "float8": "not a uniform grid",
    "blocked": "block-wise quantization has no single step along a channel",
    "dynamic_parameters": "scale or zero-point is computed at run time",
    "bad_scale": "the scale is not a positive number",
    "not_dequantized": "no DequantizeLinear with the same parameters reads it",
    "one_sided": "zero_point == qmax: the quantizer has no room above zero, so a copy would hold nothing",
    "mode": "the mode asked for is not exact here",
    "excluded": "left out by the plan",
    "already_translated": "an earlier run has been here: start from the original",
}


@dataclass(frozen=True)
class Refusal:
    """Why something is not rewritten.

    Attributes:
        code: stable identifier, listed in the README.
        message: one sentence with the numbers.
        node: the node that decides.
    """

    code: str
    message: str
    node: str

    def as_dict(self) -> dict[str, str]:
        """The `reason` entry of the report."""
        return {"code": self.code, "message": self.message, "node": self.node}
