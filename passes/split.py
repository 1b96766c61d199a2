"""split: channels with outliers are halved and duplicated (OCS, Zhao et al. 2019), the baseline of OCS+.

    a_hat = Q(a / 2) + Q(a / 2) = 2 Q(a / 2)

An outlier up to 2 X_clip is no longer clipped, but the channel's step is twice as coarse: its regular values pay for
its outliers, so with many channels split the model gets worse, where `translate` keeps the step.  The channels are
chosen as `translate` chooses them by mass, and cost the same.

Early, the producer's rows are halved by halving their steps; late, its values are, in float.  Will not rewrite what
`translate` would not, and what either of them has rewritten before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnx_ocs.options import option
from onnx_ocs.translation.options import MODE, RATIO, Mode

if TYPE_CHECKING:
    import onnx

    from onnx_ocs.calibration.context import Context
    from onnx_ocs.passmanager import PassResult

__all__ = ["Split"]


@dataclass(frozen=True)
class Split:
    """OCS by halving, the baseline.

    `ratio` is the share of the channels that are split, the same in every tensor.
    """

    ratio: float = option(0.5, RATIO)
    mode: Mode = option("auto", MODE)

    name: ClassVar[str] = "split"
    version: ClassVar[str] = "1"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Split what can be split, in place.

        Args:
            model: the model.
            context: with calibration samples the outliers are measured, without they are estimated.

        Returns:
            One report entry for each quantized activation.
        """
        from onnx_ocs.translation.apply import apply
        from onnx_ocs.translation.selection import Selection

        return apply(model, context, Selection(self.ratio, 1, self.mode, halved=True), self)
