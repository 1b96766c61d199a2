"""translate: clipped outliers live on in extra channels (OCS+).

    a_hat = Q(a) + Q(relu(a - X_clip)) + ... + Q(relu(a - n * X_clip))       (OCS+, eq. 6)

is exactly the quantizer with the same step and the upper bound (n + 1) * (qmax - zero_point), and the readers add the
copies up by themselves when their weight is repeated along the input channels (eq. 10).  With n = 1 a b-bit
activation carries b + 1 bits.

Will not rewrite, and says why: tensors that no Conv/ConvTranspose/Gemm/MatMul with a constant weight reads; tensors
whose values cannot leave the quantizer's range; a ReLU6 folded into Q; float8, block-wise and run-time parameters;
what an earlier run has rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnx_ocs.options import option
from onnx_ocs.targets.choice import RUNTIME, Runtime
from onnx_ocs.translation.options import ALIGN, COPIES, MODE, RATIO, Mode

if TYPE_CHECKING:  # the command line reads the options of all passes: what does the work is imported when it is done
    import onnx

    from onnx_ocs.calibration.context import Context
    from onnx_ocs.passmanager import PassResult
    from onnx_ocs.planning.plan import Plan
    from onnx_ocs.translation.selection import Selection

__all__ = ["Translate"]


@dataclass(frozen=True)
class Translate:
    """OCS+: clipped outliers live on in extra channels.

    Without a plan every tensor gets the same share of copies; with a `plan`, the other options are not used.
    """

    ratio: float = option(0.5, RATIO)
    copies: int = option(1, COPIES)
    mode: Mode = option("auto", MODE)
    align: int = option(1, ALIGN)
    runtime: Runtime = option("ort", RUNTIME)
    plan: Plan | None = None

    name: ClassVar[str] = "translate"
    version: ClassVar[str] = "1"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Translate what can be translated, in place.

        Args:
            model: the model.
            context: with calibration samples the outliers are measured, without they are estimated.

        Returns:
            One report entry for each quantized activation.
        """
        from onnx_ocs.planning.apply import apply_plan
        from onnx_ocs.records.history import rewritten
        from onnx_ocs.targets.registry import rules_of
        from onnx_ocs.translation.apply import apply

        signed = "uint8" not in rules_of(self.runtime).activations
        if self.plan is None or rewritten(model):
            return apply(model, context, self.selection, self, signed)
        return apply_plan(model, self.plan, self, context.bounded, signed, context.original)

    @property
    def selection(self) -> Selection:
        """Which channels are widened where there is no plan."""
        from onnx_ocs.translation.reach import Reaching

        return Reaching(self.ratio, self.copies, self.mode, align=self.align, runtime=self.runtime)
