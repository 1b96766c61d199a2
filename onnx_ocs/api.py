"""The public functions and types."""

from onnx_ocs.calibration.judging import Judging
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verbs.calibrate import calibrate, merge
from onnx_ocs.verbs.inspect import inspect
from onnx_ocs.verbs.plan import plan
from onnx_ocs.verbs.rewrite import RewriteResult, rewrite
from onnx_ocs.verbs.verify import verify

__all__ = [
    "Judging", "PlanOptions", "RewriteResult", "Target", "calibrate", "inspect", "merge", "plan", "rewrite", "verify",
]  # fmt: skip
