"""The passes: one file each, one small class with typed options and one method that returns a result.

A pass of your own is a class with `name`, `version` and `run(model, context)`, as :class:`Pass` says.
"""

from onnx_ocs.calibration.context import Context
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass, PassResult, run_passes

__all__ = ["PASSES", "Compensate", "Context", "Pass", "PassResult", "Split", "Translate", "run_passes"]

PASSES: dict[str, type[Translate] | type[Split] | type[Compensate]] = {
    p.name: p for p in (Translate, Split, Compensate)
}
