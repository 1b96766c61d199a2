"""regrid: quantizers that kill channels of an output are split, left out, or get a grid on which nothing is dead.

    Concat(boxes, scores) -> Q DQ -> output         step 1.25: every score between 0 and 0.6 becomes 0
    Concat(boxes, Q DQ(scores)) -> output           each part on its own grid, or in float
    Q DQ of int8 -> three MatMuls                   stored as uint8: onnxruntime has integer kernels for these
    Mul(x, gamma) -> Q DQ -> MatMul with W          Mul(x, gamma g) and W / g: even channels, in finer steps
    Q DQ of uint8, step s                           of uint16, step s / 257: where that is asked for, and surely pays

A channel of an output is dead where it is constant on the samples and the float model's is not.  The quantizers that
kill it are found, each alone.  A pair behind a Concat gives way to one pair for each part; a pair that floats alone
read is left out; any other gets the step and zero-point of its own values.  Which of these is measured, on samples
that nothing was chosen on: no output may get worse.  Then zero-points move, channels get gains that their neighbours
absorb (SmoothQuant, Xiao et al. 2023, on a finished file), and int8 become uint8, where that pays.

Will not touch, and says why: quantizers whose integers others read, whose saturation stands for an activation, that
layers with integer kernels read and no single grid mends; files that another pass has rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnx_ocs.options import option
from onnx_ocs.planning.options import LATENCY
from onnx_ocs.targets.choice import RUNTIME, Runtime

if TYPE_CHECKING:
    import onnx

    from onnx_ocs.calibration.context import Context
    from onnx_ocs.passmanager import PassResult
    from onnx_ocs.regridding.even import Products
    from onnx_ocs.regridding.lengthen import Shorts

__all__ = ["Regrid"]


@dataclass(frozen=True)
class Regrid:
    """Dead channels of outputs come alive, at no cost."""

    leave_out: bool = option(
        True, "Leave a quantizer out in front of floats, where that is better than another grid."
    )
    zero_points: bool = option(True, "Move zero-points where that pays.")
    unsigned: bool = option(
        True, "Store int8 activations as uint8, the same values, where layers then find integer kernels in onnxruntime."
    )
    gains: bool = option(
        True, "Give channels gains that the layers before and behind them absorb, at no cost, where that pays."
    )
    bits16: bool = option(
        False,
        "Give the activations whose quantizers cost the outputs most 16 bits: where --target takes them (ort, qnn), "
        "the outputs are surely better on unseen samples, and for ort --max-latency holds. qnn is taken to compute "
        "with 16 bits as fast.",
    )
    runtime: Runtime = option("ort", RUNTIME)
    max_latency: float | None = LATENCY  # the planner's, where there is a plan

    name: ClassVar[str] = "regrid"
    version: ClassVar[str] = "1"
    panel: ClassVar[str] = "Grids"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Mend what kills channels of outputs, in place.

        Args:
            model: the model.
            context: calibration samples, and the float model if there is one.

        Returns:
            One entry of the report's `grids` for each quantizer that kills a channel.

        Raises:
            UserError: the model does not run on the samples.
        """
        from onnx_ocs.regridding.run import regrid

        shorts = self._shorts() if self.bits16 else None
        gains, products = self.gains, self._products()
        return regrid(model, context, self, self.leave_out, self.zero_points, self.unsigned, shorts, gains, products)

    def _products(self) -> Products | None:
        """What products in front of quantizers may cost; None where the target runs nothing in float between them."""
        from onnx_ocs.regridding.even import Products
        from onnx_ocs.targets.registry import rules_of
        from onnx_ocs.targets.timing import timing_of

        return Products(self.max_latency, timing_of(self.runtime)) if rules_of(self.runtime).floats else None

    def _shorts(self) -> Shorts:
        """What quantizers of 16 bits may be like on the target."""
        from onnx_ocs.regridding.lengthen import Shorts
        from onnx_ocs.targets.registry import rules_of

        rules = rules_of(self.runtime)
        return Shorts(rules.activations, None if rules.short_as_fast else self.max_latency)
