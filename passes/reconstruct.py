"""reconstruct: fit the quantized weights, their scales and biases again, in closed form.

    minimise  || (W_f X_f + b_f) - (W X_q + b) ||^2  +  lambda || W - W_0 ||^2      W, b on their grids

X_f is what the layer reads in the float model, X_q what the quantized network, fitted again up to there, delivers
(asymmetric calibration, as in GPTAQ, arXiv 2504.02692); the rounding is GPTQ's (arXiv 2210.17323) with coordinate
descent.  Graph, types and ranges stay what they are: only other integers stand in the file.  What does not show at the
model's outputs, on samples that no fit has seen, is taken back.

A weight that several layers read is fitted once, on what all of them see.

Will not fit, and says why: block-wise and float8 weights; weights that somebody else reads otherwise; layers whose
counterpart in the float model is not found; layers that too few samples reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from onnx_ocs.options import option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import onnx

    from onnx_ocs.calibration.context import Context
    from onnx_ocs.passmanager import PassResult

__all__ = ["Reconstruct"]


@dataclass(frozen=True)
class Reconstruct:
    """Quantized weights, their scales and biases are fitted again, at no cost at run time.

    `weights` is for Python only: a function that gives, for a feed, how much each sample counts, (samples,), or each
    sample and position, (samples, positions); all numbers are 0 or more.  It takes the place of a mask.
    """

    mask: str | None = option(
        None, "The input that says which positions count, where it is not found by itself.", metavar="INPUT"
    )
    refine: str | None = option(
        None,
        "Train weights, biases and steps with gradients afterwards: so many steps (400), or so long (5m). "
        "Needs torch (extra: refine).",
        metavar="STEPS|MINUTES",
    )

    weights: Callable[[Mapping[str, np.ndarray[Any, Any]]], np.ndarray[Any, Any] | None] | None = None

    name: ClassVar[str] = "reconstruct"
    version: ClassVar[str] = "1"
    panel: ClassVar[str] = "Reconstruction"

    def __post_init__(self) -> None:
        """Say at once that a refinement cannot be done, not behind the work of other passes.

        Raises:
            UserError: neither steps nor a time, or torch is missing.
        """
        if self.refine is not None:
            from onnx_ocs.reconstruction.train import check_torch, parse_refine

            parse_refine(self.refine)
            check_torch()

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Fit what can be fitted, in place.

        Args:
            model: the model.
            context: calibration samples, the float model if there is one, and the model before all passes.

        Returns:
            One entry of the report's `reconstructions` for each layer with a quantized weight.

        Raises:
            UserError: there are no calibration samples, or the model does not run on them.
        """
        from onnx_ocs.reconstruction.run import reconstruct

        return reconstruct(model, context, self.mask, self.weights, self.refine, self)
