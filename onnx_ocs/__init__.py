"""onnx_ocs: a graph-rewriting compiler that gives quantized (QDQ) ONNX models one more bit where it matters."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_ocs.api import PlanOptions, RewriteResult, Target, inspect, plan, rewrite, verify

__all__ = ["PlanOptions", "RewriteResult", "Target", "inspect", "plan", "rewrite", "verify"]


_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  (pathlib costs start-up time)
if not os.path.isdir(os.path.join(_here, "passes")):  # noqa: PTH112, PTH118
    # In a source checkout the passes lie beside the package; the installed package holds them.
    __path__.append(os.path.dirname(_here))  # noqa: PTH120


def __getattr__(name: str) -> Any:
    """Import the verbs on first use: `--help` must not wait for onnxruntime."""
    if name in __all__:
        from onnx_ocs import api

        return getattr(api, name)
    raise AttributeError(f"module 'onnx_ocs' has no attribute '{name}'")
