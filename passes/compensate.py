"""compensate: small branches undo part of what quantization did to each block (NBC).

    y' = y + BLT_b^-1(clip(W BLT_a(x) + c)),        BLT_a(x) = sign(x) log(1 + a |x|)

W is fitted in closed form on calibration samples so that y' comes close to what the float model has there; x is the
block's input, its output before the correction, or both.  Linear compensation ("Quantization without Tears") is the
limit a, b -> 0 and a candidate for every block, as are a mere bias, a diagonal, a grouped, a low-rank and a dense W.
Blocks are fitted one after the other, each on the model that the ones before have already mended, and every choice is
made on samples that the fit has not seen: a block that does not gain there gets no branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnx_ocs.options import option

if TYPE_CHECKING:
    import onnx

    from onnx_ocs.calibration.context import Context
    from onnx_ocs.passmanager import PassResult

__all__ = ["Compensate", "Form"]

Form = Literal["diagonal", "grouped", "low rank", "dense"]


@dataclass(frozen=True)
class Compensate:
    """NBC: small branches undo part of what quantization did.

    The budget is a share of the model's MACs.
    """

    budget: float = option(0.1, "Most extra MACs of all branches.", flag="--nbc-budget", low=0.0, high=32.0)
    forms: tuple[Form, ...] = option(
        ("diagonal", "grouped", "low rank", "dense"),
        "Forms of a branch's weights, besides a bias. Default: all.",
        flag="--nbc-form",
    )
    linear: bool = option(False, "Linear branches only (alpha = beta = 0).", flag="--nbc-linear")

    name: ClassVar[str] = "compensate"
    version: ClassVar[str] = "1"
    panel: ClassVar[str] = "Compensation"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Fit branches and insert them, in place.

        Args:
            model: the model.
            context: calibration samples, and the model before all passes.

        Returns:
            One entry of the report's `compensations` for each block.

        Raises:
            UserError: there are no calibration samples, or the model does not run on them.
        """
        from onnx_ocs.compensation.compensate import compensate

        return compensate(model, context, self.budget, self.forms, self.linear, self)
